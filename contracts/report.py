"""Evaluation report: a model's metrics with intervals per task, window and slice, on one day of samples."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from longreel.contracts import serialization
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError

TaskKind = Literal["binary", "number"]
METRICS: dict[TaskKind, tuple[str, ...]] = {
    "binary": ("auc", "gauc", "log_loss", "calibration", "ece"),
    "number": ("rmse", "mae", "r2", "calibration"),
}
IN_LABEL_UNITS = ("rmse", "mae")
TITLES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "calibration": "pred. / obs.",
    "ece": "calib. error",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R2",
}
PRIMARY: dict[TaskKind, str] = {"binary": "auc", "number": "rmse"}  # the metric of gains over windows and models
ALL_TARGETS = "all"  # the slice of all targets
CATEGORY_SLICE = re.compile(r"([a-z][a-z0-9_]*)=(.*)|other ([a-z][a-z0-9_]*)", re.ASCII | re.DOTALL)
DRAW_DIGITS = 8

# Reference logits that the evaluated logits are compared with.
IN_MEMORY = "the model in memory when training ended"
ONE_ROW = "one row per target"
ARTEFACT = "the registered artefact"
CHECKS = (IN_MEMORY, ONE_ROW, ARTEFACT)  # required of every candidate
PRECISION = "float32"  # where the device scores in half precision


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its user-bootstrap interval; None where it is undefined (one class only, no targets).

    `draws` are the bootstrap replicates. Two reports with the same data digest, bootstrap seed and number of draws
    resample the same users in the same order, so the differences of their draws give a paired interval.
    """

    value: float | None
    low: float | None
    high: float | None
    draws: tuple[float, ...] = ()


UNDEFINED = Estimate(value=None, low=None, high=None)


def category_of(slice_name: str) -> tuple[str, str] | None:
    """Field and name of a slice by a category, `device=phone` or `other device`; None for a slice by history."""
    match = CATEGORY_SLICE.fullmatch(slice_name)
    return None if match is None else (match[1] or match[3], "other" if match[3] else match[2])


def slice_groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Slices by the field that they are categories of, in order; under "" those by history."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if name != ALL_TARGETS:
            category = category_of(name)
            groups.setdefault("" if category is None else category[0], []).append(name)
    return groups


def interval_of(value: float, draws: ArrayLike, interval: float, decimals: int = DRAW_DIGITS) -> Estimate:
    """A value with the percentile interval of its draws, and the draws rounded to `decimals`."""
    tail = (1 - interval) / 2
    replicates = np.asarray(draws, np.float64)
    low, high = np.quantile(replicates, [tail, 1 - tail])
    rounded = tuple(np.round(replicates, decimals).tolist())
    return Estimate(value=value, low=float(low), high=float(high), draws=rounded)


def paired_gain(metric: str, ours: Estimate, theirs: Estimate, interval: float) -> Estimate:
    """How much better `ours` is than `theirs`, with the percentile interval of the paired draws.

    A difference, signed so that more is better. Of RMSE, which has the unit of the label, the share by which it is
    lower: 0.01 is 1 % less.

    Raises:
        LongreelError: a value is missing, the numbers of draws differ, or there is no share of an RMSE of 0.
    """
    if ours.value is None or theirs.value is None or not ours.draws or len(ours.draws) != len(theirs.draws):
        raise LongreelError(
            f"cannot pair {len(ours.draws)} bootstrap draws with {len(theirs.draws)}; evaluate both models again"
        )
    if metric == "rmse":
        if min(theirs.value, *theirs.draws) <= 0:
            raise LongreelError("an RMSE of 0 cannot be improved; its label has one value, choose another task")
        draws = 1 - np.divide(ours.draws, theirs.draws)
        return interval_of(1 - ours.value / theirs.value, draws, interval)
    sign = -1 if metric == "log_loss" else 1
    draws = sign * np.subtract(ours.draws, theirs.draws)
    return interval_of(sign * (ours.value - theirs.value), draws, interval)


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One row of the report: a task at an evaluation window, over one slice of the targets that have its label.

    METRICS has the estimates of each kind of task; the others are UNDEFINED.
    """

    task: str
    window: int  # history events visible to a request, at most
    slice_name: str  # "all", or what the slice holds, e.g. "history<32", "new users", "device=phone"
    users: int
    requests: int
    targets: int
    positives: int = 0  # of a binary task
    auc: Estimate = UNDEFINED
    # Impression-weighted mean of per-user AUC, over users with both classes. A user's targets are scored at once, at
    # the time of the first: docs/decisions/0006-gates-look-at-differences.md says why.
    gauc: Estimate = UNDEFINED
    log_loss: Estimate = UNDEFINED  # natural log, mean over targets
    calibration: Estimate = UNDEFINED  # mean prediction over observed rate or mean
    # Expected calibration error: mean |prediction - rate| over bins of equal mass; noise biases it upwards.
    ece: Estimate = UNDEFINED
    rmse: Estimate = UNDEFINED  # root mean square error, in label units
    mae: Estimate = UNDEFINED  # mean absolute error, in label units
    r2: Estimate = UNDEFINED  # 1 - squared error over that of the slice's mean label


@dataclass(frozen=True, kw_only=True)
class WindowGain:
    """How much better a task's primary metric is at the longest than at the reference window, as `paired_gain` says."""

    task: str
    slice_name: str
    reference: int  # the evaluation window nearest to the mean training window
    longest: int
    gain: Estimate


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Targets with similar predictions at the longest window: mean prediction and observed rate or mean."""

    task: str
    targets: int
    predicted: float
    observed: Estimate


@dataclass(frozen=True, kw_only=True)
class ScoringCost:
    """Cost of scoring one request of `events` history events and `candidates` targets on a named device."""

    device: str
    events: int
    candidates: int
    latency_ms: float  # median, from packed batch on the host to logits on the host
    latency_low_ms: float  # 10th and 90th percentile of the runs
    latency_high_ms: float
    peak_memory_mib: float  # allocated on a GPU, else resident of the process, while scoring

    @property
    def shape(self) -> str:
        """The request's size in words."""
        return f"{self.events:,} events x {self.candidates} candidates"


