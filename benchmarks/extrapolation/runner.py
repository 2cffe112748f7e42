"""Runs cells one after the other into a results file: `python -m benchmarks.extrapolation.runner SETS OUT --suite ...`.

    SETS/<set>/                folders made by benchmarks.extrapolation.sample_sets
    OUT/results.jsonl          one line per finished cell
    OUT/draws/<cell>.npz       its bootstrap replicates, for paired differences
    OUT/work/<cell>/           checkpoints of the cell that is running

Cells that are in the results file, made from the same settings and data, are not run again. A killed cell goes on from
its last checkpoint. `--plan` lists the cells with their training tokens and runs nothing.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.extrapolation import mlflow_log
from benchmarks.extrapolation.cells import FULL, SMALL, SUITES, WITHOUT_TRAINING, Cell, Size, suite
from benchmarks.extrapolation.changed_sets import changed
from benchmarks.extrapolation.comparators import ComparatorRanker
from benchmarks.extrapolation.judge import Judged, Judgement
from benchmarks.extrapolation.oracle import logits_of, truth_of
from benchmarks.extrapolation.sample_sets import TRUTH, Sets
from benchmarks.extrapolation.trees import tree_logits
from contracts.config import Config, TrainingConfig
from contracts.errors import LongreelError
from model.checkpoint import WEIGHTS
from model.ranker import Ranker
from model.reader import read_rows, row_groups
from model.samples import SampleRows
from model.scoring import Known, score_rows
from model.train import StepStats, TrainResult, pick_device, train
from model.windows import WindowSampler, distribution

SIZES = {"full": FULL, "small": SMALL}
RESULTS = "results.jsonl"
say = Console(stderr=True, highlight=False).print


@dataclass(frozen=True)
class Planned:
    """A cell that can run, its configuration, and what its training will read."""

    cell: Cell
    config: Config
    sets: Sets
    fingerprint: str
    tokens: int  # history events plus targets over all epochs; 0 where nothing is trained
    windows: dict[str, Any]  # configured and drawn


class Data:
    """Sample sets, decoded once for all cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sets: dict[tuple[str, str], Sets] = {}
        self._rows: dict[tuple[str, str, str], SampleRows] = {}

    def sets(self, name: str, change: str) -> Sets:
        """A pair of sets, changed where a control asks for it."""
        if (name, change) not in self._sets:
            self._sets[name, change] = changed(Sets.open(self.folder / name), change)
        return self._sets[name, change]

    def rows(self, name: str, change: str, part: str) -> SampleRows:
        """All rows of a set's `train` or `test` part."""
        if (name, change, part) not in self._rows:
            sets = self.sets(name, change)
            groups, _, _ = row_groups(sets.lake, [sets.lake.require("samples", getattr(sets, part))])
            self._rows = {key: rows for key, rows in self._rows.items() if key[:2] == (name, change)}
            self._rows[name, change, part] = read_rows(sets.lake, groups)
        return self._rows[name, change, part]


def training_reads(config: TrainingConfig, events: NDArray[np.int64], targets: int) -> tuple[int, dict[str, Any]]:
    """Tokens of a training over requests that see `events` [R], and its windows, configured and drawn.

    The reader draws the same windows: they are a function of seed, epoch and request.
    """
    sampler, index = WindowSampler(config), np.arange(len(events))
    drawn = [sampler.sample(epoch, index) for epoch in range(config.epochs)]
    tokens = sum(int(np.minimum(events, windows).sum()) + targets for windows in drawn)
    return tokens, distribution(sampler, np.concatenate(drawn))


