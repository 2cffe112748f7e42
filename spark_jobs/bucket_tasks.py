"""Spark tasks: one bucket of users each, from events and history to files.

All partitions are bucketed by user, so tasks share nothing and nothing is shuffled. A task holds the history events of
its bucket's users that are active on its days, and the row group that it is writing.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from longreel.contracts.clock import DAY_MS
from longreel.contracts.config import SamplesConfig
from longreel.contracts.dates import day_number
from longreel.contracts.history_cutoff import snapshot_cutoff_ms
from longreel.contracts.jagged import Ints, list_values, offsets_of, ranges
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_checks import Stats, combine, history_stats, sample_stats
from longreel.spark_jobs.array_io import read_bucket, write_bucket
from longreel.spark_jobs.history_events import event_bytes, event_order, history_columns, history_input
from longreel.spark_jobs.sampled_negatives import NegativePool
from longreel.spark_jobs.samples import DayEvents, UserFields, add_day, lists, sample_tables
from longreel.spark_jobs.statistic_lookup import DayStatistics
from longreel.spark_jobs.user_histories import Segments, UserHistories, is_among

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MAX_TASKS = 4_096  # of a Spark job; more share one, and what they return is a few numbers a file
SNAPSHOT_GROUP_EVENTS = 1 << 18  # of a snapshot's row group: small, so that a day reads few other users
SNAPSHOT_GROUP_BYTES = 1 << 24  # of those in memory, about


class Task(Protocol):
    """Work on files of one bucket, on any machine."""

    def run(self) -> Iterator[tuple[str, Stats]]:
        """Write the files; yields each file's log day and its stats, read back."""
        ...


def run_tasks(spark: "SparkSession", tasks: Sequence[Task]) -> dict[str, Stats]:
    """Run tasks in one Spark job; returns the stats of each log day's files, all buckets together."""
    parts: dict[str, list[Stats]] = {}
    jobs = spark.sparkContext.parallelize(tasks, min(len(tasks), MAX_TASKS))
    for day, stats in jobs.flatMap(lambda task: task.run()).collect():
        parts.setdefault(day, []).append(stats)
    return {day: combine(stats) for day, stats in parts.items()}


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Users of bucket `number` of `of`, and what the lake knows of them before the task's first day."""

    lake: Lake
    number: int
    of: int
    snapshot: Manifest | None
    increments: tuple[Manifest, ...]
    max_history: int
    max_lateness_hours: float

    def cutoff_ms(self, day: date) -> int:
        """The earliest cutoff of a request of the log days after a day."""
        return snapshot_cutoff_ms(day, self.log, self.max_lateness_hours)

    @property
    def log(self) -> LogSchema:
        """The lake's log schema."""
        return self.lake.log_schema

    def table(self, manifest: Manifest, columns: list[str], only: Ints | None = None) -> pa.Table:
        """A partition's rows of this bucket, with `only` of those users."""
        among = None if only is None else (lambda users: is_among(users, only))
        tables = list(read_bucket(self.lake, manifest, self.number, self.of, columns, among))
        empty = self.lake.schemas[manifest.dataset].empty_table().select(columns)
        return pa.concat_tables(tables).combine_chunks() if tables else empty

    def events(self, manifest: Manifest) -> DayEvents:
        """A log day's events of this bucket."""
        return DayEvents.of(self.table(manifest, ["user_id", *event_order(self.log), "request_id"]), self.log)

    def histories(self, only: Ints | None = None) -> UserHistories:
        """What users did before the task's first day: all of them, or `only` (ids, increasing)."""
        histories = UserHistories(self.max_history, self.log)
        if self.snapshot:
            among, names = (
                None if only is None else (lambda users: is_among(users, only)),
                self.lake.schemas.history.names,
            )
            for table in read_bucket(self.lake, self.snapshot, self.number, self.of, names, among):
                load_snapshot(histories, table, self.log)
        for increment in self.increments:
            add_day(histories, DayEvents.of(self.table(increment, history_input(self.log), only), self.log))
            histories.compact(self.cutoff_ms(date.fromisoformat(increment.date)))
        return histories


@dataclass(frozen=True, kw_only=True)
class DayBuild:
    """A log day to be built: its inputs, and the build folder that takes its samples."""

    events: Manifest
    users: Manifest
    writer: PartitionWriter
    negatives: NegativePool | None = None  # what sampled negatives are drawn from
    statistics: DayStatistics | None = None  # None where the log declares none


