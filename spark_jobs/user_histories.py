"""The histories of a bucket's users: one growing pool of history events, each user's as ordered segments of it.

A segment is a stretch of the pool, one user's, ordered by every column (event_order.py), time first. A user's segments
follow one another in that order too, so that their past is the concatenation of their segments, whatever the days
arrived in. Memory: `event_bytes` a history event, 24 a segment.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints, offsets_of, ranges
from longreel.contracts.log_schema import LogSchema
from longreel.spark_jobs.event_order import is_after, sort_rows
from longreel.spark_jobs.history_events import Columns, empty_events

MAX_BLOCKS = 16  # blocks of added segments, before they are merged into the sorted ones
COMPACT_AT = 1 << 20  # history events added since the last compaction, at least, before the next one


@dataclass(frozen=True)
class Segments:
    """Stretches of a pool: `owner` (a user id, or a row number where users were looked up), start and length [n]."""

    owner: Ints
    starts: Ints
    lengths: Ints

    def take(self, indices: Ints | NDArray[np.bool_]) -> "Segments":
        """Some of the segments."""
        return Segments(self.owner[indices], self.starts[indices], self.lengths[indices])

    def of(self, owners: Ints) -> "Segments":
        """The segments of `owners`, increasing; they become owners 0, 1 .."""
        kept = self.take(is_among(self.owner, owners))
        return Segments(np.searchsorted(owners, kept.owner), kept.starts, kept.lengths)

    def of_rows(self, first: int, last: int) -> "Segments":
        """The segments, sorted by owner, of first <= owner < last; `first` becomes owner 0."""
        start, stop = np.searchsorted(self.owner, [first, last])
        return Segments(self.owner[start:stop] - first, self.starts[start:stop], self.lengths[start:stop])

    def without(self, owners: Ints) -> "Segments":
        """The segments of users outside `owners`, increasing."""
        return self.take(~is_among(self.owner, owners))

    def __len__(self) -> int:
        return len(self.owner)


def merge(parts: list[Segments]) -> Segments:
    """Segments by owner; an owner's keep the order in which they are given."""
    owner = np.concatenate([part.owner for part in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(owner, kind="stable")
    starts, lengths = (
        np.concatenate([getattr(part, name) for part in parts])[order] if parts else np.zeros(0, np.int64)
        for name in ("starts", "lengths")
    )
    return Segments(owner[order], starts, lengths)


def keep_last(segments: Segments, limit: int | Ints, owners: int) -> Segments:
    """The segments of rows 0 .. owners - 1, by row, cut to each row's last `limit` elements, or `limit` [owners]."""
    total = np.bincount(segments.owner, segments.lengths, owners).astype(np.int64)
    ends = np.cumsum(segments.lengths) - offsets_of(total)[segments.owner]
    begin = np.maximum(ends - segments.lengths, np.maximum(total - limit, 0)[segments.owner])
    lengths = np.maximum(ends - begin, 0)
    return Segments(segments.owner, segments.starts + segments.lengths - lengths, lengths).take(lengths > 0)


class UserHistories:
    """The history events of the users of a bucket: of each user at least the newest `max_history` that any later
    request may see, and all that some of those requests may not see yet."""

    def __init__(self, max_history: int, log: LogSchema) -> None:
        self.max_history = max_history
        self.size = 0  # history events in the pool, including those that no segment names any more
        self._pool = empty_events(log)
        self._segments = merge([])
        self._blocks: list[Segments] = []
        self._compacted_size = 0

    def column(self, name: str) -> NDArray[Any]:
        """A column of the whole pool: [size], or [size, elements]."""
        return self._pool[name][: self.size]

    def store(self, events: Columns) -> int:
        """Put history events into the pool without giving them to users; returns where they begin."""
        start, stop = self.size, self.size + len(events["time_ms"])
        for name, values in self._pool.items():
            if stop > len(values):
                grown = np.empty((max(stop, len(values) * 3 // 2), *values.shape[1:]), values.dtype)
                grown[:start] = values[:start]
                self._pool[name] = grown
            self._pool[name][start:stop] = events[name]
        self.size = stop
        return start

    def load(self, segments: Segments) -> None:
        """Give stored history events to users who have none yet; `owner` are user ids, increasing."""
        self._blocks.append(segments)

    def append(self, own: Segments) -> None:
        """Give stored history events to users, one segment each; `owner` are user ids, increasing. Where a user's
        segment begins before their past ends, past and segment become one."""
        numbered = Segments(np.arange(len(own)), own.starts, own.lengths)
        past = self.segments_of(own.owner)
        overlapping = self._overlapping(merge([past, numbered]))
        if len(overlapping):
            lengths, places = self.merged(past.of(overlapping), numbered.of(overlapping), len(overlapping))
            start = self.store({name: values[places] for name, values in self._pool.items()})
            joined = Segments(own.owner[overlapping], start + offsets_of(lengths)[:-1], lengths)
            own, self._segments, *self._blocks = (
                part.without(joined.owner) for part in (own, self._segments, *self._blocks)
            )
            self._blocks.append(joined)
        self._blocks.append(own)

    def merged(self, past: Segments, own: Segments, rows: int) -> tuple[Ints, Ints]:
        """Segments of rows 0 .. rows - 1, first all of `past`, then of `own`, as one ordered list a row: the length of
        each [rows], and the places of all in the pool, row by row."""
        segments = merge([past, own])
        lengths = np.bincount(segments.owner, segments.lengths, rows).astype(np.int64)
        places = ranges(segments.starts, segments.lengths)
        overlapping = self._overlapping(segments)
        if len(overlapping):
            indices = ranges(offsets_of(lengths)[overlapping], lengths[overlapping])
            owner = np.repeat(overlapping, lengths[overlapping])
            places[indices] = sort_rows(owner, self._pool, places[indices])
        return lengths, places

    def _overlapping(self, segments: Segments) -> Ints:
        """The owners, increasing, of segments that begin before the owner's preceding segment ends."""
        same = np.flatnonzero(np.diff(segments.owner) == 0)
        ends = segments.starts[same] + segments.lengths[same] - 1
        after = is_after(self._pool, ends, segments.starts[same + 1])
        return np.unique(segments.owner[same[after]])

    def segments_of(self, users: Ints) -> Segments:
        """The segments of `users` [n], increasing, in order; `owner` is the place 0 .. n - 1 in `users`."""
        if len(self._blocks) > MAX_BLOCKS:
            self._segments, self._blocks = merge([self._segments, *self._blocks]), []
        selected = []
        for part in (self._segments, *self._blocks):
            first = np.searchsorted(part.owner, users, "left")
            counts = np.searchsorted(part.owner, users, "right") - first
            indices = ranges(first, counts)
            owner = np.repeat(np.arange(len(users)), counts)
            selected.append(Segments(owner, part.starts[indices], part.lengths[indices]))
        return merge(selected)

    def users(self) -> Ints:
        """Every user with a segment, increasing."""
        return np.unique(np.concatenate([self._segments.owner, *(part.owner for part in self._blocks)]))

    def newest(self, users: Ints, cutoff_ms: int | Ints) -> Segments:
        """The segments of `users` [n], increasing, as rows 0 .. n - 1: of each the newest `max_history` before the
        cutoff, or `cutoff_ms` [n], and all from it on, which a request with this cutoff does not see."""
        segments, cutoffs = self.segments_of(users), np.broadcast_to(cutoff_ms, len(users))
        times = self.column("time_ms")
        reaching = segments.take(times[segments.starts + segments.lengths - 1] >= cutoffs[segments.owner])
        owner = np.repeat(reaching.owner, reaching.lengths)
        is_newer = times[ranges(reaching.starts, reaching.lengths)] >= cutoffs[owner]
        return keep_last(segments, self.max_history + np.bincount(owner[is_newer], minlength=len(users)), len(users))

    def compacted(self, cutoff_ms: int) -> tuple[Ints, Ints, Ints]:
        """Users, the number of history events of each, and where those lie in the pool, by user and in order: what
        requests with this cutoff or a later one need."""
        users = self.users()
        segments = self.newest(users, cutoff_ms)
        lengths = np.bincount(segments.owner, segments.lengths, len(users)).astype(np.int64)
        return users, lengths, ranges(segments.starts, segments.lengths)

    def compact(self, cutoff_ms: int) -> None:
        """Drop what no request with this cutoff or a later one needs, once enough has been added for that to pay."""
        if self.size - self._compacted_size < max(COMPACT_AT, self._compacted_size):
            return
        users, lengths, places = self.compacted(cutoff_ms)
        for name in self._pool:  # one by one: both copies of a column at most
            self._pool[name] = self._pool[name][places]
        self.size = self._compacted_size = len(places)
        self._segments, self._blocks = Segments(users, offsets_of(lengths)[:-1], lengths), []


def is_among(values: Ints, increasing: Ints) -> NDArray[np.bool_]:
    """Which of `values` [n] are among `increasing` [m]."""
    if not len(increasing):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(increasing, values), len(increasing) - 1)
    return np.asarray(increasing[place] == values)
