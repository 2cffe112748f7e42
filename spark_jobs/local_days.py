"""Local calendar days of times, as whole days since 1970: the same in NumPy and in Spark."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from longreel.contracts.clock import transitions
from longreel.contracts.jagged import Ints

if TYPE_CHECKING:
    from pyspark.sql import Column

DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1)


def day_number(day: date) -> int:
    """A day as days since 1970."""
    return (day - EPOCH).days


def day_of_number(number: int) -> date:
    """The day so many days after 1970-01-01."""
    return EPOCH + timedelta(days=number)


def local_days(times_ms: Ints, zone: str) -> Ints:
    """The local days of times [n] in an IANA time zone."""
    times, offsets = transitions(zone)
    offset = np.array(offsets, np.int64)[np.searchsorted(np.array(times, np.int64), times_ms, side="right") - 1]
    return np.asarray((times_ms + offset) // DAY_MS)


def local_day_column(time_ms: "Column", zone: str, since_ms: int) -> "Column":
    """As `local_days`, of a Spark column whose times lie at `since_ms` or later."""
    from pyspark.sql import functions as F

    times, offsets = transitions(zone)
    changes = [(time, offset) for time, offset in zip(times, offsets, strict=True) if time > since_ms]
    start = offsets[len(offsets) - len(changes) - 1]

    def offset_at(before: int, after: list[tuple[int, int]]) -> "Column":
        """The offset at a time: a binary search, since a zone has up to 140 changes. `before` is that of times before
        the first of `after`."""
        if not after:
            return F.lit(before)
        middle = len(after) // 2
        time, offset = after[middle]
        earlier, later = offset_at(before, after[:middle]), offset_at(offset, after[middle + 1 :])
        return F.when(time_ms < F.lit(time), earlier).otherwise(later)

    return F.floor((time_ms + offset_at(start, changes)) / F.lit(DAY_MS)).cast("int")
