"""Runner of cells into a results file: `python -m benchmarks.extrapolation.runner SETS OUT --suite ...`.

    SETS/<set>/                folders made by benchmarks.extrapolation.sample_sets
    OUT/results.jsonl          one line per finished cell
    OUT/draws/<cell>.npz       its bootstrap replicates, for paired differences
    OUT/work/<cell>/           checkpoints of the cell that is running

Cells that are in the results file, made from the same settings and data, are not run again. A killed cell continues
from its last checkpoint. `--plan` lists the cells in their order with tokens and estimates, and runs nothing.
`--minutes 9` begins no cell that would not end in time; `--jobs 3` runs three at a time.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.arguments import existing_folder, run_main, unknown
from benchmarks.extrapolation import mlflow_log
from benchmarks.extrapolation.ablations import ranker_without, windows_of
from benchmarks.extrapolation.cells import FULL, SMALL, SUITES, Cell, Size, in_order, suite
from benchmarks.extrapolation.comparators import ComparatorRanker
from benchmarks.extrapolation.evaluation import EvalSet, Evaluation
from benchmarks.extrapolation.jobs import Queue, run_in_workers
from benchmarks.extrapolation.oracle import logits_of, truth_of
from benchmarks.extrapolation.plan import Clock, Data, Planned, plan
from benchmarks.extrapolation.sample_sets import ABOUT
from benchmarks.extrapolation.trees import tree_logits
from longreel.contracts.argument_types import at_least, number_between
from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.model.data.encodings import Encodings
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import CachedLogits, score_rows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import CONFIG, WEIGHTS
from longreel.model.training.device import select_device
from longreel.model.training.progress import StepStats
from longreel.model.training.train import TrainResult, train

SIZES = {"full": FULL, "small": SMALL}
RESULTS = "results.jsonl"
say = Console(stderr=True, highlight=False).print


def maker(cell: Cell) -> Callable[..., Ranker]:
    """What builds the cell's model."""
    if cell.reader != "stca":
        return partial(ComparatorRanker, cell.reader, match=cell.match)
    return partial(ranker_without, cell.without) if cell.without else Ranker


