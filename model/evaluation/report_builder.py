"""What do these logits say of a model? Lines of a report, per task and slice, each number with its interval."""

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
from longreel.model.evaluation.metrics import Ints, TaskScores, equal_mass_bins, log_sigmoid, metrics_of, user_sums

Mask = NDArray[np.bool_]

HISTORY_BOUNDS = (32, 128, 512, 2_048)  # history lengths that part the users
MOST_SURFACES = 4  # surfaces with a slice of their own, those with the most targets; the others share one
RELIABILITY_BINS = 10
SLICE_METRICS = ("auc", "log_loss")  # whose draws a slice keeps: what gates compare


@dataclass(frozen=True, kw_only=True)
class JudgedDay:
    """The selected part of a day in stored order, without its events: T targets of R requests of U users."""

    labels: NDArray[np.float32]  # [T, tasks]
    user: Ints  # [T] ordinal of the user among the sorted ids
    request: Ints  # [T] ordinal of the request
    surface: Ints  # [T]
    history: Ints  # [U] history events before the user's latest request

    def slices(self) -> dict[str, Mask]:
        """Which targets [T] are in which slice; slices that hold nothing today are there too."""
        length = self.history[self.user]
        found = {ALL_TARGETS: np.ones(len(self.user), bool), "new users": length == 0, "returning users": length > 0}
        bounds = [0, *HISTORY_BOUNDS]
        for low, high in zip(bounds, [*HISTORY_BOUNDS, None], strict=True):
            if high is None:
                found[f"history>={low}"] = length >= low
            else:
                name = f"history<{high}" if low == 0 else f"history {low}-{high - 1}"
                found[name] = (length >= low) & (length < high)
        surfaces, counts = np.unique(self.surface, return_counts=True)
        if len(surfaces) > 1:
            largest = np.sort(surfaces[np.argsort(-counts, kind="stable")][:MOST_SURFACES])
            found |= {f"surface {s}": self.surface == s for s in largest.tolist()}
            if len(surfaces) > MOST_SURFACES:
                found["other surfaces"] = ~np.isin(self.surface, largest)
        return found


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Judges logits of one day with one set of bootstrap replicates."""

    day: JudgedDay
    tasks: tuple[str, ...]
    weights: Counts  # [draws, U]
    interval: float

    def rows(self, logits: NDArray[np.float32], window: int, keep_draws: bool) -> list[MetricRow]:
        """The report's lines for logits [T, tasks] at a window: every task over every slice.

        Draws are kept of slice "all", and of the other slices where `keep_draws` says so.
        """
        slices, made = self.day.slices(), []
        for column, task in enumerate(self.tasks):
            scores = logits[:, column].astype(np.float64)
            order = np.argsort(scores, kind="stable")
            whole = TaskScores(scores[order], self.day.labels[order, column] > 0, self.day.user[order])
            for name, chosen in slices.items():
                kept = METRICS if name == ALL_TARGETS else SLICE_METRICS if keep_draws else ()
                part = whole if name == ALL_TARGETS else whole.where(chosen[order])
                made.append(self._row(part, task, window, name, chosen, kept))
        return made

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
            slice=name,
            users=len(users),
            requests=len(np.unique(self.day.request[chosen])),
            targets=len(scores.labels),
            positives=int(scores.labels.sum()),
            **estimates,
        )

    def reliability(self, logits: NDArray[np.float32]) -> list[ReliabilityBin]:
        """Predicted and observed rates of targets [T, tasks] in bins of equally many, least likely first."""
        made = []
        for column, task in enumerate(self.tasks):
            scores = TaskScores.of(logits[:, column].astype(np.float64), self.day.labels[:, column] > 0, self.day.user)
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
                made.append(
                    ReliabilityBin(
                        task=task, targets=int(part.sum()), predicted=float(chance[part].mean()), observed=observed
                    )
                )
        return made


def window_gains(
    rows: Sequence[MetricRow], windows: tuple[int, ...], reference: int, interval: float
) -> tuple[WindowGain, ...]:
    """What the longest window gives over the reference one, for every task and slice where both are defined."""
    longest, found = windows[-1], {(row.task, row.slice, row.window): row.auc for row in rows}
    if reference == longest:
        return ()
    gains = []
    for task, name, window in found:
        if window != longest:
            continue
        try:
            gain = paired_difference(found[task, name, longest], found[task, name, reference], interval)
        except LongreelError:  # undefined in this slice
            continue
        kept = gain if name == ALL_TARGETS else Estimate(value=gain.value, low=gain.low, high=gain.high)
        gains.append(WindowGain(task=task, slice=name, reference=reference, longest=longest, auc=kept))
    return tuple(gains)


def _estimate(value: float, draws: Floats, interval: float, keep: bool) -> Estimate:
    """A value with its percentile interval; replicates without a value are left out of it, and then none are kept."""
    if not np.isfinite(value):
        return UNDEFINED
    seen = draws[np.isfinite(draws)]
    made = interval_of(value, seen if len(seen) else np.array([value]), interval)
    whole = keep and len(seen) == len(draws)
    return made if whole else Estimate(value=made.value, low=made.low, high=made.high)