@dataclass(frozen=True, kw_only=True)
class ConsistencyCheck:
    """Two ways to the same logits: how far they lay apart, and how far they may."""

    name: str
    logits: int  # compared
    largest: float  # absolute difference
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.largest <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class DataQuality:
    """Result of the data checkpoint of the evaluated day."""

    passed: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """One model evaluated on one day of samples."""

    date: str
    model_digest: str
    data_digest: str  # of the samples partition and the selection from it
    config_digest: str
    tasks: tuple[str, ...]
    windows: tuple[int, ...]
    slices: tuple[str, ...]  # in report order; each has a row for every task and window
    training_mean_window: int
    bootstrap_seed: int
    bootstrap_draws: int
    interval: float
    longest_history: int  # history events before the latest request of any user, as seen by it
    rows: tuple[MetricRow, ...]
    number_tasks: tuple[str, ...] = ()  # those of `tasks` that predict a number; the others predict a probability
    window_gains: tuple[WindowGain, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    scoring: ScoringCost | None = None
    consistency: tuple[ConsistencyCheck, ...] = ()
    quality: DataQuality | None = None
    policy_digest: str = ""  # of the gate policy in force
    code_version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def reference_window(self) -> int:
        """The evaluation window nearest to the mean training window."""
        return min(self.windows, key=lambda w: (abs(w - self.training_mean_window), w))

    def kind(self, task: str) -> TaskKind:
        """Whether a task predicts a probability or a number."""
        return "number" if task in self.number_tasks else "binary"

    def metrics(self, task: str) -> tuple[str, ...]:
        """The metrics that a task's rows have."""
        return METRICS[self.kind(task)]

    def primary(self, task: str) -> str:
        """The metric of a task's gains."""
        return PRIMARY[self.kind(task)]

    def tasks_by_kind(self) -> dict[TaskKind, tuple[str, ...]]:
        """The tasks of each kind that has some."""
        kinds = {kind: tuple(task for task in self.tasks if self.kind(task) == kind) for kind in METRICS}
        return {kind: tasks for kind, tasks in kinds.items() if tasks}

    @cached_property
    def index(self) -> dict[tuple[str, int, str], MetricRow]:
        """Rows by task, window and slice."""
        return {(row.task, row.window, row.slice_name): row for row in self.rows}

    def row(self, task: str, window: int, part: str = ALL_TARGETS) -> MetricRow:
        """The row of a task and window over the slice `part`.

        Raises:
            LongreelError: the report has no such row.
        """
        try:
            return self.index[task, window, part]
        except KeyError:
            message = f"the report of {self.date} has no row for {task} at window {window}, slice {part}"
            raise LongreelError(message) from None

    def gain(self, over: "EvaluationReport", task: str, window: int, part: str = ALL_TARGETS) -> Estimate:
        """How much better this model's primary metric is than another's on the same data, as `paired_gain` says;
        UNDEFINED where one of them has none."""
        metric = self.primary(task)
        try:
            ours, theirs = (getattr(report.row(task, window, part), metric) for report in (self, over))
            return paired_gain(metric, ours, theirs, self.interval)
        except LongreelError:
            return UNDEFINED

    def to_json(self) -> str:
        """The report as it is stored: JSON, with an estimate's draws as one string of numbers."""
        return json.dumps(_pack(self._values()), indent=1)

    def _values(self) -> dict[str, Any]:
        """Plain nested values; rows have the metrics of their task's kind."""
        values = asdict(self)
        every = {metric for metrics in METRICS.values() for metric in metrics}
        for row in values["rows"]:
            for metric in every.difference(self.metrics(row["task"])):
                del row[metric]
        return values

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
        """Digest of the metrics, without scoring cost and consistency checks, whose numbers differ between runs."""
        values = self._values()
        for name in ("scoring", "consistency"):
            values.pop(name)
        return digest_of(values)


@dataclass(frozen=True, kw_only=True)
class UnevaluatedModel:
    """Stands for a champion's report where it was trained with other definitions than the evaluated day's."""

    model_digest: str
    reason: str

    def to_json(self) -> str:
        """As it is stored in place of a report."""
        return serialization.to_json(self)

    @staticmethod
    def from_json(text: str) -> "UnevaluatedModel | None":
        """Read what stands in place of a report; None where the text is a report."""
        try:
            values = serialization.parse_json(text)
            if not isinstance(values, dict) or set(values) != {"model_digest", "reason"}:
                return None
            return serialization.from_json(UnevaluatedModel, text, "a report", "model evaluate")
        except ValueError:
            return None


def _pack(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: " ".join(map(repr, v)) if k == "draws" else _pack(v) for k, v in value.items()}
    return [_pack(item) for item in value] if isinstance(value, list | tuple) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: [float(x) for x in v.split()] if k == "draws" else _unpack(v) for k, v in value.items()}
    return [_unpack(item) for item in value] if isinstance(value, list) else value