class Runner:
    """Runs planned cells and keeps what they found."""

    def __init__(self, data: Data, out: Path, size: Size) -> None:
        self.data, self.out, self.size = data, out, size
        out.mkdir(parents=True, exist_ok=True)

    def finished(self) -> dict[str, str]:
        """Keys of the cells in the results file, and what they were made from; a half-written line is no result."""
        return {row["key"]: row["fingerprint"] for row in read_results(self.out)}

    def todo(self, planned: list[Planned]) -> list[Planned]:
        """What is not finished yet."""
        finished = self.finished()
        todo = [cell_plan for cell_plan in planned if finished.get(cell_plan.cell.key) != cell_plan.fingerprint]
        for key in finished:  # whose work was not tidied up where a process was killed between the two
            if key not in {cell_plan.cell.key for cell_plan in todo}:
                shutil.rmtree(self.out / "work" / key, ignore_errors=True)
        return todo

    def compute(self, planned: Planned) -> dict[str, Any]:
        """Train, score and evaluate one cell; its line. Replicates are saved, the line is not."""
        cell, began = planned.cell, time.monotonic()
        rows = self.data.rows(cell.set, cell.change, "test")
        eval_set = EvalSet.of(rows, self.data.rows(cell.set, cell.change, "train"), planned.sets.tasks)
        training: dict[str, Any] = {}
        if cell.reader == "oracle":
            truth = logits_of(truth_of(planned.sets, rows, planned.sets.tasks))
            evaluation = eval_set.evaluate(lambda _: truth, self.size.eval_windows)
        elif cell.reader == "trees":
            trained = self.data.rows(cell.set, cell.change, "train")
            at = partial(tree_logits, trained, rows, planned.sets.tasks, cell.seed)
            evaluation = eval_set.evaluate(at, self.size.eval_windows)
        else:
            training, evaluation = self._train_and_score(planned, rows, eval_set)
        gc.collect()  # graphs hold one another
        torch.cuda.empty_cache()  # the next cell's process may be another one on the same card
        evaluation.save_draws(draws_path(self.out, cell.key))
        line = {"key": cell.key, "fingerprint": planned.fingerprint, "cell": asdict(cell)} | training
        line |= {"windows": planned.windows, "training_flops": planned.flops}
        return line | {"total_seconds": time.monotonic() - began, "rows": evaluation.rows}

    def keep(self, line: dict[str, Any]) -> None:
        """Append a cell's line; only then its checkpoints are worth nothing."""
        append_line(self.out / RESULTS, line)
        shutil.rmtree(self.out / "work" / line["key"], ignore_errors=True)
        mlflow_log.log(line, self.out)
        last = next(row for row in reversed(line["rows"]) if row["slice"] == "all")
        say(f"    {line['key']}: AUC {last['auc'][0]:.4f} at {last['window']:,} ({line['total_seconds']:.0f} s)")

    def run(
        self, planned: list[Planned], minutes: float | None = None, jobs: int = 1, device: str = "cpu", began: float = 0
    ) -> list[Planned]:
        """Run what is not finished, in order, `jobs` cells at a time, and begin none that would not end in `minutes`
        after `began`; returns the cells whose process died.
        """
        todo, clock = self.todo(planned), Clock(device, jobs, read_results(self.out))
        deadline = None if minutes is None else (began or time.monotonic()) + 60 * minutes
        queue = Queue(todo, clock.seconds, deadline)
        say(f"{len(planned) - len(todo)} of {len(planned)} cells are finished")

        def started(cell_plan: Planned) -> None:
            left = sum(map(clock.seconds, [cell_plan, *queue.waiting])) / jobs / 60
            done = 1 - (len(queue.waiting) + 1) / len(todo)
            tokens = f"{cell_plan.tokens:,} tokens, about {clock.seconds(cell_plan):.0f} s"
            bar = "█" * round(30 * done)
            say(f"[{bar:30}] {cell_plan.cell.key}: {tokens}; about {left:.0f} min for all that is left")

        def finished(_: Planned, line: dict[str, Any]) -> None:
            line |= {"jobs": jobs, "device_type": device}
            self.keep(line)
            clock.learn(line)

        lost: list[Planned] = []
        if jobs == 1:
            while (cell_plan := queue.take()) is not None:
                started(cell_plan)
                finished(cell_plan, self.compute(cell_plan))
        else:
            size = json.dumps(asdict(self.size))
            lost = run_in_workers(queue, jobs, [str(self.data.folder), str(self.out), size, device], started, finished)
        if queue.waiting:
            seconds = sum(map(clock.seconds, queue.waiting)) / jobs
            say(f"{len(queue.waiting)} cells are left, about {seconds / 60:.0f} min: run again to go on")
        for cell_plan in lost:
            say(f"{cell_plan.cell.key}: its process died; run again to go on, with fewer --jobs if memory ran out")
        return lost

    def _train_and_score(
        self, planned: Planned, rows: SampleRows, eval_set: EvalSet
    ) -> tuple[dict[str, Any], Evaluation]:
        cell, config = planned.cell, planned.config
        work = self.out / "work" / cell.key
        last_step: deque[StepStats] = deque(maxlen=1)
        result = train(
            config,
            planned.sets.lake,
            [planned.sets.train],
            work / "steps",
            work / "model",
            on_step=last_step.append,
            make_ranker=maker(cell),
            make_windows=windows_of(**cell.windows),
        )
        device = select_device(config.training.device)
        description = json.loads((work / "model" / CONFIG).read_text())
        encodings = Encodings.from_dict(description["encodings"])
        ranker = maker(cell)(config.model, config.tasks, config.log_schema, encodings)
        ranker.load_state_dict(load_file(work / "model" / WEIGHTS))
        ranker.to(device).eval()
        scorer, began = WindowScorer(ranker, rows, device), time.monotonic()
        evaluation = eval_set.evaluate(scorer, self.size.eval_windows)
        return _line_fields(result, config, ranker, device, time.monotonic() - began, last_step), evaluation


class WindowScorer:
    """Logits at increasing windows; a request that has no more events keeps those of the window before."""

    def __init__(self, ranker: Ranker, rows: SampleRows, device: torch.device) -> None:
        self.ranker, self.rows, self.device = ranker, rows, device
        self.cached: CachedLogits | None = None

    def __call__(self, window: int) -> NDArray[np.float32]:
        """[targets, tasks]."""
        logits = score_rows(self.ranker, self.rows, window, self.device, self.cached)
        self.cached = CachedLogits(window, logits)
        return logits


def _line_fields(
    result: TrainResult,
    config: Config,
    ranker: Ranker,
    device: torch.device,
    scoring_seconds: float,
    last_step: deque[StepStats],
) -> dict[str, Any]:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    tables = sum(p.numel() for p in ranker.table_parameters())
    return {
        "config": config.to_dict(),
        "training_tokens": result.history_tokens + result.targets,
        "training_seconds": result.seconds,
        "tokens_per_s": last_step[0].tokens_per_s if last_step else None,
        "data_wait_share": last_step[0].data_wait_share if last_step else None,
        "scoring_seconds": scoring_seconds,
        "steps": result.steps,
        "model_digest": result.model_digest,  # the same for the same seed, on one device
        "final_loss": result.final_loss,
        "curve": [[step, round(loss, 4)] for step, loss in result.curve],
        "parameters": sum(p.numel() for p in ranker.parameters()),
        "table_parameters": tables,
        "device": card,
    }