def plan(cell: Cell, size: Size, data: Data, device: str) -> Planned:
    """What a cell will do; batches are cut so that every sampling takes about as many steps."""
    sets = data.sets(cell.set, cell.change)
    config = cell.config(size, sets.tasks, device)
    digest = "/".join(sets.lake.require("samples", day).digest for day in (sets.train, sets.test))
    if cell.reader == "oracle" and not (sets.folder / TRUTH).exists():
        raise LongreelError(f"{sets.folder} is no simulated world, so no truth is known")
    if cell.reader in WITHOUT_TRAINING:
        return Planned(cell, config, sets, cell.fingerprint(config, digest), 0, {})
    _, events, targets = row_groups(sets.lake, [sets.lake.require("samples", sets.train)])
    tokens, windows = training_reads(config.training, events, int(targets.sum()))
    per_request = tokens / max(1, config.training.epochs * len(events))
    training = replace(config.training, batch_tokens=max(1, round(size.requests_per_batch * per_request)))
    config = replace(config, training=training)
    return Planned(cell, config, sets, cell.fingerprint(config, digest), tokens, windows)


def maker(cell: Cell) -> Callable[..., Ranker]:
    """What builds the cell's model."""
    return Ranker if cell.reader == "stca" else partial(ComparatorRanker, cell.reader, match=cell.match)


class Runner:
    """Runs planned cells and keeps what they found."""

    def __init__(self, data: Data, out: Path, size: Size) -> None:
        self.data, self.out, self.size = data, out, size
        out.mkdir(parents=True, exist_ok=True)

    def finished(self) -> dict[str, str]:
        """Keys of the cells in the results file, and what they were made from; a half-written line is no result."""
        return {row["key"]: row["fingerprint"] for row in read_results(self.out)}

    def run(self, planned: list[Planned]) -> None:
        """Run what is not finished yet."""
        finished = self.finished()
        todo = [each for each in planned if finished.get(each.cell.key) != each.fingerprint]
        for key in finished:  # whose work was not tidied up where a process was killed between the two
            if key not in {each.cell.key for each in todo}:
                shutil.rmtree(self.out / "work" / key, ignore_errors=True)
        total, done, began = max(1, sum(each.tokens for each in todo)), 0, time.monotonic()
        say(f"{len(planned) - len(todo)} of {len(planned)} cells are finished; {total:,} training tokens to go")
        for number, each in enumerate(todo, 1):
            spent = time.monotonic() - began
            left = f"about {spent / done * (total - done) / 60:.0f} min left" if done else "time left unknown"
            bar = "█" * round(30 * done / total)
            say(f"[{bar:30}] {number}/{len(todo)} {each.cell.key}: {each.tokens:,} tokens; {left}")
            self.run_cell(each)
            done += each.tokens

    def run_cell(self, planned: Planned) -> dict[str, Any]:
        """Train, score and judge one cell, and append its line."""
        cell, began = planned.cell, time.monotonic()
        rows = self.data.rows(cell.set, cell.change, "test")
        judged = Judged.of(rows, self.data.rows(cell.set, cell.change, "train"), planned.sets.tasks)
        about: dict[str, Any] = {}
        if cell.reader == "oracle":
            truth = logits_of(truth_of(planned.sets, rows, planned.sets.tasks))
            judgement = judged.judge(lambda _: truth, self.size.ladder)
        elif cell.reader == "trees":
            trained = self.data.rows(cell.set, cell.change, "train")
            at = partial(tree_logits, trained, rows, planned.sets.tasks, cell.seed)
            judgement = judged.judge(at, self.size.ladder)
        else:
            about, judgement = self._train_and_score(planned, rows, judged)
        judgement.save_draws(draws_path(self.out, cell.key))
        line = {"key": cell.key, "fingerprint": planned.fingerprint, "cell": asdict(cell)} | about
        line |= {"windows": planned.windows, "total_seconds": time.monotonic() - began, "rows": judgement.rows}
        append_line(self.out / RESULTS, line)
        shutil.rmtree(self.out / "work" / cell.key, ignore_errors=True)
        mlflow_log.log(line, self.out)
        last = next(row for row in reversed(judgement.rows) if row["slice"] == "all")
        say(f"    {cell.key}: AUC {last['auc'][0]:.4f} at {last['window']:,} ({line['total_seconds']:.0f} s)")
        return line

    def _train_and_score(self, planned: Planned, rows: SampleRows, judged: Judged) -> tuple[dict[str, Any], Judgement]:
        cell, config = planned.cell, planned.config
        work = self.out / "work" / cell.key
        seen: deque[StepStats] = deque(maxlen=1)
        result = train(
            config,
            planned.sets.lake,
            [planned.sets.train],
            work / "steps",
            work / "model",
            on_step=seen.append,
            make_ranker=maker(cell),
        )
        device = pick_device(config.training.device)
        ranker = maker(cell)(config.model, planned.sets.tasks, rows.user_features.shape[1])
        ranker.load_state_dict(load_file(work / "model" / WEIGHTS))
        ranker.to(device).eval()
        scorer, began = Ladder(ranker, rows, device), time.monotonic()
        judgement = judged.judge(scorer, self.size.ladder)
        return _about(result, config, ranker, device, time.monotonic() - began, seen), judgement


