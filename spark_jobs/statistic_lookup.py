"""Statistics of users and targets, looked up by the tasks that build samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.clock import local_day
from longreel.contracts.dates import day_number
from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.statistics import USER
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.spark_jobs.statistic_values import values_of
from longreel.spark_jobs.statistic_windows import WindowSums
from longreel.spark_jobs.user_histories import is_among
from longreel.spark_jobs.value_files import read_values

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class DayStatistics:
    """The statistics of a log day, and the counters of the days before it that they were made from."""

    manifest: Manifest
    window: Mapping[date, Manifest]

    def lookup(self, lake: Lake, bucket: int, buckets: int) -> "StatisticLookup":
        """The statistics for the users of a bucket."""
        return StatisticLookup(lake=lake, statistics=self, bucket=bucket, buckets=buckets)


@dataclass(frozen=True, kw_only=True)
class StatisticLookup:
    """The statistics of a log day for the users of one bucket."""

    lake: Lake
    statistics: DayStatistics
    bucket: int
    buckets: int

    @property
    def log(self) -> LogSchema:
        """The log schema."""
        return self.lake.log_schema

    @property
    def log_day(self) -> int:
        """The log day, since 1970."""
        return day_number(date.fromisoformat(self.statistics.manifest.date))

    @property
    def columns(self) -> list[str]:
        """The columns of a target that its statistics are of."""
        return sorted({name for s in self.log.statistics if not s.is_of_user for name in s.of if name != USER})

    def of_users(self, users: Ints, first_request_ms: Ints) -> dict[str, Floats]:
        """Columns of samples for users [n]: known before the log day, or before the local day of their first request
        where that is earlier."""
        days = np.minimum(local_day(first_request_ms, self.log.time_zone), self.log_day)
        numbers = self._columns({USER: users}, days, of_user=True)
        return {f"user_{name}": values for name, values in numbers.items()}

    def of_targets(self, columns: Mapping[str, NDArray[Any]], user_id: Ints, request_ms: Ints) -> dict[str, Floats]:
        """Columns of targets [n], known before the local day of their requests.

        Args:
            columns: the items and requests of the targets.
            user_id, request_ms: of their requests.
        """
        days = local_day(request_ms, self.log.time_zone)
        return self._columns({USER: user_id, **columns}, days, of_user=False)

    def _columns(self, columns: Mapping[str, NDArray[Any]], days: Ints, *, of_user: bool) -> dict[str, Floats]:
        by_column: dict[str, Floats] = {}
        for number, statistic in enumerate(self.log.statistics):
            if statistic.is_of_user != of_user:
                continue
            values, is_known = values_of(statistic, columns)
            numbers = np.full((len(values), len(statistic.columns())), np.nan, np.float32)
            for day in np.unique(days).tolist():
                rows = np.flatnonzero(is_known & (days == day))
                distinct, place = np.unique(values[rows], return_inverse=True)
                numbers[rows] = self._numbers(number, distinct, day)[place]
            by_column |= {column.name: numbers[:, place] for place, column in enumerate(statistic.columns())}
        return by_column

    def _numbers(self, statistic: int, of: Ints, day: int) -> Floats:
        """[n, columns] of values [n], increasing, on a local day."""
        declared = self.log.statistics[statistic]
        names = [column.name for column in declared.columns()]
        numbers, is_stored = np.zeros((len(of), len(names)), np.float32), np.zeros(len(of), bool)
        bucket, buckets = (self.bucket, self.buckets) if declared.is_of_user else (0, 1)
        manifest = self.statistics.manifest
        for _, table in read_values(self.lake, manifest, ["value", "day", *names], [statistic], bucket, buckets):
            values = table.column("value").to_numpy()
            rows = np.flatnonzero((table.column("day").to_numpy() == day) & is_among(values, of))
            place = np.searchsorted(of, values[rows])
            for number, name in enumerate(names):
                numbers[place, number] = table.column(name).to_numpy()[rows]
            is_stored[place] = True
        if not is_stored.all():
            numbers[~is_stored] = self._computed(statistic, of[~is_stored], day)
        return numbers

    def _computed(self, statistic: int, of: Ints, day: int) -> Floats:
        """As `_numbers`, of values that do not occur in the log day: those of a sampled negative together with its
        user or request."""
        nothing = np.zeros(0, np.int64)
        values = [of if number == statistic else nothing for number in range(len(self.log.statistics))]
        sums = WindowSums(log=self.log, values=values)
        for earlier, counters in self.statistics.window.items():
            sums.load(self.lake, counters, day_number(earlier))
        return sums.numbers(statistic, day)
