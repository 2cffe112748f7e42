"""Plan of a cell: its exact training tokens, and seconds estimated from them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extrapolation.ablations import windows_of
from benchmarks.extrapolation.cells import WITHOUT_TRAINING, Cell, Size
from benchmarks.extrapolation.changed_sets import changed
from benchmarks.extrapolation.compute import training_flops
from benchmarks.extrapolation.sample_sets import TRUTH, Sets
from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.model.data.reader import TrainingReader
from longreel.model.data.row_groups import read_rows, row_groups
from longreel.model.data.samples import SampleRows
from longreel.model.data.windows import distribution
from longreel.model.training.checkpoint import file_sha256


@dataclass(frozen=True)
class Planned:
    """A cell that can run, its configuration, and what its training will read."""

    cell: Cell
    config: Config
    sets: Sets
    fingerprint: str
    tokens: int  # history events plus targets over all epochs; 0 where nothing is trained
    flops: float  # of the training
    windows: dict[str, Any]  # configured and drawn

    @property
    def steps(self) -> int:
        """About how many batches they make."""
        return -(-self.tokens // self.config.training.batch_tokens)


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


def plan(cell: Cell, size: Size, data: Data, device: str) -> Planned:
    """What a cell will do; batches are cut so that every sampling takes about as many steps."""
    sets = data.sets(cell.set, cell.change)
    config = cell.config(size, sets.tasks, sets.lake.log_schema, device)
    digest = "/".join(sets.lake.require("samples", day).digest for day in (sets.train, sets.test))
    if cell.reader == "oracle" and not (sets.folder / TRUTH).exists():
        raise LongreelError(f"{sets.folder} is no simulated world, so no truth is known")
    if cell.reader == "oracle":
        digest += f"/{file_sha256(sets.folder / TRUTH)}"
    if cell.reader in WITHOUT_TRAINING:
        return Planned(cell, config, sets, cell.fingerprint(config, digest), 0, 0.0, {})
    reader = TrainingReader(
        sets.lake,
        [sets.lake.require("samples", sets.train)],
        sets.tasks,
        config.training,
        make_windows=windows_of(**cell.windows),
    )
    drawn = reader.drawn_windows()
    visible, windows = np.minimum(reader.events, drawn), distribution(reader.windows, drawn.ravel())
    targets = np.tile(reader.targets, config.training.epochs)
    tokens = int(visible.sum() + targets.sum())
    per_request = tokens / max(1, config.training.epochs * reader.num_requests)
    training = replace(config.training, batch_tokens=max(1, round(size.requests_per_batch * per_request)))
    config = replace(config, training=training)
    flops = training_flops(cell.reader, config, visible.ravel(), targets)
    return Planned(cell, config, sets, cell.fingerprint(config, digest), tokens, flops, dict(windows))


# Seconds before anything is measured: a cell's start and evaluation; a step beside its tokens; tokens a second.
# On CUDA these are the prototype's step and the trainer's rate on one H200 (benchmarks/training), others are guesses.
START = {"cuda": 30.0, "cpu": 10.0}
STEP = {"cuda": {"stca": 0.02, "mean": 0.02, "din": 0.1, "sasrec": 0.1, "hstu": 0.1}, "cpu": {}}
RATE = {"cuda": 6e6, "cpu": 5e4}
WITHOUT = {"oracle": 5.0, "trees": 60.0}  # readers that are not trained by steps
BUSY = {"cuda": 0.11, "cpu": 0.5}  # of the machine's time, what one such process takes; seen with 13 on one H200


def expected_seconds(reader: str, tokens: int, steps: int, device: str, jobs: int) -> float:
    """A cell's seconds on `device` (cuda | cpu), where `jobs` cells run at a time."""
    alone = START[device] + WITHOUT.get(reader, 0.0) + steps * STEP[device].get(reader, 0.0) + tokens / RATE[device]
    return alone * max(1.0, jobs * BUSY[device])


class Clock:
    """Estimates that learn: what finished cells took over what was expected of them, by reader where it is known."""

    def __init__(self, device: str, jobs: int, lines: Iterable[dict[str, Any]] = ()) -> None:
        self.device, self.jobs = device, jobs
        self._ratios: dict[str, list[float]] = {}
        for line in lines:
            self.learn(line)

    def learn(self, line: dict[str, Any]) -> None:
        """Take a line of the results file into account, if it was made on such a device with as many jobs."""
        if (line.get("device_type"), line.get("jobs")) == (self.device, self.jobs):
            reader = line["cell"]["reader"]
            tokens, steps = line.get("training_tokens", 0), line.get("steps", 0)
            expected = expected_seconds(reader, tokens, steps, self.device, self.jobs)
            self._ratios.setdefault(reader, []).append(line["total_seconds"] / expected)

    def seconds(self, planned: Planned) -> float:
        """What a cell will take, about."""
        reader = planned.cell.reader
        ratios = self._ratios.get(reader) or [ratio for ratios in self._ratios.values() for ratio in ratios] or [1.0]
        return float(np.median(ratios)) * expected_seconds(
            reader, planned.tokens, planned.steps, self.device, self.jobs
        )
