"""MLflow metrics of a run: training curves and evaluation reports."""

import re
import time
from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.entities import Metric

from longreel.contracts.report import ALL_TARGETS, EvaluationReport, category_of
from longreel.model.training.progress import StepStats

CURVE_EVERY_S = 1.0  # at most one point of the training curves a second; losses in between are averaged into it
MAX_BATCH = 900  # MLflow takes at most 1,000 metrics a call
MAX_NAME = 80  # characters of a category in a metric's name, of which MLflow takes 250 in all


class TrainingCurves:
    """Training curves (`train/...`): called with every step's stats, writes in batches, at most a point a second."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._losses: list[float] = []
        self._metrics: list[Metric] = []
        self._last_point = self._last_flush = 0.0

    def __call__(self, stats: StepStats) -> None:
        """Add one step's stats."""
        self._losses.append(stats.loss)
        self._latest = stats
        now = time.monotonic()
        if now - self._last_point >= CURVE_EVERY_S:
            self._point()
            if now - self._last_flush >= 5 * CURVE_EVERY_S or len(self._metrics) >= MAX_BATCH:
                self.flush()

    def _point(self) -> None:
        stats, at = self._latest, int(time.time() * 1000)
        values = {
            "loss": sum(self._losses) / len(self._losses),
            "learning_rate": stats.lr,
            "targets_per_s": stats.targets_per_s,
            "tokens_per_s": stats.tokens_per_s,
            "mean_window": stats.mean_window,
            "data_wait_share": stats.data_wait_share,
            "gradient_norm": stats.gradient_norm,
            "peak_memory_mib": stats.peak_memory_mib,
        }
        if stats.flop_utilisation is not None:
            values["flop_utilisation"] = stats.flop_utilisation
        self._metrics += [Metric(f"train/{name}", float(value), at, stats.step) for name, value in values.items()]
        self._losses, self._last_point = [], time.monotonic()

    def flush(self) -> None:
        """Write what is pending."""
        if self._losses:
            self._point()
        log_metrics(self._client, self._run_id, self._metrics)
        self._metrics, self._last_flush = [], time.monotonic()


def log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    """Write metrics, at most MAX_BATCH a call."""
    for start in range(0, len(metrics), MAX_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_BATCH])


def log_gain(client: MlflowClient, run_id: str, report: EvaluationReport, champion: EvaluationReport) -> None:
    """How much better a task's AUC or RMSE is than the champion's on the same data, paired: `gain_by_window/click`,
    with `_low` and `_high`."""
    at, metrics = int(time.time() * 1000), []
    for task in report.tasks:
        for window in report.windows:
            gain = report.gain(champion, task, window)
            ends = {"": gain.value, "_low": gain.low, "_high": gain.high}
            values = {f"gain_by_window/{task}{end}": value for end, value in ends.items() if value is not None}
            metrics += [Metric(name, value, at, window) for name, value in values.items()]
    log_metrics(client, run_id, metrics)


def log_report(client: MlflowClient, run_id: str, report: EvaluationReport) -> None:
    """A report's metrics: `auc_by_window/click` with the window as step, so that it is the chart's axis, `auc/click` at
    the longest window, by which the table of runs sorts and compares, and there `auc_by_slice/click/device/phone` of
    every category."""
    at, longest, metrics = int(time.time() * 1000), report.windows[-1], []
    for row in report.rows:
        if row.slice_name != ALL_TARGETS:
            continue
        for metric in report.metrics(row.task):
            estimate = getattr(row, metric)
            if estimate.value is None:
                continue
            metrics.append(Metric(f"{metric}_by_window/{row.task}", estimate.value, at, row.window))
            if row.window == longest:
                metrics.append(Metric(f"{metric}/{row.task}", estimate.value, at, 0))
    metrics += [Metric(name, value, at, 0) for name, value in _slice_metrics(report)]
    for name in ("latency_ms", "peak_memory_mib") if report.scoring is not None else ():
        metrics.append(Metric(f"scoring/{name}", getattr(report.scoring, name), at, 0))
    log_metrics(client, run_id, metrics)


def _slice_metrics(report: EvaluationReport) -> Iterator[tuple[str, float]]:
    """Name and value of the primary metric of each category at the longest window."""
    taken: set[str] = set()
    for row in report.rows:
        category, metric = category_of(row.slice_name), report.primary(row.task)
        value = getattr(row, metric).value
        if category is None or row.window != report.windows[-1] or value is None:
            continue
        name = plain = f"{metric}_by_slice/{row.task}/{category[0]}/{metric_name(category[1])}"
        number = 1
        while name in taken:  # names that differ in a character that MLflow does not take
            number += 1
            name = f"{plain} {number}"
        taken.add(name)
        yield name, value


def metric_name(text: str) -> str:
    """Text as a part of a metric's name: letters, digits, `_`, `-`, `.` and spaces stay, others become `_`."""
    return re.sub(r"[^\w. -]", "_", text)[:MAX_NAME].strip(". ") or "_"
