"""How far apart are two models, how sure is that, and how much more data would settle it?

Every comparison is of bootstrap replicates, never of two points: two reports on the same data with the same seed
resampled the same users in the same order, so subtracting their draws gives the spread of the difference itself, which
is far narrower than the two intervals would suggest.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from longreel.contracts.report import Estimate, paired_difference

TOO_MUCH = 1_000  # times the data: no answer worth giving
POWER = 0.8  # how often as much data as a hold asks for is to be enough


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference, turned so that more is better, with its standard deviation over the users that might have come."""

    value: float
    sd: float
    users: int

    @staticmethod
    def of(ours: Estimate, theirs: Estimate, users: int, *, less_is_better: bool = False) -> "Difference":
        """`ours` against `theirs`, paired.

        A mean over `users` users is spread sqrt(users / (users - 1)) wider than its bootstrap.

        Raises:
            LongreelError: nothing is paired; see `paired_difference`.
        """
        gap = paired_difference(*((theirs, ours) if less_is_better else (ours, theirs)), 0.95)
        assert gap.value is not None  # or it would have raised
        return Difference(value=gap.value, sd=float(np.std(gap.draws)) * _widening(users), users=users)

    @staticmethod
    def within(estimate: Estimate, interval: float, users: int) -> "Difference | None":
        """One that a report holds as an estimate with its interval; None where it is undefined."""
        if estimate.value is None or estimate.low is None or estimate.high is None:
            return None
        sd = (estimate.high - estimate.low) / (2 * NormalDist().inv_cdf((1 + interval) / 2))
        return Difference(value=estimate.value, sd=sd * _widening(users), users=users)

    def low(self, level: float) -> float:
        """One-sided lower bound: the truth lies below it with probability `level` (normal approximation)."""
        return self.value - self.sd * NormalDist().inv_cdf(1 - level)

    def high(self, level: float) -> float:
        """One-sided upper bound."""
        return self.value + self.sd * NormalDist().inv_cdf(1 - level)

    def say(self, level: float) -> str:
        """The difference in words, with the interval between both bounds; above 0 is better, whatever the metric."""
        kind, share = "better" if self.value >= 0 else "worse", f"{100 * (1 - 2 * level):.3g}%"
        return f"{abs(self.value):.4f} {kind} ({share} interval {self.low(level):+.4f} .. {self.high(level):+.4f})"

    def more_data(self, limit: float, level: float) -> float | None:
        """How many times the users would put the bound at `level` on the difference's side of `limit`, with probability
        POWER if the difference is what it seems: a standard deviation shrinks with the root of the users, and the next
        day's difference has one too. None beyond TOO_MUCH."""
        gap, normal = abs(self.value - limit), NormalDist()
        reach = self.sd * (normal.inv_cdf(1 - level) + normal.inv_cdf(POWER))
        factor = math.inf if gap == 0 else (reach / gap) ** 2
        return factor if factor <= TOO_MUCH else None


def settles(factor: float | None, users: int) -> str:
    """How much more data a hold asks for, in words."""
    if factor is None:
        return "At this difference no amount of data worth waiting for would settle it."
    wanted = f"about {factor:.1f} times this day's {users:,} users ({factor * users:,.0f})"
    return f"If the difference stays, {wanted} settle it {POWER:.0%} of the time."


def _widening(users: int) -> float:
    return math.sqrt(users / (users - 1)) if users > 1 else math.inf
