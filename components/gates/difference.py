"""Paired difference of two models' metrics, or of RMSE its relative change: bounds and the sample size to resolve it.

Every comparison uses bootstrap replicates, never two points. Two reports on the same data with the same seed resample
the same users in the same order, so the difference of their draws has the spread of the difference itself. That is far
narrower than the two intervals suggest.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from longreel.contracts.errors import LongreelError
from longreel.contracts.report import Estimate, paired_gain

MAX_FACTOR = 1_000  # times the day's users; a larger required sample is unrealistic
POWER = 0.8  # probability that the required sample resolves a difference of the observed size


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference, signed so that more is better, with its standard deviation over samples of users."""

    value: float
    sd: float
    users: int

    @staticmethod
    def of(metric: str, ours: Estimate, theirs: Estimate, users: int) -> "Difference":
        """How much better `ours` is than `theirs`, as `contracts.report.paired_gain` says.

        The bootstrap of a mean over `users` users is too narrow by sqrt((users - 1) / users), which is corrected.

        Raises:
            LongreelError: as `paired_gain`.
        """
        gap = paired_gain(metric, ours, theirs, 0.95)
        if gap.value is None:
            raise LongreelError("a paired difference has no value; evaluate both models again")
        return Difference(value=gap.value, sd=float(np.std(gap.draws)) * _widening(users), users=users)

    @staticmethod
    def within(estimate: Estimate, interval: float, users: int) -> "Difference | None":
        """A difference that a report stores as an estimate with its interval; None where it is undefined."""
        if estimate.value is None or estimate.low is None or estimate.high is None:
            return None
        sd = (estimate.high - estimate.low) / (2 * NormalDist().inv_cdf((1 + interval) / 2))
        return Difference(value=estimate.value, sd=sd * _widening(users), users=users)

    def low(self, level: float) -> float:
        """One-sided lower bound: the true value lies below it with probability `level` (normal approximation)."""
        return self.value - self.sd * NormalDist().inv_cdf(1 - level)

    def high(self, level: float) -> float:
        """One-sided upper bound."""
        return self.value + self.sd * NormalDist().inv_cdf(1 - level)

    def required_sample_factor(self, limit: float, level: float) -> float | None:
        """How many times the users would put the bound at `level` on the difference's side of `limit`.

        It does so with probability POWER if the true difference is the observed one: the standard deviation shrinks
        with the square root of the users, and the next day's difference has one too. None beyond MAX_FACTOR.
        """
        gap, normal = abs(self.value - limit), NormalDist()
        reach = self.sd * (normal.inv_cdf(1 - level) + normal.inv_cdf(POWER))
        factor = math.inf if gap == 0 else (reach / gap) ** 2
        return factor if factor <= MAX_FACTOR else None


def _widening(users: int) -> float:
    return math.sqrt(users / (users - 1)) if users > 1 else math.inf
