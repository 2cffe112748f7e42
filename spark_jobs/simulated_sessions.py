"""Sessions of a simulated day, weighted draws of items, faults of delivery: what the simulated worlds share."""

from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo

import numpy as np

from longreel.spark_jobs.simulated_world import MAX_IMPRESSIONS, Bools, Floats, Ints

DUPLICATE_SHARE = 0.001  # rows that the client sent twice, as real logs have them
BROKEN_SHARE = 0.0002  # rows that lost their item id on the way


@dataclass(frozen=True)
class Sessions:
    """A day's requests `[R]`, ordered by user and time."""

    user: Ints
    time_ms: Ints
    session: Ints  # 0 .. count - 1
    count: int


def midnight_ms(day: date, clock: tzinfo) -> int:
    """The day's first millisecond in a time zone, since the epoch."""
    return int(datetime.combine(day, time(), clock).timestamp() * 1_000)


def draw_sessions(daily: Floats, start_ms: int, length_ms: int, shown: int, rng: np.random.Generator) -> Sessions:
    """Sessions of a few requests: a start by time of day, then a request every minute or so.

    Args:
        daily: [U] typical impressions a day of each user.
        start_ms: the day's first millisecond.
        length_ms: the day's length.
        shown: impressions of a request, about.
    """
    users = len(daily)
    is_active = rng.random(users) < np.clip(0.55 + 0.1 * np.log1p(daily), 0, 0.98)
    impressions = np.minimum(daily * rng.lognormal(-0.045, 0.3, users), MAX_IMPRESSIONS)
    count = np.where(is_active, np.clip(np.ceil(impressions / shown), 1, None), 0).astype(np.int64)
    user = np.repeat(np.arange(users), count)
    first = np.repeat(np.cumsum(count) - count, count)
    per_session = 4 + user % 5
    new = (np.arange(len(user)) - first) % per_session == 0
    session = np.cumsum(new) - 1  # over the whole day
    sessions = int(new.sum())
    start = rng.beta(4, 2, sessions) * (length_ms - 900_000)
    gaps = np.where(new, 0, rng.integers(30_000, 90_000, len(user)))
    elapsed = np.cumsum(gaps) - np.maximum.accumulate(np.where(new, np.cumsum(gaps), 0))
    time_ms = start_ms + start[session].astype(np.int64) + elapsed
    order = np.lexsort((session, time_ms, user))
    return Sessions(user=user[order], time_ms=time_ms[order], session=session[order], count=sessions)


class WeightedItems:
    """Items grouped by a key, drawn within a group in proportion to their weight."""

    def __init__(self, key: Ints, groups: int, weight: Floats) -> None:
        self.order = np.argsort(key, kind="stable")
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight[self.order])])
        self.bounds = np.searchsorted(key[self.order], np.arange(groups + 1))

    def draw(self, group: Ints, rng: np.random.Generator) -> Ints:
        """One item of each group [n]; an empty group gives the next item in the order."""
        low, high = self.cumulative[self.bounds[group]], self.cumulative[self.bounds[group + 1]]
        point = low + rng.random(len(group)) * (high - low)
        place = np.searchsorted(self.cumulative, point, side="right") - 1
        within: Ints = np.clip(place, 0, len(self.order) - 1)
        return self.order[within]


def any_of(table: Ints, rows: Ints, rng: np.random.Generator) -> Ints:
    """A random column of each of the `rows` of a table."""
    return np.asarray(table[rows, rng.integers(0, table.shape[1], len(rows))])


def rank_within(group: Ints) -> Ints:
    """How many elements before each one [n] are of its group."""
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))
    return rank


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-x)))


def sent_rows(rows: Ints, rng: np.random.Generator) -> tuple[Ints, Bools, Ints]:
    """Rows as a client sends them: some twice, which of those sent have lost their item id, and the intact ones."""
    broken = rng.random(len(rows)) < BROKEN_SHARE
    times = 1 + (rng.random(len(rows)) < DUPLICATE_SHARE)
    return np.repeat(rows, times), np.repeat(broken, times), rows[~broken]
