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

from longreel.contracts.actions import ACTIONS
from longreel.contracts.config import SamplesConfig
from longreel.contracts.jagged import Ints, list_values, offsets_of, ranges
from longreel.contracts.schemas import DATASETS, EVENTS, HISTORY, HISTORY_FIELDS
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_checks import Stats, combine, history_stats, sample_stats
from longreel.spark_jobs.array_io import read_bucket, write_bucket
from longreel.spark_jobs.samples import DayEvents, UserFeatures, add_day, lists, sample_tables
from longreel.spark_jobs.user_histories import DTYPES, FIELDS, Segments, UserHistories, is_among

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY_MS = 86_400_000
MAX_TASKS = 4_096  # of a Spark job; more share one, and what they return is a few numbers a file
ALL_ACTIONS = sum(ACTIONS.values())
HISTORY_EVENTS = pa.schema([EVENTS.field(name) for name in ("user_id", *FIELDS)])
SNAPSHOT_GROUP_EVENTS = 1 << 18  # of a snapshot's row group: small, so that a day reads few other users


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

    lake_root: str
    number: int
    of: int
    snapshot: Manifest | None
    increments: tuple[Manifest, ...]
    mask: int  # which actions make an event a history event
    max_history: int

    @property
    def lake(self) -> Lake:
        """The lake, opened where the task runs."""
        return Lake(self.lake_root)

    def table(self, manifest: Manifest, columns: list[str], only: Ints | None = None) -> pa.Table:
        """A partition's rows of this bucket, with `only` of those users."""
        among = None if only is None else (lambda users: is_among(users, only))
        tables = list(read_bucket(self.lake, manifest, self.number, self.of, columns, among))
        return pa.concat_tables(tables).combine_chunks() if tables else empty(manifest, columns)

    def events(self, manifest: Manifest, only: Ints | None = None) -> DayEvents:
        """A log day's events of this bucket."""
        return DayEvents.of(self.table(manifest, ["user_id", *FIELDS, "request_id"], only))

    def histories(self, only: Ints | None = None) -> UserHistories:
        """What users did before the task's first day: all of them, or `only` (ids, increasing)."""
        histories = UserHistories(self.max_history)
        if self.snapshot:
            among = None if only is None else (lambda users: is_among(users, only))
            for table in read_bucket(self.lake, self.snapshot, self.number, self.of, HISTORY.names, among):
                load_snapshot(histories, table)
        for increment in self.increments:
            add_day(histories, self.events(increment, only), self.mask)
            histories.compact()
        return histories


@dataclass(frozen=True, kw_only=True)
class DayBuild:
    """A log day to be built: its inputs, and the build folder that takes its samples."""

    events: Manifest
    users: Manifest
    writer: PartitionWriter


@dataclass(frozen=True, kw_only=True)
class BuildSamples:
    """Build the samples of a bucket for consecutive log days."""

    bucket: Bucket
    days: tuple[DayBuild, ...]
    settings: SamplesConfig

    def run(self) -> Iterator[tuple[str, Stats]]:
        """Write the days' files; yields each day with the stats of its file, read back."""
        features = [self._features(day.users) for day in self.days]
        histories = self.bucket.histories(only=np.unique(np.concatenate([users.user_id for users in features])))
        for day, users in zip(self.days, features, strict=True):
            events = self.bucket.events(day.events)
            tables = sample_tables(events, histories, users, self.settings, self.bucket.mask)
            path = write_bucket(day.writer, self.bucket.number, tables)
            histories.compact()
            width = len(users.unknown)
            yield day.events.date, sample_stats(self.bucket.lake, path, self.bucket.number, self.bucket.of, width)

    def _features(self, users: Manifest) -> UserFeatures:
        table = self.bucket.table(users, ["user_id", "user_features"])
        ids, unknown = table.column("user_id").to_numpy(), np.array(users.details["unknown_features"], np.int64)
        values, _ = list_values(table, "user_features")
        order = np.argsort(ids, kind="stable")
        features = values.to_numpy().reshape(len(ids), len(unknown))
        return UserFeatures(user_id=ids[order], features=features[order], unknown=unknown)


