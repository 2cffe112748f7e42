"""`counters/date=D`: how often values of statistics occur in the events of a log day. Made by `build-samples`.

A cache of the events: counters are made again where they are missing, or where events or statistics have changed.
Events that were removed from the lake count as long as their counters are there.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from longreel.contracts.digests import digest_of
from longreel.contracts.log_schema import LogSchema
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter, discard_on_error
from longreel.spark_jobs.array_checks import Stats, combine
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.buckets import num_buckets
from longreel.spark_jobs.days import code_version, log_progress
from longreel.spark_jobs.statistic_windows import COUNTER_KEYS, count_names
from longreel.spark_jobs.value_files import by_statistic, write_values

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COUNTERS_VERSION = 2  # raise when the same events would give other counters
ROWS_PER_BUCKET = 250_000  # of a file, at most about; a task holds those of 28 days


def counters_definition(log: LogSchema) -> str:
    """Digest of the declarations that decide what is counted."""
    statistics = [[statistic.of, statistic.rates] for statistic in log.statistics]
    bits = {name: log.action_bit(name) for name in log.action_names if f"action_{name}" in count_names(log)}
    return digest_of([COUNTERS_VERSION, log.time_zone, statistics, bits, log.timed_actions])


def current_counters(lake: Lake, day: date) -> Manifest | None:
    """The counters of a log day, where they are those of its events and of the declared statistics."""
    counters, events = lake.manifest("counters", day), lake.manifest("events", day)
    if counters is None or not counters.is_readable:
        return None
    if counters.inputs["definition"] != counters_definition(lake.log_schema):
        return None
    return None if events is not None and counters.inputs[f"events/{day}"] != events.digest else counters


def build_counters(home: Home, days: Iterable[date], spark: "SparkSession") -> dict[date, Manifest]:
    """The counters of the log days that have any, built in one Spark job where they are missing or stale."""
    lake = home.lake
    current = {day: current_counters(lake, day) for day in days}
    events = [lake.manifest("events", day) for day, counters in current.items() if counters is None]
    new = _build(lake, [manifest for manifest in events if manifest is not None], spark)
    return dict(sorted({day: counters for day, counters in (current | new).items() if counters is not None}.items()))


def _build(lake: Lake, events: Sequence[Manifest], spark: "SparkSession") -> dict[date, Manifest]:
    if not events:
        return {}
    from longreel.spark_jobs.counters_job import count_values  # imports Spark, which unchanged days do not need

    started, log = time.monotonic(), lake.log_schema
    buckets = num_buckets(max(day.rows for day in events) * len(log.statistics), ROWS_PER_BUCKET)
    writers = {day.date: lake.writer("counters", date.fromisoformat(day.date)) for day in events}
    new = {}
    with discard_on_error(*writers.values()):
        stats = count_values(spark, lake, events, CounterFiles(writers), buckets)
        for day in events:
            manifest = _publish(writers[day.date], day, stats.get(day.date, []), buckets)
            new[date.fromisoformat(day.date)] = manifest
            brief = len(events) > 1
            log_progress("counters", date.fromisoformat(day.date), _summary(manifest), None if brief else started)
    return new


def _summary(manifest: Manifest) -> str:
    return f"{manifest.rows:,} counters of {manifest.counts['values']:,} values, digest {manifest.digest}"


def _publish(writer: PartitionWriter, events: Manifest, stats: Sequence[Stats], buckets: int) -> Manifest:
    combined = combine({name: value for name, value in part.items() if name != "totals"} for part in stats)
    totals: dict[tuple[int, ...], list[int]] = {}
    for part in stats:
        for row in part["totals"]:
            key, counts = tuple(row[:3]), row[3:]
            totals[key] = [a + b for a, b in zip(totals.get(key, [0] * len(counts)), counts, strict=True)]
    return writer.commit(
        digest=digest_from_sums(combined),
        inputs={
            f"events/{events.date}": events.digest,
            "definition": counters_definition(writer.lake.log_schema),
        },
        buckets=buckets,
        counts={"values": combined.get("values", 0)},
        details={"totals": [[*key, *counts] for key, counts in sorted(totals.items())]},
        code_version=code_version(),
    )


@dataclass(frozen=True)
class CounterFiles:
    """The builds that take the counters of some log days, by day."""

    writers: Mapping[str, PartitionWriter]

    def write(self, day: str, bucket: int, table: pa.Table) -> pa.Table:
        """Write a bucket's file of a day from rows in any order -> one row: the day and, as JSON, digest sums, the
        number of values and the totals over all values, [statistic, day, known_day, counts ..] each."""
        writer = self.writers[day]
        schema = writer.lake.schemas.counters
        table = table.select(schema.names).cast(schema).sort_by([(name, "ascending") for name in COUNTER_KEYS])
        stats: dict[str, Any] = write_values(writer, bucket, by_statistic(table))
        sums = table.group_by(list(COUNTER_KEYS[:1] + COUNTER_KEYS[2:])).aggregate(
            [(name, "sum") for name in count_names(writer.lake.log_schema)]
        )
        stats["totals"] = [list(row.values()) for row in sums.to_pylist()]
        stats["values"] = table.group_by(list(COUNTER_KEYS[:2])).aggregate([]).num_rows
        return pa.table({"log_day": [day], "stats": [json.dumps(stats)]})


def request_days(counters: Manifest) -> list[int]:
    """The local days on which a log day has impressions."""
    return sorted({row[1] for row in counters.details["totals"] if row[3]})


def drop_stale_counters(lake: Lake) -> Iterator[Manifest]:
    """Delete counters of other events than those published, or of none, and the statistics of their days; gives the
    manifest of each. Users who were erased from the events are then in neither."""
    for day in sorted({*lake.days("counters"), *lake.days("statistics")}):
        events, counters = lake.manifest("events", day), lake.manifest("counters", day)
        if events is not None and counters is not None and counters.inputs[f"events/{day}"] == events.digest:
            continue
        for manifest in (counters, lake.manifest("statistics", day)):
            if manifest is not None:
                lake.drop_partition(manifest)
                yield manifest
