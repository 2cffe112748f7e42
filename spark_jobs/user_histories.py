"""What have a bucket's users done so far? Their behaviours in one growing pool, each user's as ordered runs of it.

A run is a stretch of the pool, one user's, ordered by every field of HISTORY_FIELDS, time first. A user's runs follow
one another in that order too, so that their past is the concatenation of their runs, whatever the days arrived in.
Memory: 52 bytes a behaviour, 24 a run.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints, offsets_of, ranges
from longreel.contracts.schemas import HISTORY_FIELDS

Columns = dict[str, NDArray[Any]]  # HISTORY_FIELDS in their own types, all of one length

FIELDS = tuple(HISTORY_FIELDS)
DTYPES = {name: np.dtype(kind.to_pandas_dtype()) for name, kind in HISTORY_FIELDS.items()}
BLOCKS = 16  # added runs are merged into the sorted ones when there are so many blocks of them
FOLD_AT = 1 << 20  # behaviours added since the last fold, at least, before the pool is folded again


@dataclass(frozen=True)
class Runs:
    """Stretches of a pool: `owner` (a user id, or a row number where users were asked for), start and length [n]."""

    owner: Ints
    starts: Ints
    lengths: Ints

    def take(self, which: Ints | NDArray[np.bool_]) -> "Runs":
        """Some of the runs."""
        return Runs(self.owner[which], self.starts[which], self.lengths[which])

    def of(self, owners: Ints) -> "Runs":
        """The runs of `owners`, increasing; they become owners 0, 1 .."""
        kept = self.take(is_among(self.owner, owners))
        return Runs(np.searchsorted(owners, kept.owner), kept.starts, kept.lengths)

    def of_rows(self, first: int, last: int) -> "Runs":
        """The runs, sorted by owner, of first <= owner < last; `first` becomes owner 0."""
        start, stop = np.searchsorted(self.owner, [first, last])
        return Runs(self.owner[start:stop] - first, self.starts[start:stop], self.lengths[start:stop])

    def without(self, owners: Ints) -> "Runs":
        """The runs of nobody in `owners`, increasing."""
        return self.take(~is_among(self.owner, owners))

    def __len__(self) -> int:
        return len(self.owner)


def together(parts: list[Runs]) -> Runs:
    """Runs by owner; an owner's keep the order in which they are given."""
    owner = np.concatenate([part.owner for part in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(owner, kind="stable")
    starts, lengths = (
        np.concatenate([getattr(part, name) for part in parts])[order] if parts else np.zeros(0, np.int64)
        for name in ("starts", "lengths")
    )
    return Runs(owner[order], starts, lengths)


def newest(runs: Runs, most: int, owners: int) -> Runs:
    """The runs of rows 0 .. owners - 1, by row, cut to each row's last `most` elements."""
    total = np.bincount(runs.owner, runs.lengths, owners).astype(np.int64)
    ends = np.cumsum(runs.lengths) - offsets_of(total)[runs.owner]
    begin = np.maximum(ends - runs.lengths, np.maximum(total - most, 0)[runs.owner])
    lengths = np.maximum(ends - begin, 0)
    return Runs(runs.owner, runs.starts + runs.lengths - lengths, lengths).take(lengths > 0)


class Timeline:
    """The behaviours of the users of a bucket, of each at least the newest `max_history`."""

    def __init__(self, max_history: int) -> None:
        self.max_history = max_history
        self.size = 0  # behaviours in the pool, those that no run names any more included
        self._pool: Columns = {name: np.empty(0, kind) for name, kind in DTYPES.items()}
        self._runs = together([])
        self._blocks: list[Runs] = []
        self._folded = 0

    def column(self, name: str) -> NDArray[Any]:
        """A field of the whole pool."""
        return self._pool[name][: self.size]

    def store(self, behaviours: Columns) -> int:
        """Put behaviours into the pool, owned by nobody yet; returns where they begin."""
        start, stop = self.size, self.size + len(behaviours[FIELDS[0]])
        for name, values in self._pool.items():
            if stop > len(values):
                grown = np.empty(max(stop, len(values) * 3 // 2), values.dtype)
                grown[:start] = values[:start]
                self._pool[name] = grown
            self._pool[name][start:stop] = behaviours[name]
        self.size = stop
        return start

    def load(self, runs: Runs) -> None:
        """Give stored behaviours to users who have none yet; `owner` are user ids, increasing."""
        self._blocks.append(runs)

    def append(self, own: Runs) -> None:
        """Give stored behaviours to users, one run each; `owner` are user ids, increasing. Where a user's run begins
        before their past ends, past and run become one."""
        numbered = Runs(np.arange(len(own)), own.starts, own.lengths)
        past = newest(self.runs_of(own.owner), self.max_history, len(own))
        late = self._late(together([past, numbered]))
        if len(late):
            lengths, places = self.merged(past.of(late), numbered.of(late), len(late))
            start = self.store({name: values[places] for name, values in self._pool.items()})
            whole = Runs(own.owner[late], start + offsets_of(lengths)[:-1], lengths)
            own, self._runs, *self._blocks = (part.without(whole.owner) for part in (own, self._runs, *self._blocks))
            self._blocks.append(whole)
        self._blocks.append(own)

    def merged(self, past: Runs, own: Runs, rows: int) -> tuple[Ints, Ints]:
        """Runs of rows 0 .. rows - 1, first all of `past`, then of `own`, as one ordered list a row: the length of
        each [rows], and the places of all in the pool, row by row."""
        runs = together([past, own])
        lengths = np.bincount(runs.owner, runs.lengths, rows).astype(np.int64)
        places = ranges(runs.starts, runs.lengths)
        late = self._late(runs)
        if len(late):
            where = ranges(offsets_of(lengths)[late], lengths[late])
            fields = [self._pool[name][places[where]] for name in reversed(FIELDS)]
            order = np.lexsort([*fields, np.repeat(late, lengths[late])])
            places[where] = places[where][order]
        return lengths, places

    def _late(self, runs: Runs) -> Ints:
        """The owners, increasing, of whose runs one begins before the one in front of it ends."""
        same = np.flatnonzero(np.diff(runs.owner) == 0)
        after = self._is_after(runs.starts[same] + runs.lengths[same] - 1, runs.starts[same + 1])
        return np.unique(runs.owner[same[after]])

    def runs_of(self, users: Ints) -> Runs:
        """The runs of `users` [n], increasing, in order; `owner` is the place 0 .. n - 1 in `users`."""
        if len(self._blocks) > BLOCKS:
            self._runs, self._blocks = together([self._runs, *self._blocks]), []
        found = []
        for part in (self._runs, *self._blocks):
            first = np.searchsorted(part.owner, users, "left")
            counts = np.searchsorted(part.owner, users, "right") - first
            which = ranges(first, counts)
            found.append(Runs(np.repeat(np.arange(len(users)), counts), part.starts[which], part.lengths[which]))
        return together(found)

    def _is_after(self, a: Ints, b: Ints) -> NDArray[np.bool_]:
        """Whether the behaviours at `a` [n] of the pool come after those at `b` [n] in the order of all fields."""
        after, equal = np.zeros(len(a), bool), np.ones(len(a), bool)
        for name in FIELDS:
            left, right = self._pool[name][a], self._pool[name][b]
            after |= equal & (left > right)
            equal &= left == right
            if not equal.any():
                break
        return after

    def users(self) -> Ints:
        """Every user with a run, increasing."""
        return np.unique(np.concatenate([self._runs.owner, *(part.owner for part in self._blocks)]))

    def folded(self) -> tuple[Ints, Ints, Ints]:
        """Users, the number of behaviours of each, and where those lie in the pool, by user and in order: the newest
        `max_history` of each."""
        users = self.users()
        runs = newest(self.runs_of(users), self.max_history, len(users))
        lengths = np.bincount(runs.owner, runs.lengths, len(users)).astype(np.int64)
        return users, lengths, ranges(runs.starts, runs.lengths)

    def fold(self) -> None:
        """Forget what no user's newest `max_history` needs, where enough has been added for that to pay."""
        if self.size - self._folded < max(FOLD_AT, self._folded):
            return
        users, lengths, places = self.folded()
        self._pool = {name: values[places] for name, values in self._pool.items()}
        self.size = self._folded = len(places)
        self._runs, self._blocks = Runs(users, offsets_of(lengths)[:-1], lengths), []


def is_among(values: Ints, increasing: Ints) -> NDArray[np.bool_]:
    """Which of `values` [n] are among `increasing` [m]."""
    if not len(increasing):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(increasing, values), len(increasing) - 1)
    return np.asarray(increasing[place] == values)