@dataclass(frozen=True, kw_only=True)
class CompactHistory:
    """Compact a bucket's snapshot and increments into its part of a new snapshot."""

    bucket: Bucket
    day: date  # the last log day in the new snapshot
    writer: PartitionWriter

    def run(self) -> Iterator[tuple[str, Stats]]:
        """Write the bucket's file; yields the day with the stats of the file, read back."""
        histories = self.bucket.histories()
        path = write_bucket(self.writer, self.bucket.number, snapshot_tables(histories, self.day))
        stats = history_stats(self.bucket.lake, path, self.bucket.number, self.bucket.of)
        users, lengths, _ = histories.compacted()
        yield self.day.isoformat(), stats | {"compacted_users": len(users), "compacted_events": int(lengths.sum())}


@dataclass(frozen=True, kw_only=True)
class CompactRows:
    """Compact a bucket's rows of history events into its part of a snapshot; a Spark partition is a bucket."""

    writer: PartitionWriter
    day: date
    buckets: int
    max_history: int

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """History events in any order -> one row: the stats of the bucket's file, read back, as JSON."""
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        bucket, histories = context.partitionId(), UserHistories(self.max_history)
        rows = pa.concat_tables(
            [HISTORY_EVENTS.empty_table(), *(pa.table(batch).cast(HISTORY_EVENTS) for batch in batches)]
        )
        add_day(
            histories, DayEvents.of(rows.append_column("request_id", pa.nulls(rows.num_rows, pa.string()))), ALL_ACTIONS
        )
        path = write_bucket(self.writer, bucket, snapshot_tables(histories, self.day))
        stats = history_stats(self.writer.lake, path, bucket, self.buckets)
        yield pa.record_batch({"stats": [json.dumps(stats)]})


def empty(manifest: Manifest, columns: list[str]) -> pa.Table:
    """No rows of a dataset."""
    return DATASETS[manifest.dataset].empty_table().select(columns)


def load_snapshot(histories: UserHistories, table: pa.Table) -> None:
    """Take rows of a history snapshot, in any order of users, into histories that have nothing of these users yet."""
    users = table.column("user_id").to_numpy()
    flat = {name: list_values(table, f"history_{name}") for name in HISTORY_FIELDS}
    offsets = flat[FIELDS[0]][1]
    start = histories.store({name: values.to_numpy().astype(DTYPES[name]) for name, (values, _) in flat.items()})
    order = np.argsort(users, kind="stable")
    histories.load(Segments(users[order], start + offsets[:-1][order], np.diff(offsets)[order]))


def snapshot_tables(histories: UserHistories, day: date) -> Iterator[pa.Table]:
    """Histories in schema HISTORY, in tables of about SNAPSHOT_GROUP_EVENTS.

    Users are ordered by the days since they were last active, in powers of two, then by id: the users of the next
    days lie together, and a day need not read the row groups of users who have left.
    """
    users, lengths, places = histories.compacted()
    if not len(users):
        return
    offsets = offsets_of(lengths)
    end_ms = (day - date(1970, 1, 1)).days * DAY_MS + DAY_MS
    idle_days = np.maximum(end_ms - histories.column("time_ms")[places[offsets[1:] - 1]], 0) // DAY_MS
    order = np.lexsort((users, np.frexp(idle_days + 1)[1]))
    sizes = lengths[order]
    group = (np.cumsum(sizes) - sizes) // SNAPSHOT_GROUP_EVENTS
    bounds = np.concatenate([np.flatnonzero(np.diff(group, prepend=-1)), [len(order)]])
    for first, last in itertools.pairwise(bounds):
        rows = order[first:last]
        selected = places[ranges(offsets[rows], lengths[rows])]
        columns: dict[str, Any] = {"user_id": users[rows]}
        columns |= {f"history_{name}": lists(histories.column(name)[selected], lengths[rows]) for name in FIELDS}
        yield pa.table(columns, schema=HISTORY)
