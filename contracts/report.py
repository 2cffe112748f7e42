"""What an evaluation says of a model: metrics with intervals, per task, window and slice, on one named data set."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from longreel.contracts import serialization
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError

METRICS = ("auc", "gauc", "log_loss", "calibration", "ece")
EVERYBODY = "all"  # the slice that holds every target
DRAW_DIGITS = 8

# What a model's logits are compared with.
IN_MEMORY = "the model in memory when training ended"
ONE_ROW = "one row per target"
ARTEFACT = "the registered artefact"
CHECKS = (IN_MEMORY, ONE_ROW, ARTEFACT)  # of every candidate
PRECISION = "float32"  # where the device scores in half precision


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its user-bootstrap interval; None where it is undefined (one class only, no targets).

    `draws` are the bootstrap replicates. Two reports with the same data digest, bootstrap seed and number of draws
    resampled the same users in the same order, so the difference of their draws is a paired interval.
    """

    value: float | None
    low: float | None
    high: float | None
    draws: tuple[float, ...] = ()


UNDEFINED = Estimate(value=None, low=None, high=None)


def interval_of(value: float, draws: Any, interval: float) -> Estimate:
    """A value with the percentile interval of its draws, which are kept."""
    tail = (1 - interval) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    kept = tuple(np.round(np.asarray(draws, np.float64), DRAW_DIGITS).tolist())
    return Estimate(value=value, low=float(low), high=float(high), draws=kept)


def paired_difference(ours: Estimate, theirs: Estimate, interval: float) -> Estimate:
    """`ours - theirs` with the percentile interval of the paired draws.

    Raises:
        LongreelError: a value is missing, or the numbers of draws differ, so that nothing is paired.
    """
    if ours.value is None or theirs.value is None or not ours.draws or len(ours.draws) != len(theirs.draws):
        raise LongreelError(
            f"cannot pair {len(ours.draws)} bootstrap draws with {len(theirs.draws)}; evaluate both models again"
        )
    return interval_of(ours.value - theirs.value, np.subtract(ours.draws, theirs.draws), interval)


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One line of the report: a task at an evaluation window, over one slice of the targets."""

    task: str
    window: int  # history events visible to a request, at most
    slice: str  # "all", or what the slice holds, e.g. "history<32", "new users", "surface 1"
    users: int
    requests: int
    targets: int
    positives: int
    auc: Estimate
    gauc: Estimate  # impression-weighted mean of per-user AUC, over users with both classes
    log_loss: Estimate  # natural log, mean over targets
    calibration: Estimate  # mean prediction over observed rate
    ece: (
        Estimate  # expected calibration error: mean |prediction - rate| over bins of equal mass; biased upward by noise
    )


@dataclass(frozen=True, kw_only=True)
class WindowGain:
    """What reading the longest window instead of the usual one is worth: a paired difference of AUC."""

    task: str
    slice: str
    usual: int  # the ladder's window nearest to the mean training window
    longest: int
    auc: Estimate


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Targets with like predictions at the longest window: what was predicted, and what share came true."""

    task: str
    targets: int
    predicted: float
    observed: Estimate


@dataclass(frozen=True, kw_only=True)
class ScoringCost:
    """One request of `events` history events and `candidates` targets, scored over and over on a named device."""

    device: str
    events: int
    candidates: int
    latency_ms: float  # median, from packed batch on the host to logits on the host
    latency_low_ms: float  # 10th and 90th percentile of the runs
    latency_high_ms: float
    peak_memory_mib: float  # allocated on a GPU, else resident of the process, while scoring

    @property
    def shape(self) -> str:
        """What was scored, in words."""
        return f"{self.events:,} events x {self.candidates} candidates"


@dataclass(frozen=True, kw_only=True)
class ParityCheck:
    """Two ways to the same logits: how far they lay apart, and how far they may."""

    name: str
    logits: int  # compared
    largest: float  # absolute difference
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether they agree; a difference that is not a number does not."""
        return self.largest <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class DataQuality:
    """What the checkpoint said of the day that the model was judged on."""

    passed: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """One model judged on one day of samples."""

    date: str
    model_digest: str
    data_digest: str  # the samples partition's digest, with what was selected of it
    config_digest: str
    tasks: tuple[str, ...]
    windows: tuple[int, ...]
    slices: tuple[str, ...]  # in the order of the report; each has a row for every task and window
    training_mean_window: int
    bootstrap_seed: int
    bootstrap_draws: int
    interval: float
    longest_history: int  # behaviours before the latest request of any user, as seen by it
    rows: tuple[MetricRow, ...]
    window_gains: tuple[WindowGain, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    scoring: ScoringCost | None = None
    parity: tuple[ParityCheck, ...] = ()
    quality: DataQuality | None = None
    policy_digest: str = ""  # the gate policy that stood when it was made
    code_version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def usual_window(self) -> int:
        """The ladder's window nearest to the mean training window."""
        return min(self.windows, key=lambda w: (abs(w - self.training_mean_window), w))

    def row(self, task: str, window: int, slice: str = EVERYBODY) -> MetricRow:
        """The line of a task, window and slice.

        Raises:
            LongreelError: the report has no such line.
        """
        for row in self.rows:
            if (row.task, row.window, row.slice) == (task, window, slice):
                return row
        raise LongreelError(f"the report of {self.date} has no line for {task} at window {window}, slice {slice}")

    def auc_gain(self, over: "EvaluationReport", task: str, window: int, slice: str = EVERYBODY) -> Estimate:
        """This model's AUC minus another's on the same data, paired; UNDEFINED where one of them has none."""
        try:
            ours, theirs = (report.row(task, window, slice).auc for report in (self, over))
            return paired_difference(ours, theirs, self.interval)
        except LongreelError:
            return UNDEFINED

    def to_json(self) -> str:
        """The report as it is stored: JSON, the draws of an estimate as one string of numbers."""
        return json.dumps(_pack(asdict(self)), indent=1)

    @staticmethod
    def from_json(text: str) -> "EvaluationReport":
        """Read a stored report.

        Raises:
            LongreelError: the text is not a report.
        """
        return serialization.from_json(EvaluationReport, text, "an evaluation report", "model evaluate", _unpack)

    @staticmethod
    def read(path: Path) -> "EvaluationReport":
        """Read a report's file.

        Raises:
            LongreelError: there is no such file, or it is not a report.
        """
        return serialization.read(EvaluationReport.from_json, path, "report", "model evaluate")

    def digest(self) -> str:
        """Digest of what was found, not of how fast: cost and the last bits of parity differ between runs."""
        values = asdict(self)
        for name in ("scoring", "parity"):
            values.pop(name)
        return digest_of(values)


def _pack(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: " ".join(map(repr, v)) if k == "draws" else _pack(v) for k, v in value.items()}
    return [_pack(each) for each in value] if isinstance(value, list | tuple) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: [float(x) for x in v.split()] if k == "draws" else _unpack(v) for k, v in value.items()}
    return [_unpack(each) for each in value] if isinstance(value, list) else value
