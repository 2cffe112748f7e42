"""Local calendar days of a Spark column of times."""

from typing import TYPE_CHECKING

from longreel.contracts.clock import DAY_MS, transitions

if TYPE_CHECKING:
    from pyspark.sql import Column


def local_day_column(time_ms: "Column", zone: str, since_ms: int) -> "Column":
    """As `contracts.clock.local_day`, of a Spark column whose times lie at `since_ms` or later."""
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
