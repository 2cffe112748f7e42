"""Ordinary days that the drift check of samples stops: every day of a home validated as when it was built."""

from dataclasses import dataclass

from longreel.lake.home import Home
from longreel.spark_jobs.drift import Measure, sample_measures, trailing_days


class ByChanceAlone(Measure):
    """A measure that does not ask how much the trailing days stray."""

    @property
    def dispersion(self) -> float:
        """One overdispersion_unit."""
        return 1.0


@dataclass
class Stopped:
    """Days validated, and those that a measure stops."""

    days: int = 0
    stopped: int = 0
    by_ratio_and_chance_alone: int = 0


def stopped_days(home: Home) -> dict[str, int]:
    """Counts of a home's published days of samples."""
    counts_of_days, policy = Stopped(), home.config.drift
    for day in home.lake.days("samples"):
        counts = home.lake.require("samples", day).counts
        past = trailing_days(home.lake, "samples", day, policy)
        measures = [m for m in sample_measures(counts, past, policy) if m.is_checked(policy.min_days)]
        counts_of_days.days += 1
        counts_of_days.stopped += any(map(_stops, measures))
        counts_of_days.by_ratio_and_chance_alone += any(_stops(ByChanceAlone(**vars(m))) for m in measures)
    return vars(counts_of_days)


def _stops(measure: Measure) -> bool:
    checks = [check for check in measure.checks("", accepted=False) if check.level == "stop"]
    return any(not (check.low or 0) <= measure.value <= (check.high or 0) for check in checks)