@dataclass(frozen=True, kw_only=True)
class BuildSamples:
    """Build the samples of a bucket for consecutive log days."""

    bucket: Bucket
    days: tuple[DayBuild, ...]
    settings: SamplesConfig

    def run(self) -> Iterator[tuple[str, Stats]]:
        """Write the days' files; yields each day with the stats of its file, read back."""
        fields = [self._fields(day.users) for day in self.days]
        histories = self.bucket.histories(only=np.unique(np.concatenate([users.user_id for users in fields])))
        for day, users in zip(self.days, fields, strict=True):
            events = self.bucket.events(day.events)
            statistics = None
            if day.statistics is not None:
                statistics = day.statistics.lookup(self.bucket.lake, self.bucket.number, self.bucket.of)
            tables = sample_tables(events, histories, users, self.settings, day.negatives, statistics)
            path = write_bucket(day.writer, self.bucket.number, tables)
            histories.compact(self.bucket.cutoff_ms(date.fromisoformat(day.events.date)))
            bucket = self.bucket
            stats = sample_stats(bucket.lake, path, bucket.number, bucket.of, bucket.max_history)
            yield day.events.date, stats

    def _fields(self, users: Manifest) -> UserFields:
        return UserFields.of(self.bucket.table(users, self.bucket.lake.schemas.users.names), self.bucket.log)


@dataclass(frozen=True, kw_only=True)
class CompactHistory:
    """Compact a bucket's snapshot and increments into its part of a new snapshot."""

    bucket: Bucket
    day: date  # the last log day in the new snapshot
    writer: PartitionWriter

    def run(self) -> Iterator[tuple[str, Stats]]:
        """Write the bucket's file; yields the day with the stats of the file, read back."""
        histories, cutoff_ms = self.bucket.histories(), self.bucket.cutoff_ms(self.day)
        tables = snapshot_tables(histories, self.day, self.bucket.log, cutoff_ms)
        path = write_bucket(self.writer, self.bucket.number, tables)
        stats = history_stats(self.bucket.lake, path, self.bucket.number, self.bucket.of, cutoff_ms)
        users, lengths, _ = histories.compacted(cutoff_ms)
        yield self.day.isoformat(), stats | {"compacted_users": len(users), "compacted_events": int(lengths.sum())}


@dataclass(frozen=True, kw_only=True)
class CompactRows:
    """Compact a bucket's rows of events into its part of a snapshot; a Spark partition is a bucket."""

    writer: PartitionWriter
    day: date
    buckets: int
    max_history: int
    cutoff_ms: int

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """`history_input` of events in any order -> one row: the stats of the bucket's file, read back, as JSON, with
        the count `history_events_read`."""
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        bucket, lake = context.partitionId(), self.writer.lake
        log, schema = lake.log_schema, pa.schema([lake.schemas.events.field(n) for n in history_input(lake.log_schema)])
        rows = pa.concat_tables([schema.empty_table(), *(pa.table(batch).cast(schema) for batch in batches)])
        histories = UserHistories(self.max_history, log)
        add_day(histories, DayEvents.of(rows, log))
        path = write_bucket(self.writer, bucket, snapshot_tables(histories, self.day, log, self.cutoff_ms))
        stats = history_stats(lake, path, bucket, self.buckets, self.cutoff_ms)
        stats |= {"history_events_read": histories.size}
        yield pa.record_batch({"stats": [json.dumps(stats)]})


def load_snapshot(histories: UserHistories, table: pa.Table, log: LogSchema) -> None:
    """Take rows of a history snapshot, in any order of users, into histories that have nothing of these users yet."""
    users = table.column("user_id").to_numpy()
    offsets = list_values(table, "history_time_ms")[1]
    events = {}
    for column in history_columns(log):
        values = list_values(table, f"history_{column.name}")[0].to_numpy()
        events[column.name] = values if column.size == 1 else values.reshape(-1, column.size)
    start = histories.store(events)
    order = np.argsort(users, kind="stable")
    histories.load(Segments(users[order], start + offsets[:-1][order], np.diff(offsets)[order]))


def snapshot_tables(histories: UserHistories, day: date, log: LogSchema, cutoff_ms: int) -> Iterator[pa.Table]:
    """Histories, as `UserHistories.compacted` keeps them, in the schema of a snapshot.

    Tables have about SNAPSHOT_GROUP_EVENTS events or SNAPSHOT_GROUP_BYTES.

    Users are ordered by the days since they were last active, in powers of two, then by id: the users of the next
    days lie together, and a day need not read the row groups of users who have left.
    """
    users, lengths, places = histories.compacted(cutoff_ms)
    if not len(users):
        return
    offsets = offsets_of(lengths)
    end_ms = (day_number(day) + 1) * DAY_MS
    idle_days = np.maximum(end_ms - histories.column("time_ms")[places[offsets[1:] - 1]], 0) // DAY_MS
    order = np.lexsort((users, np.frexp(idle_days + 1)[1]))
    sizes = lengths[order]
    group = (np.cumsum(sizes) - sizes) // min(SNAPSHOT_GROUP_EVENTS, max(1, SNAPSHOT_GROUP_BYTES // event_bytes(log)))
    bounds = np.concatenate([np.flatnonzero(np.diff(group, prepend=-1)), [len(order)]])
    for first, last in itertools.pairwise(bounds):
        rows = order[first:last]
        selected = places[ranges(offsets[rows], lengths[rows])]
        columns: dict[str, Any] = {"user_id": users[rows]}
        for column in log.event_columns:
            columns[f"history_{column.name}"] = lists(histories.column(column.name)[selected], lengths[rows])
        yield pa.table(columns, schema=dataset_schemas(log).history)
