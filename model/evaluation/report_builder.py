"""Report builder: metrics of logits by task and slice, each with its bootstrap interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError
from longreel.contracts.report import (
    ALL_TARGETS,
    METRICS,
    UNDEFINED,
    Estimate,
    MetricRow,
    ReliabilityBin,
    WindowGain,
    interval_of,
    paired_difference,
)
from longreel.model.evaluation.bootstrap import Counts, Floats, weighted_totals
from longreel.model.evaluation.eval_set import EvalSet, Mask
from longreel.model.evaluation.metrics import TaskScores, equal_mass_bins, log_sigmoid, metrics_of, user_sums

RELIABILITY_BINS = 10
SLICE_METRICS = ("auc", "log_loss")  # the metrics whose draws a slice keeps: those that gates compare


@dataclass(frozen=True, kw_only=True)
class ReportBuilder:
    """Metric rows of one evaluation set with one set of bootstrap replicates."""

    eval_set: EvalSet
    tasks: tuple[str, ...]
    weights: Counts  # [draws, U]
    interval: float

    def rows(self, logits: NDArray[np.float32], window: int, keep_draws: bool) -> list[MetricRow]:
        """The report's rows for logits [T, tasks] at a window: every task over every slice.

        Slice "all" keeps its bootstrap draws; the other slices only with `keep_draws`.
        """
        slices, rows = self.eval_set.slices(), []
        for column, task in enumerate(self.tasks):
            scores = logits[:, column].astype(np.float64)
            order = np.argsort(scores, kind="stable")
            whole = TaskScores(scores[order], self.eval_set.labels[order, column] > 0, self.eval_set.user[order])
            for name, chosen in slices.items():
                kept = METRICS if name == ALL_TARGETS else SLICE_METRICS if keep_draws else ()
                part = whole if name == ALL_TARGETS else whole.where(chosen[order])
                rows.append(self._row(part, task, window, name, chosen, kept))
        return rows

    def _row(
        self, scores: TaskScores, task: str, window: int, name: str, chosen: Mask, kept: Sequence[str]
    ) -> MetricRow:
        users, sums = user_sums(scores)
        whole = sums.sum(axis=0)
        values = metrics_of(whole[None], whole)
        draws = metrics_of(weighted_totals(self.weights, users, sums), whole)
        estimates = {m: _estimate(float(values[m][0]), draws[m], self.interval, m in kept) for m in METRICS}
        return MetricRow(
            task=task,
            window=window,
            slice_name=name,
            users=len(users),
            requests=len(np.unique(self.eval_set.request[chosen])),
            targets=len(scores.labels),
            positives=int(scores.labels.sum()),
            **estimates,
        )

    def reliability(self, logits: NDArray[np.float32]) -> list[ReliabilityBin]:
        """Predicted and observed rates of targets [T, tasks] in bins of equally many, least likely first."""
        bins = []
        for column, task in enumerate(self.tasks):
            scores = TaskScores.of(
                logits[:, column].astype(np.float64), self.eval_set.labels[:, column] > 0, self.eval_set.user
            )
            place = equal_mass_bins(len(scores.labels), RELIABILITY_BINS)
            chance = np.exp(log_sigmoid(scores.logits))
            for number in range(RELIABILITY_BINS):
                part = place == number
                if not part.any():
                    continue
                users, who = np.unique(scores.user[part], return_inverse=True)
                sums = np.stack([np.bincount(who, scores.labels[part]), np.bincount(who)], axis=1).astype(np.float64)
                totals = weighted_totals(self.weights, users, sums)
                rates = totals[:, 0] / np.maximum(totals[:, 1], 1)
                observed = _estimate(float(scores.labels[part].mean()), rates, self.interval, keep=False)
                bins.append(
                    ReliabilityBin(
                        task=task, targets=int(part.sum()), predicted=float(chance[part].mean()), observed=observed
                    )
                )
        return bins


def window_gains(
    rows: Sequence[MetricRow], windows: tuple[int, ...], reference: int, interval: float
) -> tuple[WindowGain, ...]:
    """The AUC gain of the longest window over the reference window, for every task and slice where both are defined."""
    longest, aucs = windows[-1], {(row.task, row.slice_name, row.window): row.auc for row in rows}
    if reference == longest:
        return ()
    gains = []
    for task, name, window in aucs:
        if window != longest:
            continue
        try:
            gain = paired_difference(aucs[task, name, longest], aucs[task, name, reference], interval)
        except LongreelError:  # undefined in this slice
            continue
        kept = gain if name == ALL_TARGETS else Estimate(value=gain.value, low=gain.low, high=gain.high)
        gains.append(WindowGain(task=task, slice_name=name, reference=reference, longest=longest, auc=kept))
    return tuple(gains)


def _estimate(value: float, draws: Floats, interval: float, keep: bool) -> Estimate:
    """A value with its percentile interval, without the replicates that have no value; draws are kept if all have."""
    if not np.isfinite(value):
        return UNDEFINED
    finite = draws[np.isfinite(draws)]
    estimate = interval_of(value, finite if len(finite) else np.array([value]), interval)
    is_whole = keep and len(finite) == len(draws)
    return estimate if is_whole else Estimate(value=estimate.value, low=estimate.low, high=estimate.high)
