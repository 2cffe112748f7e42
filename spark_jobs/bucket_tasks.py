"""What does one Spark task do? One bucket of users, from events and history to files.

Partitions are bucketed by user alike, so tasks share nothing and nothing is shuffled. A task holds the behaviours of
its bucket's users that are active on its days, and one row group on its way out.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from longreel.contracts.actions import ACTIONS
from longreel.contracts.config import SamplesConfig
from longreel.contracts.jagged import Ints, list_values, offsets_of, ranges
from longreel.contracts.schemas import DATASETS, EVENTS, HISTORY, HISTORY_FIELDS
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_checks import Facts, history_facts, sample_facts
from longreel.spark_jobs.array_io import read_bucket, write_bucket
from longreel.spark_jobs.samples import DayEvents, UserFeatures, add_day, lists, sample_tables
from longreel.spark_jobs.user_histories import DTYPES, FIELDS, Runs, Timeline, is_among

DAY_MS = 86_400_000
ANY = sum(ACTIONS.values())
ARCHIVE = pa.schema([EVENTS.field(name) for name in ("user_id", *FIELDS)])
BASE_GROUP_BEHAVIOURS = 1 << 18  # of a row group of a base: small, so that a day reads little of it


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Users of bucket `number` of `of`, and what the lake knows of them before the task's first day."""

    lake_root: str
    number: int
    of: int
    base: Manifest | None
    deltas: tuple[Manifest, ...]
    mask: int  # which actions make an event behaviour
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

    def timeline(self, only: Ints | None = None) -> Timeline:
        """What users did before the task's first day: all of them, or `only` (ids, increasing)."""
        timeline = Timeline(self.max_history)
        if self.base:
            among = None if only is None else (lambda users: is_among(users, only))
            for table in read_bucket(self.lake, self.base, self.number, self.of, HISTORY.names, among):
                load_base(timeline, table)
        for delta in self.deltas:
            add_day(timeline, self.events(delta, only), self.mask)
            timeline.fold()
        return timeline


@dataclass(frozen=True, kw_only=True)
class Day:
    """A log day to be built: its inputs, and the build folder that takes its samples."""

    events: Manifest
    users: Manifest
    writer: PartitionWriter


@dataclass(frozen=True, kw_only=True)
class BuildSamples:
    """Build the samples of a bucket for consecutive log days."""

    bucket: Bucket
    days: tuple[Day, ...]
    settings: SamplesConfig

    def run(self) -> Iterator[tuple[str, Facts]]:
        """Write the days' files; yields each day with what its file was found to hold when it was read back."""
        people = [self._people(day.users) for day in self.days]
        timeline = self.bucket.timeline(only=np.unique(np.concatenate([each.user_id for each in people])))
        for day, users in zip(self.days, people, strict=True):
            events = self.bucket.events(day.events)
            tables = sample_tables(events, timeline, users, self.settings, self.bucket.mask)
            path = write_bucket(day.writer, self.bucket.number, tables)
            timeline.fold()
            width = len(users.unknown)
            yield day.events.date, sample_facts(self.bucket.lake, path, self.bucket.number, self.bucket.of, width)

    def _people(self, users: Manifest) -> UserFeatures:
        table = self.bucket.table(users, ["user_id", "user_features"])
        ids, unknown = table.column("user_id").to_numpy(), np.array(users.details["unknown_features"], np.int64)
        values, _ = list_values(table, "user_features")
        order = np.argsort(ids, kind="stable")
        features = values.to_numpy().reshape(len(ids), len(unknown))
        return UserFeatures(user_id=ids[order], features=features[order], unknown=unknown)


@dataclass(frozen=True, kw_only=True)
class CompactHistory:
    """Fold a bucket's base and deltas into its part of a new base."""

    bucket: Bucket
    day: date  # the last log day folded
    writer: PartitionWriter

    def run(self) -> Iterator[tuple[str, Facts]]:
        """Write the bucket's file; yields the day with what the file was found to hold when it was read back."""
        timeline = self.bucket.timeline()
        path = write_bucket(self.writer, self.bucket.number, base_tables(timeline, self.day))
        found = history_facts(self.bucket.lake, path, self.bucket.number, self.bucket.of)
        users, lengths, _ = timeline.folded()
        yield self.day.isoformat(), found | {"folded_users": len(users), "folded_events": int(lengths.sum())}


@dataclass(frozen=True, kw_only=True)
class FoldBehaviours:
    """Fold what an archive holds of a bucket's users into its part of a base; a Spark partition is a bucket."""

    writer: PartitionWriter
    day: date
    buckets: int
    max_history: int

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Behaviours in any order -> one row: what the bucket's file was found to hold, as JSON."""
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        bucket, timeline = context.partitionId(), Timeline(self.max_history)
        rows = pa.concat_tables([ARCHIVE.empty_table(), *(pa.table(batch).cast(ARCHIVE) for batch in batches)])
        add_day(timeline, DayEvents.of(rows.append_column("request_id", pa.nulls(rows.num_rows, pa.string()))), ANY)
        path = write_bucket(self.writer, bucket, base_tables(timeline, self.day))
        facts = history_facts(self.writer.lake, path, bucket, self.buckets)
        yield pa.record_batch({"facts": [json.dumps(facts)]})


def empty(manifest: Manifest, columns: list[str]) -> pa.Table:
    """No rows of a dataset."""
    return DATASETS[manifest.dataset].empty_table().select(columns)


def load_base(timeline: Timeline, table: pa.Table) -> None:
    """Take rows of a history base, in any order of users, into a timeline that does not know these users yet."""
    users = table.column("user_id").to_numpy()
    flat = {name: list_values(table, f"history_{name}") for name in HISTORY_FIELDS}
    offsets = flat[FIELDS[0]][1]
    start = timeline.store({name: values.to_numpy().astype(DTYPES[name]) for name, (values, _) in flat.items()})
    order = np.argsort(users, kind="stable")
    timeline.load(Runs(users[order], start + offsets[:-1][order], np.diff(offsets)[order]))


def base_tables(timeline: Timeline, day: date) -> Iterator[pa.Table]:
    """A timeline in schema HISTORY, in tables of about BASE_GROUP_BEHAVIOURS.

    Users come by how long ago they were last active, in doublings of days, then by id: those of the next days lie
    together, and a day need not read the row groups of users who have left.
    """
    users, lengths, places = timeline.folded()
    if not len(users):
        return
    offsets = offsets_of(lengths)
    end_ms = (day - date(1970, 1, 1)).days * DAY_MS + DAY_MS
    idle_days = np.maximum(end_ms - timeline.column("time_ms")[places[offsets[1:] - 1]], 0) // DAY_MS
    order = np.lexsort((users, np.frexp(idle_days + 1)[1]))
    sizes = lengths[order]
    group = (np.cumsum(sizes) - sizes) // BASE_GROUP_BEHAVIOURS
    bounds = np.concatenate([np.flatnonzero(np.diff(group, prepend=-1)), [len(order)]])
    for first, last in itertools.pairwise(bounds):
        rows = order[first:last]
        which = places[ranges(offsets[rows], lengths[rows])]
        columns: dict[str, Any] = {"user_id": users[rows]}
        columns |= {f"history_{name}": lists(timeline.column(name)[which], lengths[rows]) for name in FIELDS}
        yield pa.table(columns, schema=HISTORY)
