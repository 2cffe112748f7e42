"""Samples of a log day, one row per user: the history once, and requests that each see a part of it.

    history      by time: of earlier log days the newest `max_history` history events that the row's first request may
                 see, and all newer ones; and those of the day itself
    history_end  how many of those are strictly older than the request's cutoff, in milliseconds

A log day's rows may be stamped before its midnight, so the past can hold events that are not older than a request.
Time alone decides what a request sees, never the partition: events that it does not see yet, such as a purchase days
later, do not count towards `max_history` either. The cutoff is the request's time, less what
`[history] known_after` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from longreel.contracts.config import SamplesConfig
from longreel.contracts.history_cutoff import history_cutoff_ms
from longreel.contracts.jagged import Ints, offsets_of, ranges
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.spark_jobs.event_order import is_sorted, sort_rows
from longreel.spark_jobs.history_events import Columns, column_values, event_bytes, event_order, history_events
from longreel.spark_jobs.requests import Requests, find_requests
from longreel.spark_jobs.sampled_negatives import NegativePool, add_negatives
from longreel.spark_jobs.statistic_lookup import StatisticLookup
from longreel.spark_jobs.user_histories import Segments, UserHistories, is_among

ROW_GROUP_EVENTS = 1 << 20  # history events and targets of a row group, at most, about; a user's row is never divided
ROW_GROUP_BYTES = 1 << 26  # of those in memory, about
ROW_EVENTS = 8  # what a row weighs beside its events: the offsets of its lists, its request ids


@dataclass(frozen=True, kw_only=True)
class DayEvents:
    """The events [n] of a log day that belong to a bucket, ordered by user, then as `event_order`."""

    log: LogSchema
    user_id: Ints
    columns: Columns
    request_id: pa.Array

    @staticmethod
    def of(table: pa.Table, log: LogSchema) -> "DayEvents":
        """Rows of events in any order; for history events alone, `history_input` of them."""
        sizes = {column.name: column.size for column in log.event_columns}
        names = [name for name in event_order(log) if name in table.column_names]
        columns = {name: column_values(table, name, sizes.get(name, 1)) for name in names}
        user = column_values(table, "user_id")
        request_id = pa.nulls(len(user), pa.string())
        if "request_id" in table.column_names:
            request_id = table.column("request_id").combine_chunks()
            request_id = request_id.chunk(0) if isinstance(request_id, pa.ChunkedArray) else request_id
        if not is_sorted(user, columns):
            order = sort_rows(user, columns, np.arange(len(user)))
            user, request_id = user[order], request_id.take(pa.array(order))
            columns = {name: values[order] for name, values in columns.items()}
        return DayEvents(log=log, user_id=user, columns=columns, request_id=request_id)

    def history_events(self) -> tuple[Ints, Columns]:
        """Users and columns of the history events, ordered as the events are."""
        return history_events(self.user_id, self.columns, self.log)


@dataclass(frozen=True, kw_only=True)
class UserFields:
    """The declared fields of users [n], increasing."""

    log: LogSchema
    user_id: Ints
    columns: Columns  # [n] or [n, size]

    @staticmethod
    def of(table: pa.Table, log: LogSchema) -> "UserFields":
        """Rows of users in any order."""
        ids = column_values(table, "user_id")
        order = np.argsort(ids, kind="stable")
        columns = {c.name: column_values(table, f"user_{c.name}", c.size)[order] for c in log.described_user_columns}
        return UserFields(log=log, user_id=ids[order], columns=columns)

    def arrays(self, users: Ints) -> dict[str, pa.Array]:
        """Columns of `users` [m]; unknown where they are not described."""
        place = np.searchsorted(self.user_id, users)
        described = np.flatnonzero(is_among(users, self.user_id))
        arrays = {}
        for column in self.log.described_user_columns:
            assert column.field is not None
            stored = self.columns[column.name]
            values = np.full((len(users), *stored.shape[1:]), column.field.unknown, stored.dtype)
            values[described] = stored[place[described]]
            is_list = values.ndim == 2
            arrays[f"user_{column.name}"] = lists(values, np.ones(len(users), np.int64)) if is_list else values
        return arrays


def segments_by_user(users: Ints, start: int) -> Segments:
    """History events stored from `start` on, of users in increasing order, as one segment a user."""
    begins = np.flatnonzero(np.diff(users, prepend=users[:1] - 1))
    return Segments(users[begins], start + begins, np.diff(begins, append=len(users)))


def add_day(histories: UserHistories, day: DayEvents) -> None:
    """Take a day's history events into the users' histories."""
    users, events = day.history_events()
    histories.append(segments_by_user(users, histories.store(events)))


def sample_tables(
    day: DayEvents,
    histories: UserHistories,
    fields: UserFields,
    settings: SamplesConfig,
    negatives: NegativePool | None = None,
    statistics: StatisticLookup | None = None,
) -> Iterator[pa.Table]:
    """The samples of a log day for the users of one bucket.

    Args:
        negatives: what `settings.sampled_negatives` are drawn from.
        statistics: those of the day; None where the log declares none.
        histories: what these users did before the day; once all tables have been taken, the day's history events too.

    Yields:
        Tables of samples of about ROW_GROUP_EVENTS history events and targets, or ROW_GROUP_BYTES, rows by user.
    """
    begins = np.flatnonzero(np.diff(day.user_id, prepend=day.user_id[:1] - 1))
    users, events = day.user_id[begins], np.diff(begins, append=len(day.user_id))
    row = np.repeat(np.arange(len(users)), events)
    requests = find_requests(day.user_id, day.columns["time_ms"], day.request_id, row, settings)
    columns = {name: day.columns[name] for name in target_names(day.log)}
    if negatives is not None:
        columns, requests = add_negatives(columns, users[requests.row], requests, negatives, day.log)
        events = np.bincount(requests.row, requests.target_counts, len(users)).astype(np.int64)
    request_at, event_at = np.searchsorted(requests.row, np.arange(len(users) + 1)), offsets_of(events)
    first_ms = requests.time_ms[request_at[:-1]]
    user_columns = fields.arrays(users)
    if statistics is not None:
        columns |= _target_statistics(columns, users, requests, statistics)
        user_columns |= statistics.of_users(users, first_ms)
    own_users, own_events = day.history_events()
    own = segments_by_user(own_users, histories.store(own_events))
    past = histories.newest(users, history_cutoff_ms(first_ms, day.log))
    own_rows = Segments(np.searchsorted(users, own.owner), own.starts, own.lengths)
    size = events + ROW_EVENTS
    for segments in (past, own_rows):
        size += np.bincount(segments.owner, segments.lengths, len(users)).astype(np.int64)
    group = min(ROW_GROUP_EVENTS, max(1, ROW_GROUP_BYTES // event_bytes(day.log)))
    for first, last in _chunks(size, group):
        chunk = _Chunk(
            log=day.log,
            histories=histories,
            rows=last - first,
            past=past.of_rows(first, last),
            own=own_rows.of_rows(first, last),
            request_row=requests.row[request_at[first] : request_at[last]] - first,
            request_time_ms=requests.time_ms[request_at[first] : request_at[last]],
        )
        targets = requests.targets[event_at[first] : event_at[last]]
        yield pa.table(
            {
                "user_id": users[first:last],
                **{name: values[first:last] for name, values in user_columns.items()},
                **chunk.history(),
                **chunk.requests(requests, slice(request_at[first], request_at[last])),
                **_targets(columns, targets, events[first:last]),
            },
            schema=dataset_schemas(day.log).samples,
        )
    histories.append(own)


def _target_statistics(columns: Columns, users: Ints, requests: Requests, statistics: StatisticLookup) -> Columns:
    """The statistics of the impressions and sampled negatives [N] that `columns` have, each in one request."""
    request = np.repeat(np.arange(len(requests.row)), requests.target_counts)
    of = {name: columns[name][requests.targets] for name in statistics.columns}
    values = statistics.of_targets(of, users[requests.row][request], requests.time_ms[request])
    place = np.argsort(requests.targets)
    return {name: column[place] for name, column in values.items()}


def _chunks(size: Ints, events: int) -> Iterator[tuple[int, int]]:
    """Bounds first, last of consecutive rows that hold about so many events."""
    group = (np.cumsum(size) - size) // events
    bounds = np.concatenate([np.flatnonzero(np.diff(group, prepend=-1)), [len(size)]])
    yield from zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)


def lists(values: NDArray[Any] | pa.Array, lengths: Ints) -> pa.ListArray:
    """Consecutive lists of the given lengths [n]; of values [m, size], `size` elements of each."""
    if isinstance(values, np.ndarray):
        lengths = lengths * (values.shape[1] if values.ndim == 2 else 1)
        values = pa.array(values.reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets_of(lengths).astype(np.int32)), values)


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some rows of a day, numbered from 0: their users' past, history events of the day, and requests."""

    log: LogSchema
    histories: UserHistories
    rows: int
    past: Segments
    own: Segments
    request_row: Ints
    request_time_ms: Ints

    @cached_property
    def cutoff_ms(self) -> Ints:
        """The time from which on each request sees no history event."""
        return history_cutoff_ms(self.request_time_ms, self.log)

    @cached_property
    def merged(self) -> tuple[Ints, Ints]:
        """Past and own history events in order: how many a row has, and their places in the pool."""
        return self.histories.merged(self.past, self.own, self.rows)

    def history(self) -> dict[str, pa.Array]:
        """The history columns."""
        lengths, places = self.merged
        return {
            f"history_{column.name}": lists(self.histories.column(column.name)[places], lengths)
            for column in self.log.event_columns
        }

    def requests(self, requests: Requests, rows: slice) -> dict[str, pa.Array]:
        """The request columns."""
        counts = np.bincount(self.request_row, minlength=self.rows).astype(np.int64)
        target_end = np.cumsum(requests.target_counts[rows])
        before = np.concatenate([np.zeros(1, np.int64), target_end])[offsets_of(counts)[:-1]]
        columns = {
            "id": requests.ids[rows],
            "time_ms": self.request_time_ms,
            "history_end": self._history_end().astype(np.int32),
            "target_end": (target_end - before[self.request_row]).astype(np.int32),
        }
        return {f"request_{name}": lists(values, counts) for name, values in columns.items()}

    def _history_end(self) -> Ints:
        """History events strictly older than each request's cutoff: all of the past and the day's before it; counted
        one by one where the past reaches beyond the cutoff."""
        past = np.bincount(self.past.owner, self.past.lengths, self.rows).astype(np.int64)
        own = np.bincount(self.own.owner, self.own.lengths, self.rows).astype(np.int64)
        end = past[self.request_row] + self._older(ranges(self.own.starts, self.own.lengths), own)
        newest_ms = np.full(self.rows, np.iinfo(np.int64).min)
        final = np.flatnonzero(np.diff(self.past.owner, append=self.rows))  # of each row the last segment
        last = self.past.take(final)
        newest_ms[last.owner] = self.histories.column("time_ms")[last.starts + last.lengths - 1]
        reaches = newest_ms[self.request_row] >= self.cutoff_ms
        if not reaches.any():
            return end
        lengths, places = self.merged
        return np.where(reaches, self._older(places, lengths), end)

    def _older(self, places: Ints, lengths: Ints) -> Ints:
        """Of the history events at `places`, `lengths` a row and by time, how many are older than each request's
        cutoff."""
        if not len(self.cutoff_ms):
            return np.zeros(0, np.int64)
        low, high = int(self.cutoff_ms.min()) - 1, int(self.cutoff_ms.max())
        step = high - low + 1  # rows and times as one number; times outside the cutoffs' range may be clipped
        times = np.clip(self.histories.column("time_ms")[places], low, high) - low
        keys = np.repeat(np.arange(self.rows) * step, lengths) + times
        older = np.searchsorted(keys, self.request_row * step + self.cutoff_ms - low)
        return np.asarray(older - offsets_of(lengths)[self.request_row])


def target_names(log: LogSchema) -> tuple[str, ...]:
    """What a target has of an impression: its item columns and its labels."""
    labels = (f"label_{name}" for name in log.number_labels)
    return (*(column.name for column in log.item_columns), "labels", *labels)


def _targets(columns: Columns, rows: Ints, counts: Ints) -> dict[str, pa.Array]:
    return {f"target_{name}": lists(values[rows], counts) for name, values in columns.items()}
