"""What an evaluation says of a model: metrics with intervals, per task, window and slice, on one named data set."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from contracts.errors import LongreelError
from contracts.lake import digest_of

METRICS = ("auc", "gauc", "log_loss", "calibration")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric's value and its user-bootstrap interval; None where it is undefined (one class only, no targets).

    `draws` are the bootstrap replicates. Two reports with the same data digest, bootstrap seed and number of draws
    resampled the same users in the same order, so the difference of their draws is a paired interval.
    """

    value: float | None
    low: float | None
    high: float | None
    draws: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One line of the report: a task at an evaluation window, over one slice of the users."""

    task: str
    window: int  # history events visible to a request, at most
    slice: str  # "all", or what the slice holds, e.g. "history<32"
    users: int
    requests: int
    targets: int
    positives: int
    auc: Estimate
    gauc: Estimate  # impression-weighted mean of per-user AUC, over users with both classes
    log_loss: Estimate  # natural log, mean over targets
    calibration: Estimate  # mean prediction over observed rate


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """One model judged on one day of samples."""

    date: str
    model_digest: str
    data_digest: str  # the samples partition's digest, with what was selected of it
    config_digest: str
    tasks: tuple[str, ...]
    windows: tuple[int, ...]
    training_mean_window: int
    bootstrap_seed: int
    bootstrap_draws: int
    interval: float
    longest_history: int  # behaviours before the latest request of any user, as seen by it
    rows: tuple[MetricRow, ...]
    latency_ms: float | None = None  # median time of scoring one request at the longest window
    latency_shape: str = ""  # e.g. "2,048 events x 128 candidates"
    peak_memory_mib: float | None = None
    device: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def row(self, task: str, window: int, slice: str = "all") -> MetricRow:
        """The line of a task, window and slice.

        Raises:
            LongreelError: the report has no such line.
        """
        for row in self.rows:
            if (row.task, row.window, row.slice) == (task, window, slice):
                return row
        raise LongreelError(f"the report of {self.date} has no line for {task} at window {window}, slice {slice}")

    def to_json(self) -> str:
        """The report as it is stored."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "EvaluationReport":
        """Read a stored report.

        Raises:
            LongreelError: the text is not a report.
        """
        try:
            values = json.loads(text)
            rows = []
            for row in values.pop("rows"):
                for name in METRICS:
                    row[name] = Estimate(**row[name] | {"draws": tuple(row[name]["draws"])})
                rows.append(MetricRow(**row))
            for name in ("tasks", "windows"):
                values[name] = tuple(values[name])
            return EvaluationReport(rows=tuple(rows), **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LongreelError(f"not an evaluation report ({error}); run `longreel evaluate` again") from error

    def digest(self) -> str:
        """Digest of everything but latency and memory, which differ from run to run."""
        values = asdict(self)
        for name in ("latency_ms", "peak_memory_mib"):
            values.pop(name)
        return digest_of(values)
