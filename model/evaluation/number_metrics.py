"""Metrics of a task that predicts a number, from sums per user: RMSE, MAE, R2 and calibration.

All are functions of sums over targets, so totals of bootstrap counts give exact replicates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longreel.model.evaluation.bootstrap import Counts, Floats, weighted_totals
from longreel.model.evaluation.metrics import Ints, ratio

# Standard errors of the observed mean. A mean that is nearer to zero has no calibration: the error of the divisor alone
# would move the ratio by a fifth, which is as much as the gates allow.
NEAR_ZERO = 5.0
ROUNDING = 1e-12  # of the sum of squares: less variance is that of equal labels

_TARGETS, _SQUARED_ERROR, _ERROR, _PREDICTED, _LABEL, _CENTRED, _CENTRED_SQUARE = range(7)


@dataclass(frozen=True)
class NumberScores:
    """One task's targets, lowest prediction first: predicted [n], labels [n] and each one's user as an ordinal [n]."""

    predicted: Floats
    labels: Floats
    user: Ints

    def where(self, chosen: NDArray[np.bool_]) -> "NumberScores":
        """Some of the targets: chosen [n] bool in this order; users keep their ordinals."""
        return NumberScores(self.predicted[chosen], self.labels[chosen], self.user[chosen])


def number_sums(scores: NumberScores) -> tuple[Ints, Floats]:
    """What each user adds to the metrics: the users that there are [u] and their sums [u, 7]."""
    users, who = np.unique(scores.user, return_inverse=True)
    error = scores.predicted - scores.labels
    centred = scores.labels - (scores.labels.mean() if len(users) else 0.0)  # a mean far from 0 would hide the variance
    columns = (np.ones(len(error)), error**2, np.abs(error), scores.predicted, scores.labels, centred, centred**2)
    return users, np.stack([np.bincount(who, values, minlength=len(users)) for values in columns], axis=1)


def number_metrics_of(totals: Floats) -> dict[str, Floats]:
    """Metrics of replicates: totals [draws, 7] of `number_sums` -> [draws] by name; nan where one is undefined.

    R2 compares the squared error with that of the replicate's own mean label, and is undefined where labels are equal.
    """
    targets, labels = totals[:, _TARGETS], totals[:, _LABEL]
    variance = totals[:, _CENTRED_SQUARE] - ratio(totals[:, _CENTRED] ** 2, targets)
    variance[variance < ROUNDING * totals[:, _CENTRED_SQUARE]] = 0
    return {
        "rmse": np.sqrt(ratio(totals[:, _SQUARED_ERROR], targets)),
        "mae": ratio(totals[:, _ERROR], targets),
        "r2": 1 - ratio(totals[:, _SQUARED_ERROR], variance),
        "calibration": ratio(np.sign(labels) * totals[:, _PREDICTED], np.abs(labels)),
    }


def number_metrics(scores: NumberScores, weights: Counts) -> tuple[Ints, dict[str, float], dict[str, Floats]]:
    """The users that there are [u], the metrics, and their replicates [draws] for weights [draws, all users].

    A mean label within NEAR_ZERO standard errors of zero has no calibration.
    """
    users, sums = number_sums(scores)
    totals = weighted_totals(weights, users, sums)
    values = {name: float(value[0]) for name, value in number_metrics_of(sums.sum(axis=0)[None]).items()}
    if len(users):
        means = ratio(totals[:, _LABEL], totals[:, _TARGETS])
        if abs(scores.labels.mean()) <= NEAR_ZERO * np.nanstd(means):
            values["calibration"] = float("nan")
    return users, values, number_metrics_of(totals)
