"""Statistics: what happened to the impressions of the same item, author or user, up to the midnight before a request.

    [statistics]
    item_id = ["impressions", "rate(click)"]
    "user_id * surface" = ["rate(click)"]           # of both together

Of a request on local day d, and for each w of STATISTIC_DAYS:

    n, N      impressions with the target's values, and all of them, on the days d - w .. d - 1
              (N leaves out impressions in which one of the statistic's columns is unknown, as n does)
    a, A      those among them whose action was known when d began
    <ids>_impressions_<w>d    n
    <ids>_<action>_rate_<w>d  (a + m A / N) / (n + m) with m = SMOOTHING; without a value where n = 0

The smoothed rate is the mean of a beta posterior whose prior is worth m impressions at the log's rate.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longreel.contracts.errors import LongreelError, require

STATISTIC_DAYS = (1, 7, 28)
SMOOTHING = 10.0  # m, impressions
IMPRESSIONS = "impressions"
USER = "user_id"
_RATE = re.compile(r"rate\(\s*(\w+)\s*\)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """The statistics of impressions that have the same values of some columns."""

    of: tuple[str, ...]
    """`user_id`, ids and categories of [fields.item] and [fields.request]; together where there are several."""
    impressions: bool = False
    rates: tuple[str, ...] = ()
    """Actions."""

    @property
    def key(self) -> str:
        """As longreel.toml spells the columns."""
        return " * ".join(self.of)

    @property
    def is_of_user(self) -> bool:
        """Whether they describe the user alone: then they are columns of the user, and otherwise of a target."""
        return self.of == (USER,)

    @property
    def measures(self) -> tuple[str, ...]:
        """As longreel.toml spells them."""
        return (*((IMPRESSIONS,) if self.impressions else ()), *(f"rate({action})" for action in self.rates))

    def columns(self) -> list["StatisticColumn"]:
        """A column for each measure and number of days."""
        measures = (*((None,) if self.impressions else ()), *self.rates)
        return [StatisticColumn(self, action, days) for action in measures for days in STATISTIC_DAYS]


@dataclass(frozen=True)
class StatisticColumn:
    """One number of a statistic."""

    statistic: Statistic
    action: str | None  # None: the impressions
    days: int

    @property
    def name(self) -> str:
        """Its name as a field."""
        ids, measure = "_".join(self.statistic.of), IMPRESSIONS if self.action is None else f"{self.action}_rate"
        return f"{ids}_{measure}_{self.days}d"


def build_statistics(table: Mapping[str, Any]) -> tuple[Statistic, ...]:
    """The statistics of a [statistics] table.

    Raises:
        LongreelError: a value is no list of measures.
    """
    return tuple(_statistic(key, value) for key, value in table.items())


def _statistic(key: str, measures: Any) -> Statistic:
    where = f"[statistics] {key}"
    require(
        isinstance(measures, list) and bool(measures) and all(isinstance(measure, str) for measure in measures),
        f'{where}: expected a list such as ["impressions", "rate(click)"], got {measures!r}',
    )
    require(measures.count(IMPRESSIONS) < 2, f"{where}: names a measure twice")
    return Statistic(
        of=tuple(name.strip() for name in key.split("*")),
        impressions=IMPRESSIONS in measures,
        rates=tuple(_rate(measure, where) for measure in measures if measure != IMPRESSIONS),
    )


def _rate(measure: str, where: str) -> str:
    match = _RATE.fullmatch(measure.strip())
    if match is None:
        raise LongreelError(f"{where}: expected impressions or rate(action), got {measure!r}")
    return match[1]


def check_statistics(statistics: Sequence[Statistic], columns: Sequence[str], actions: Sequence[str]) -> None:
    """Refuse statistics that do not fit the log.

    Args:
        columns: what they may be of: `user_id` and the ids and categories that an impression is served with.

    Raises:
        LongreelError: a column or an action is none of the log, or declared twice.
    """
    keys = [tuple(sorted(statistic.of)) for statistic in statistics]
    for statistic, key in zip(statistics, keys, strict=True):
        where = f"[statistics] {statistic.key}"
        unknown = [name for name in statistic.of if name not in columns]
        require(
            not unknown,
            f"{where}: a statistic is of user_id, or of ids and categories of [fields.item] and [fields.request], "
            f"here {', '.join(columns)}, joined by ' * ' if several; got {', '.join(unknown)}",
        )
        require(len(set(key)) == len(key) and keys.count(key) == 1, f"{where}: is declared twice")
        unknown = [name for name in statistic.rates if name not in actions]
        require(not unknown, f"{where}: rate of {', '.join(unknown)}, expected some of {', '.join(actions)}")
        require(len(set(statistic.rates)) == len(statistic.rates), f"{where}: names a measure twice")
        require(bool(statistic.measures), f"{where}: expected impressions or rate(action)")
