"""Optimisers of the hashed tables compared: the same steps with each, evaluated on the day after.

    python -m benchmarks.training.table_optimizers HOME --days 4 [--seeds 0 1]

HOME is a home folder with published samples, for example by `longreel init`, `simulate`, `data ingest` and
`data build-samples`.
"""

import argparse
import json
import logging
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

from benchmarks.arguments import existing_home, run_main
from longreel.contracts.argument_types import at_least, number_between
from longreel.contracts.config import Config
from longreel.lake.home import Home
from longreel.model.evaluation.evaluate import evaluate
from longreel.model.training.train import train

RATES = {"adamw": (1e-2, 3e-2), "rowwise_adagrad": (2e-2, 5e-2, 1e-1, 2e-1)}


def trial(home: Home, days: list[date], optimizer: str, rate: float, seed: int) -> dict[str, object]:
    """Train on all days but the last and evaluate on that one."""
    chosen = replace(home.config.training, table_optimizer=optimizer, table_learning_rate=rate, seed=seed, device="cpu")
    config: Config = replace(home.config, training=chosen)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result = train(config, home.lake, days[:-1], Path(folder, "work"), Path(folder, "model"))
        seconds = time.monotonic() - began
        report = evaluate(Path(folder, "model"), home.lake, days[-1], config)
    window = report.windows[-1]
    rows = {task: report.row(task, window) for task in report.tasks}
    return {
        "optimizer": optimizer,
        "rate": rate,
        "seed": seed,
        "steps": result.steps,
        "seconds": seconds,
        "train_loss": result.final_loss,
        "auc": {task: row.auc.value for task, row in rows.items()},
        "log_loss": {task: row.log_loss.value for task, row in rows.items()},
    }


def main() -> None:
    """Run every choice and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=existing_home)
    parser.add_argument("--days", type=at_least(1), default=4, help="days to train on; the next is evaluated on")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0])
    rate = number_between(0, 10, open_low=True)
    parser.add_argument("--rates", type=rate, nargs="+", help="table learning rates, for either optimiser")
    parser.add_argument("--json", type=Path, help="write all results here")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    home = Home(args.home)
    days = list(home.lake.days("samples"))[: args.days + 1]
    results = []
    print(
        "| tables | rate | seed | steps | train loss | " + " | ".join(f"AUC {t}" for t in home.config.tasks) + " | s |"
    )
    print("| --- " * (6 + len(home.config.tasks)) + "|")
    chosen = RATES if args.rates is None else dict.fromkeys(RATES, tuple(args.rates))
    for optimizer, rate in ((name, rate) for name, rates in chosen.items() for rate in rates):
        for seed in args.seeds:
            results.append(trial(home, days, optimizer, rate, seed))
            aucs = " | ".join(f"{value:.4f}" for value in results[-1]["auc"].values())  # type: ignore[attr-defined]
            now = results[-1]
            print(
                f"| {optimizer} | {rate:g} | {seed} | {now['steps']} | {now['train_loss']:.4f} | {aucs} | "
                f"{now['seconds']:.0f} |",
                flush=True,
            )
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    run_main(main)