def draws_path(out: Path, key: str) -> Path:
    """Where a cell's replicates lie."""
    return out / "draws" / f"{key.replace('/', '--')}.npz"


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one line, on the disk before this returns."""
    whole = path.read_bytes() if path.exists() else b""
    with path.open("ab") as stream:
        if whole and not whole.endswith(b"\n"):  # a process was killed while it wrote: its half line stands alone
            stream.write(b"\n")
        stream.write(json.dumps(value).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_results(out: Path) -> Iterator[dict[str, Any]]:
    """The newest line of every cell; lines that are not whole are passed over."""
    newest: dict[str, dict[str, Any]] = {}
    path = out / RESULTS
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        newest[row["key"]] = row
    return iter(newest.values())


def print_plan(planned: list[Planned], finished: dict[str, str], clock: Clock) -> None:
    """The cells in the order in which they run, their training tokens, and what they and all before them take."""
    total = 0.0
    for cell_plan in planned:
        done = finished.get(cell_plan.cell.key) == cell_plan.fingerprint
        total += 0 if done else clock.seconds(cell_plan) / clock.jobs
        when = "finished" if done else f"{clock.seconds(cell_plan):6,.0f} s, all {total / 60:6,.1f} min"
        drawn = cell_plan.windows.get("drawn_mean", 0)
        work = f"{cell_plan.tokens / 1e6:8,.1f} M tokens {cell_plan.flops / 1e15:6.2f} PFLOP"
        print(f"{cell_plan.cell.key:60} {work}  mean window {drawn:8,.0f}  {when}")
    tokens = sum(cell_plan.tokens for cell_plan in planned) / 1e6
    print(
        f"{len(planned)} cells, {tokens:,.1f} M tokens, about {total / 60:,.0f} min to go with {clock.jobs} at a time"
    )


def increasing_windows(text: str) -> tuple[int, ...]:
    """An argparse type: windows such as 512,2048,32768."""
    windows = tuple(map(at_least(16), text.split(",")))
    if list(windows) != sorted(set(windows)):
        raise argparse.ArgumentTypeError(f"expected windows that increase, such as 512,2048,32768, got {text!r}")
    return windows


def parsed() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=existing_folder, help="folder of sample sets")
    parser.add_argument("out", type=Path, help="folder of results")
    parser.add_argument("--set", action="append", required=True, help="name of a set; may be given again")
    parser.add_argument("--suite", action="append", choices=SUITES, help="may be given again; all if not given")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument(
        "--eval-windows",
        type=increasing_windows,
        help="evaluation windows, as 512,2048,32768; the last is the longest trained on",
    )
    parser.add_argument("--batch-requests", type=at_least(1), help="requests of a batch, where histories are short")
    parser.add_argument("--only", action="append", help="run cells whose key holds this text; may be given again")
    parser.add_argument("--jobs", type=at_least(1), default=1, help="cells at a time, one process each")
    minutes = number_between(0, 100_000)
    parser.add_argument("--minutes", type=minutes, help="begin no cell that would not end in this time")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--plan", action="store_true", help="list the cells with their estimates and stop")
    return parser.parse_args()


def main() -> None:
    """Run suites."""
    began, args = time.monotonic(), parsed()
    elsewhere = args.plan and args.device != "auto"  # a plan may be made for a device that is not here
    size, device = SIZES[args.size], args.device if elsewhere else select_device(args.device).type
    if args.eval_windows:
        size = size.with_eval_windows(args.eval_windows)
    if args.batch_requests:
        size = replace(size, requests_per_batch=args.batch_requests)
    names = sorted(path.parent.name for path in args.sets.glob(f"*/{ABOUT}"))
    for name in args.set:
        if name not in names:
            raise unknown(f"--set, of the sample sets in {args.sets}", name, names)
    suites = args.suite or SUITES
    every = [c for s in args.set for name in suites for c in suite(name, s, size, args.seeds)]
    for text in args.only or ():
        if not any(text in cell.key for cell in every):
            raise unknown("--only, a part of a cell's key", text, (part for c in every for part in c.key.split("/")))
    cells = in_order(c for c in every if not args.only or any(text in c.key for text in args.only))
    data, planned = Data(args.sets), []
    for cell in cells:
        try:
            planned.append(plan(cell, size, data, device))
        except LongreelError as error:
            say(f"cannot run {cell.key}: {error}")
    if not planned:
        raise LongreelError("no cell can run; see the lines above")
    runner = Runner(data, args.out, size)
    if args.plan:
        print_plan(planned, runner.finished(), Clock(device, args.jobs, read_results(args.out)))
        return
    if runner.run(planned, args.minutes, args.jobs, device, began):
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