class Ladder:
    """Logits at increasing windows; a request that has no more events keeps those of the window before."""

    def __init__(self, ranker: Ranker, rows: SampleRows, device: torch.device) -> None:
        self.ranker, self.rows, self.device = ranker, rows, device
        self.known: Known | None = None

    def __call__(self, window: int) -> NDArray[np.float32]:
        """[targets, tasks]."""
        logits = score_rows(self.ranker, self.rows, window, self.device, self.known)
        self.known = Known(window, logits)
        return logits


def _about(
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
        "scoring_seconds": scoring_seconds,
        "steps": result.steps,
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
    found: dict[str, dict[str, Any]] = {}
    path = out / RESULTS
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["key"]] = row
    return iter(found.values())


def print_plan(planned: list[Planned], finished: dict[str, str]) -> None:
    """The cells and their training tokens."""
    for each in planned:
        done = "finished" if finished.get(each.cell.key) == each.fingerprint else ""
        drawn = each.windows.get("drawn_mean", 0)
        print(f"{each.cell.key:70} {each.tokens / 1e6:10,.1f} M tokens  mean window {drawn:8,.0f}  {done}")
    print(f"{len(planned)} cells, {sum(each.tokens for each in planned) / 1e6:,.1f} M tokens")


def main() -> None:
    """Run suites."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, help="folder of sample sets")
    parser.add_argument("out", type=Path, help="folder of results")
    parser.add_argument("--set", action="append", required=True, help="name of a set; may be given again")
    parser.add_argument("--suite", action="append", choices=SUITES, required=True, help="may be given again")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ladder", help="evaluation windows, as 512,2048,32768; the last is the longest trained on")
    parser.add_argument("--shard", default="1/1", help="run cells i, i + n, .. only: n processes may share a card")
    parser.add_argument("--only", default="", help="run cells whose key holds this text only")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--plan", action="store_true", help="list the cells and stop")
    args = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same result for the same seed
    size = SIZES[args.size]
    if args.ladder:
        ladder = tuple(int(window) for window in args.ladder.split(","))
        size = replace(size, ladder=ladder, training=size.training | {"window_max": ladder[-1]})
    cells = {c.key: c for s in args.set for name in args.suite for c in suite(name, s, size, args.seeds)}
    data, planned = Data(args.sets), []
    for cell in cells.values():
        if args.only not in cell.key:
            continue
        if missing := cell.missing():
            say(f"not available in this version: {cell.key} needs the setting {', '.join(missing)}")
            continue
        try:
            planned.append(plan(cell, size, data, args.device))
        except LongreelError as error:
            say(f"cannot run {cell.key}: {error}")
    runner = Runner(data, args.out, size)
    shard, shards = (int(number) for number in args.shard.split("/"))
    planned = planned[shard - 1 :: shards]
    if args.plan:
        print_plan(planned, runner.finished())
        sys.exit(0)
    runner.run(planned)


if __name__ == "__main__":
    main()
