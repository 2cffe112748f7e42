"""Statistics from counters: what `contracts/statistics.py` defines, for some values, on any day."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.contracts.statistics import SMOOTHING, STATISTIC_DAYS
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.spark_jobs.user_histories import is_among
from longreel.spark_jobs.value_files import read_values

COUNTER_KEYS = ("statistic", "value", "day", "known_day")
WINDOWS = np.array(STATISTIC_DAYS, np.int64)
LONGEST = max(STATISTIC_DAYS)
Places = NDArray[np.int32] | Ints


def count_names(log: LogSchema) -> list[str]:
    """The counts of counters: impressions, then actions."""
    return [name for name in dataset_schemas(log).counters.names if name not in COUNTER_KEYS]


@dataclass(frozen=True)
class _Counts:
    """Rows [n] of counters of one statistic; small integers, since a task holds those of many days."""

    place: Places  # among the values
    day: Places
    known_day: Places
    counts: Sequence[Places]  # as `count_names`

    def sums(self, day: int, values: int) -> NDArray[np.float64]:
        """What a request's day knows: [counts, values, windows], of the days of each window that are in no shorter."""
        age = day - self.day
        group = np.searchsorted(WINDOWS, age)
        inside = (age >= 1) & (age <= LONGEST)
        cell = np.where(inside, self.place.astype(np.int64) * len(WINDOWS) + group, 0)
        masks = [inside, *[inside & (self.known_day < day)] * (len(self.counts) - 1)]
        sums = [
            np.bincount(cell, np.where(mask, counts, 0), values * len(WINDOWS))
            for mask, counts in zip(masks, self.counts, strict=True)
        ]
        return np.asarray(sums, np.float64).reshape(len(sums), values, len(WINDOWS))


@dataclass(frozen=True, kw_only=True)
class WindowSums:
    """Counters of some values, by log day, and the statistics that follow from the log days loaded."""

    log: LogSchema
    values: Sequence[Ints]  # of each statistic, increasing
    days: dict[int, dict[int, _Counts]] = field(default_factory=dict)  # by log day, then statistic
    totals: dict[int, dict[int, _Counts]] = field(default_factory=dict)  # of all values together

    def load(self, lake: Lake, counters: Manifest, log_day: int, bucket: int = 0, buckets: int = 1) -> None:
        """Take the counters of a log day, as far as they are of these values."""
        parts: dict[int, list[pa.Table]] = {}
        names = [*COUNTER_KEYS[1:], *count_names(self.log)]
        statistics = [number for number, values in enumerate(self.values) if len(values)]
        for statistic, table in read_values(lake, counters, names, statistics, bucket, buckets):
            keep = is_among(table.column("value").to_numpy(), self.values[statistic])
            parts.setdefault(statistic, []).append(table if keep.all() else table.filter(pa.array(keep)))
        self.days[log_day] = {
            statistic: self._counts(pa.concat_tables(tables), self.values[statistic])
            for statistic, tables in parts.items()
        }
        totals = np.array(counters.details["totals"], np.int64).reshape(-1, len(names))
        self.totals[log_day] = {
            statistic: _totals(totals[totals[:, 0] == statistic]) for statistic in np.unique(totals[:, 0]).tolist()
        }

    def _counts(self, table: pa.Table, values: Ints) -> _Counts:
        day, known_day, *counts = (
            table.column(name).to_numpy().astype(np.int32) for name in ("day", "known_day", *count_names(self.log))
        )
        place = np.searchsorted(values, table.column("value").to_numpy())
        return _Counts(place.astype(np.int32), day, known_day, counts)

    def drop_before(self, log_day: int) -> None:
        """Drop the counters of log days before one."""
        for parts in (self.days, self.totals):
            for old in [number for number in parts if number < log_day]:
                del parts[old]

    def numbers(self, statistic: int, day: int) -> NDArray[np.float32]:
        """The statistic's columns [values, columns] of requests on a local day."""
        declared, names = self.log.statistics[statistic], count_names(self.log)
        sums = self._sums(self.days, statistic, day, len(self.values[statistic]))
        total = self._sums(self.totals, statistic, day, 1)[:, 0]
        impressions, all_impressions = sums[0], total[0]
        columns = [impressions] if declared.impressions else []
        for action in declared.rates:
            index = names.index(f"action_{action}")
            with np.errstate(invalid="ignore"):
                prior = SMOOTHING * total[index] / all_impressions
            rates = (sums[index] + prior) / (impressions + SMOOTHING)
            columns.append(np.where(impressions > 0, rates, np.nan))
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _sums(self, parts: dict[int, dict[int, _Counts]], statistic: int, day: int, values: int) -> NDArray[np.float64]:
        """[counts, values, windows]; whole numbers below 2^53, so that the order of the sums does not matter."""
        sums = np.zeros((len(count_names(self.log)), values, len(WINDOWS)))
        for counts in parts.values():
            if statistic in counts:
                sums += counts[statistic].sums(day, values)
        return np.cumsum(sums, axis=2)


def _totals(rows: Ints) -> _Counts:
    columns = list(rows.T)
    return _Counts(np.zeros(len(rows), np.int64), columns[1], columns[2], columns[3:])
