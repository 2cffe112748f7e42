"""Report builder: metrics of logits by task and slice, each with its bootstrap interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError
from longreel.contracts.report import (
    ALL_TARGETS,
    DRAW_DIGITS,
    IN_LABEL_UNITS,
    METRICS,
    PRIMARY,
    UNDEFINED,
    Estimate,
    MetricRow,
    ReliabilityBin,
    TaskKind,
    WindowGain,
    interval_of,
    paired_gain,
)
from longreel.model.evaluation.bootstrap import Counts, Floats, weighted_totals
from longreel.model.evaluation.eval_set import EvalSet
from longreel.model.evaluation.metrics import (
    Ints,
    TaskScores,
    equal_mass_bins,
    log_sigmoid,
    metrics_of,
    user_sums,
)
from longreel.model.evaluation.number_metrics import NumberScores, number_metrics

RELIABILITY_BINS = 10
SLICE_METRICS = ("auc", "log_loss", "rmse")  # the metrics whose draws a slice keeps: those that gates compare


@dataclass(frozen=True, kw_only=True)
class ReportBuilder:
    """Metric rows of one evaluation set with one set of bootstrap replicates.

    A score is a logit, or of a number task the predicted value in label units. A target whose label is NaN is not
    evaluated in that task. GAUC ranks a user's targets as they are scored at once, by `SampleRows.one_request_a_row`.
    """

    eval_set: EvalSet
    tasks: tuple[str, ...]
    weights: Counts  # [draws, U]
    interval: float
    number_tasks: tuple[str, ...] = ()

    def rows(
        self, scores: NDArray[np.float32], at_once: NDArray[np.float32], window: int, keep_draws: bool
    ) -> list[MetricRow]:
        """The report's rows for scores [T, tasks] at a window, as served and at once: every task over every slice.

        Slice "all" keeps its bootstrap draws; the other slices only with `keep_draws`.
        """
        slices, rows = self.eval_set.slices(), []
        for column, task in enumerate(self.tasks):
            whole, order = self._evaluated(scores, column)
            ranked, ranked_order = self._evaluated(at_once, column)
            for name, mask in slices.items():
                is_whole, chosen = name == ALL_TARGETS, mask[order]
                kept = METRICS[self._kind(task)] if is_whole else SLICE_METRICS if keep_draws else ()
                part = whole if is_whole else whole.where(chosen)
                users, estimates = self._estimates(part, ranked.where(mask[ranked_order]), kept)
                rows.append(
                    MetricRow(
                        task=task,
                        window=window,
                        slice_name=name,
                        users=users,
                        requests=len(np.unique(self.eval_set.request[order[chosen]])),
                        targets=len(part.labels),
                        positives=int(part.labels.sum()) if isinstance(part, TaskScores) else 0,
                        **estimates,
                    )
                )
        return rows

    def _kind(self, task: str) -> TaskKind:
        return "number" if task in self.number_tasks else "binary"

    def _evaluated(self, scores: NDArray[np.float32], column: int) -> tuple[TaskScores | NumberScores, Ints]:
        """A task's targets with a label, lowest score first, and their places in the day."""
        task_scores, labels = scores[:, column].astype(np.float64), self.eval_set.labels[:, column]
        order = np.argsort(task_scores, kind="stable")
        order = order[~np.isnan(labels[order])]
        user = self.eval_set.user[order]
        if self._kind(self.tasks[column]) == "number":
            return NumberScores(task_scores[order], labels[order].astype(np.float64), user), order
        return TaskScores(task_scores[order], labels[order] > 0, user), order

    def _estimates(
        self, scores: TaskScores | NumberScores, at_once: TaskScores | NumberScores, kept: Sequence[str]
    ) -> tuple[int, dict[str, Estimate]]:
        """The number of users that have targets, and the metrics with their intervals; draws of the metrics `kept`."""
        if isinstance(scores, NumberScores):
            users, values, draws = number_metrics(scores, self.weights)
        else:
            assert isinstance(at_once, TaskScores)
            users, sums = user_sums(scores, at_once)
            whole = sums.sum(axis=0)
            values = {metric: float(value[0]) for metric, value in metrics_of(whole[None], whole).items()}
            draws = metrics_of(weighted_totals(self.weights, users, sums), whole)
        estimates = {
            metric: _estimate(value, draws[metric], self.interval, metric in kept, metric in IN_LABEL_UNITS)
            for metric, value in values.items()
        }
        return len(users), estimates

    def reliability(self, scores: NDArray[np.float32]) -> list[ReliabilityBin]:
        """Predicted and observed rates or means of scores [T, tasks] in bins of equally many, lowest first."""
        bins = []
        for column, task in enumerate(self.tasks):
            part, _ = self._evaluated(scores, column)
            predicted = part.predicted if isinstance(part, NumberScores) else np.exp(log_sigmoid(part.logits))
            place = equal_mass_bins(len(part.labels), RELIABILITY_BINS)
            for number in range(RELIABILITY_BINS):
                chosen = place == number
                if not chosen.any():
                    continue
                observed = self._mean(part.labels[chosen], part.user[chosen])
                mean = float(predicted[chosen].mean())
                bins.append(ReliabilityBin(task=task, targets=int(chosen.sum()), predicted=mean, observed=observed))
        return bins

    def _mean(self, labels: NDArray[np.generic], user: Ints) -> Estimate:
        """The mean label of some targets, with its interval."""
        users, who = np.unique(user, return_inverse=True)
        sums = np.stack([np.bincount(who, labels), np.bincount(who)], axis=1).astype(np.float64)
        totals = weighted_totals(self.weights, users, sums)
        means = totals[:, 0] / np.maximum(totals[:, 1], 1)
        return _estimate(float(labels.mean()), means, self.interval, keep=False)


def window_gains(
    rows: Sequence[MetricRow],
    windows: tuple[int, ...],
    reference: int,
    interval: float,
    number_tasks: Sequence[str] = (),
) -> tuple[WindowGain, ...]:
    """The gain of the longest window over the reference window, for every task and slice where both are defined."""
    longest, by_place = windows[-1], {(row.task, row.slice_name, row.window): row for row in rows}
    if reference == longest:
        return ()
    gains = []
    for task, name, window in by_place:
        if window != longest:
            continue
        metric = PRIMARY["number" if task in number_tasks else "binary"]
        long, short = (getattr(by_place[task, name, at], metric) for at in (longest, reference))
        try:
            gain = paired_gain(metric, long, short, interval)
        except LongreelError:  # undefined in this slice
            continue
        kept = gain if name == ALL_TARGETS else Estimate(value=gain.value, low=gain.low, high=gain.high)
        gains.append(WindowGain(task=task, slice_name=name, reference=reference, longest=longest, gain=kept))
    return tuple(gains)


def _estimate(value: float, draws: Floats, interval: float, keep: bool, in_label_units: bool = False) -> Estimate:
    """A value with its percentile interval, without the replicates that have no value; draws are kept if all have.

    Draws in label units keep DRAW_DIGITS significant digits, others as many decimals.
    """
    if not np.isfinite(value):
        return UNDEFINED
    finite = draws[np.isfinite(draws)]
    magnitude = int(np.floor(np.log10(value))) if in_label_units and value > 0 else 0
    estimate = interval_of(value, finite if len(finite) else np.array([value]), interval, DRAW_DIGITS - magnitude)
    is_whole = keep and len(finite) == len(draws)
    return estimate if is_whole else Estimate(value=estimate.value, low=estimate.low, high=estimate.high)
