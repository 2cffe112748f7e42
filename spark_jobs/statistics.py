"""`statistics/date=D`: the statistics of the values that occur in a log day, from the counters of the days before it.

Made by `build-samples`, of `counters/date=D` for the values and of counters of earlier log days for the numbers: of no
more than the longest window and `max_lateness_hours` before the day, so the cost does not grow with the log.
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from longreel.contracts.clock import local_day
from longreel.contracts.dates import day_number, day_of_number, day_range
from longreel.contracts.digests import digest_of
from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter, discard_on_error
from longreel.spark_jobs.array_checks import Stats
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.bucket_tasks import run_tasks
from longreel.spark_jobs.counters import build_counters, request_days
from longreel.spark_jobs.day_bounds import event_bounds_ms
from longreel.spark_jobs.days import code_version, is_unchanged, log_progress
from longreel.spark_jobs.statistic_lookup import DayStatistics
from longreel.spark_jobs.statistic_windows import LONGEST, WindowSums
from longreel.spark_jobs.value_files import read_values, write_values

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STATISTICS_VERSION = 1  # raise when the same counters would give other statistics


def build_statistics(home: Home, days: Sequence[date], spark: "SparkSession") -> dict[date, DayStatistics]:
    """The statistics of log days, whose events are published; made, as are the counters that they need, where they are
    missing or stale. Days that the lake has neither events nor counters of count nothing."""
    log = home.config.log_schema
    if not log.statistics:
        return {}
    started, lake, first = time.monotonic(), home.lake, {day: _first_day(home, day) for day in days}
    needed = sorted({d for day in days for d in day_range(first[day], day)})
    counters = build_counters(home, needed, spark)
    built, plans = {}, []
    for day in days:
        window = {d: manifest for d, manifest in counters.items() if first[day] <= d < day}
        inputs = {f"counters/{d}": manifest.digest for d, manifest in (window | {day: counters[day]}).items()}
        inputs["definition"] = digest_of([STATISTICS_VERSION, [[s.of, s.measures] for s in log.statistics]])
        published = lake.manifest("statistics", day)
        plan = StatisticsPlan(day=day, counters=counters[day], window=window, inputs=inputs)
        if published is not None and is_unchanged(published, inputs, force=False):
            built[day] = plan.statistics(published)
        else:
            plans.append(plan)
    return built | _build(lake, plans, spark, started)


def _first_day(home: Home, day: date) -> date:
    """The first log day whose counters the statistics of a log day need."""
    earliest_ms, _ = event_bounds_ms(day, home.config.source)
    (request_day,) = local_day(np.array([earliest_ms]), home.config.log_schema.time_zone).tolist()
    return day_of_number(request_day - LONGEST)


@dataclass(frozen=True, kw_only=True)
class StatisticsPlan:
    """A log day whose statistics are made, and what of."""

    day: date
    counters: Manifest  # of the day itself: its values
    window: Mapping[date, Manifest]  # counters of log days before it
    inputs: Mapping[str, str]

    def statistics(self, manifest: Manifest) -> DayStatistics:
        """What tasks look statistics up in, once they are published."""
        return DayStatistics(manifest=manifest, window=self.window)


def _build(
    lake: Lake, plans: Sequence[StatisticsPlan], spark: "SparkSession", started: float
) -> dict[date, DayStatistics]:
    if not plans:
        return {}
    writers = {plan.day: lake.writer("statistics", plan.day) for plan in plans}
    buckets = max(counters.buckets for plan in plans for counters in (plan.counters, *plan.window.values()))
    slices = min(max(1, spark.sparkContext.defaultParallelism // buckets), len(plans))
    bounds = [round(number * len(plans) / slices) for number in range(slices + 1)]
    built = {}
    with discard_on_error(*writers.values()):
        tasks = [
            ComputeStatistics(lake=lake, bucket=bucket, buckets=buckets, plans=tuple(plans[a:b]), writers=writers)
            for a, b in itertools.pairwise(bounds)
            for bucket in range(buckets)
        ]
        stats = run_tasks(spark, tasks)
        for plan in plans:
            manifest = writers[plan.day].commit(
                digest=digest_from_sums(stats.get(plan.day.isoformat(), {})),
                inputs=plan.inputs,
                buckets=buckets,
                code_version=code_version(),
            )
            summary = f"{manifest.rows:,} values of {len(plan.window)} days before, digest {manifest.digest}"
            log_progress("statistics", plan.day, summary, started if len(plans) == 1 else None)
            built[plan.day] = plan.statistics(manifest)
    return built


@dataclass(frozen=True, kw_only=True)
class ComputeStatistics:
    """Compute the statistics of the values of a bucket, for some log days in order."""

    lake: Lake
    bucket: int
    buckets: int
    plans: tuple[StatisticsPlan, ...]
    writers: Mapping[date, PartitionWriter]

    def run(self) -> Iterator[tuple[str, Stats]]:
        """Write the days' files; yields each day with the digest sums of its file."""
        log = self.lake.log_schema
        values = [self._values(plan.counters) for plan in self.plans]
        sums = WindowSums(log=log, values=[np.unique(np.concatenate(of)) for of in zip(*values, strict=True)])
        for plan, of in zip(self.plans, values, strict=True):
            for day, counters in plan.window.items():  # so the plan's own day is loaded after it, for the next plan
                if day_number(day) not in sums.days:
                    sums.load(self.lake, counters, day_number(day), self.bucket, self.buckets)
            sums.drop_before(day_number(min(plan.window, default=plan.day)))
            tables = self._tables(sums, of, request_days(plan.counters))
            yield plan.day.isoformat(), write_values(self.writers[plan.day], self.bucket, tables)

    def _values(self, counters: Manifest) -> list[Ints]:
        """The values of each statistic that occur in a day, increasing."""
        parts: list[list[Ints]] = [[np.zeros(0, np.int64)] for _ in self.lake.log_schema.statistics]
        for statistic, table in read_values(
            self.lake, counters, ["value"], range(len(parts)), self.bucket, self.buckets
        ):
            parts[statistic].append(table.column("value").to_numpy())
        return [np.unique(np.concatenate(part)) for part in parts]

    def _tables(self, sums: WindowSums, values: Sequence[Ints], days: Sequence[int]) -> Iterator[pa.Table]:
        """The rows of a log day: of every value on each day of its requests, as a request may begin before an
        impression, and as sampled negatives are of other requests' items."""
        for statistic, of in enumerate(values):
            place = np.searchsorted(sums.values[statistic], of)
            numbers = [sums.numbers(statistic, day)[place] for day in days]
            if numbers and len(of):
                yield statistic_table(self.lake.log_schema, statistic, of, days, np.concatenate(numbers))


def statistic_table(log: LogSchema, statistic: int, values: Ints, days: Sequence[int], numbers: Any) -> pa.Table:
    """Rows of a statistic: `numbers` [days * values, columns], day by day."""
    rows = len(values) * len(days)
    columns: dict[str, Any] = {
        "statistic": np.full(rows, statistic, np.int32),
        "value": np.tile(values, len(days)),
        "day": np.repeat(np.array(days, np.int32), len(values)),
    }
    own = {column.name: number for number, column in enumerate(log.statistics[statistic].columns())}
    absent = np.full(rows, np.nan, np.float32)
    for column in log.statistic_columns:
        columns[column.name] = np.ascontiguousarray(numbers[:, own[column.name]]) if column.name in own else absent
    return pa.table(columns, schema=dataset_schemas(log).statistics)
