"""Cost of intervals: seconds and memory of one task at one window over all slices, beside the reference implementation.

python -m benchmarks.gates.bootstrap [--targets 1000000] [--users 100000] [--draws 400]
"""

import argparse
import resource
import time

import numpy as np

from benchmarks.arguments import run_main
from longreel.contracts.argument_types import at_least
from longreel.model.evaluation.bootstrap import bootstrap_weights, weighted_totals
from longreel.model.evaluation.eval_set import EvalSet
from longreel.model.evaluation.metrics import TaskScores, metrics_of, user_sums
from longreel.model.evaluation.report_builder import ReportBuilder


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", type=at_least(1), default=1_000_000)
    parser.add_argument("--users", type=at_least(1), default=100_000)
    parser.add_argument("--draws", type=at_least(1), default=400)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    user = np.sort(rng.integers(0, args.users, args.targets))
    truth = rng.normal(-1.5, 1, args.targets) + rng.normal(0, 0.7, args.users)[user]
    labels = rng.random(args.targets) < 1 / (1 + np.exp(-truth))
    logits = (truth + rng.normal(0, 1, args.targets)).astype(np.float32)[:, None]
    eval_set = EvalSet(
        labels=labels[:, None].astype(np.float32),
        user=user,
        request=np.arange(args.targets) // 8,
        categories={"surface": rng.integers(0, 3, args.targets)},
        history=np.floor(rng.lognormal(4.5, 2, args.users)).astype(np.int64),
    )

    def timed(what: str, run):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        result = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
        print(f"| {what} | {time.perf_counter() - began:.2f} s | {peak:,.0f} MiB |", flush=True)
        return result

    print(f"{args.targets:,} targets of {args.users:,} users, {args.draws} draws\n")
    print("| what | time | resident peak so far |\n| --- | --- | --- |")
    timed("the data", lambda: None)
    weights = timed("drawing the users", lambda: bootstrap_weights(args.users, args.draws, 0))
    builder = ReportBuilder(eval_set=eval_set, tasks=("click",), weights=weights, interval=0.95)
    rows = timed("a task at a window: 5 metrics with intervals, every slice", lambda: builder.rows(logits, 512, True))
    scores = TaskScores.of(logits[:, 0].astype(np.float64), labels, user)
    users, sums = timed("of it: sums per user, one slice", lambda: user_sums(scores))
    totals = timed("of it: replicates, one slice", lambda: weighted_totals(weights, users, sums))
    quick = metrics_of(totals, sums.sum(axis=0))["auc"]
    few = weights[:20]
    exact = timed("the reference implementation: exact AUC, one slice, 20 draws", lambda: scores.exact_auc(few))
    print(
        f"\n{len(rows)} slices. AUC replicates, first order against exact: largest difference "
        f"{np.abs(exact - quick[:20]).max():.1e}, their standard deviation {np.std(quick):.1e}"
    )


if __name__ == "__main__":
    run_main(main)
