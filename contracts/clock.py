"""Local days of a time zone: its offsets from UTC, the day of a time, and the time of a midnight."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from longreel.contracts.jagged import Ints

DAY_MS = 86_400_000
FIRST, LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2061, 1, 1, tzinfo=UTC)
BEGINNING_MS = -(2**63)  # before any int64
STEP = timedelta(days=1)  # no zone changed its offset twice in less


@lru_cache(maxsize=16)
def transitions(zone: str) -> tuple[list[int], list[int]]:
    """When an IANA time zone changes its offset from UTC between 1990 and 2060, and the offsets from then on.

    The offset at a time is `offsets[bisect_right(times, time_ms) - 1]`; before 1990 it is that of 1990, after 2060 that
    of 2060's end.

    Returns:
        UTC milliseconds, increasing, the first at the beginning of time; and as many offsets in milliseconds.
    """
    clock = ZoneInfo(zone)
    times, offsets = [BEGINNING_MS], [_offset(FIRST, clock)]
    at = FIRST
    while at < LAST:
        after = at + STEP
        if _offset(after, clock) != offsets[-1]:
            changed = _first_second(at, after, clock)
            times.append(round(changed.timestamp()) * 1_000)
            offsets.append(_offset(after, clock))
        at = after
    return times, offsets


def local_day(time_ms: Ints, zone: str) -> Ints:
    """The local calendar day [n] of each UTC time [n] in a zone, as days since 1970-01-01."""
    times, offsets = (np.array(values, np.int64) for values in transitions(zone))
    return np.asarray((time_ms + offsets[np.searchsorted(times, time_ms, "right") - 1]) // DAY_MS)


def midnight_ms(day: Ints, zone: str) -> Ints:
    """UTC milliseconds [n] of the midnight that begins each local day [n] in a zone.

    As `datetime` and Spark have it: the first of two, and where the clock skips midnight, the instant of the skip.
    """
    times, offsets = (np.array(values, np.int64) for values in transitions(zone))
    # The clock reads at least this from each change on; where it is turned back, also before.
    clock = times[1:] + np.maximum(offsets[:-1], offsets[1:])
    wall = np.asarray(day) * DAY_MS
    return np.asarray(wall - offsets[np.searchsorted(clock, wall, "right")])


def _first_second(before: datetime, after: datetime, clock: ZoneInfo) -> datetime:
    """The first second with the offset of `after`, which `before` does not have."""
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if _offset(middle, clock) == _offset(before, clock):
            before = middle
        else:
            after = middle
    return after


def _offset(at: datetime, clock: ZoneInfo) -> int:
    """Milliseconds that a zone is ahead of UTC at a time."""
    offset = at.astimezone(clock).utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1_000)
