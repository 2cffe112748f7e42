"""Offsets of a time zone from UTC, as integers that a device can search."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

Transition = tuple[int, int]  # from this time on (ms since 1970 UTC), local time is so many ms ahead of UTC

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


def transitions(time_zone: str) -> tuple[Transition, ...]:
    """The changes of a zone's offset from 1970 to 2100, the first at 1970. Zones change at whole minutes."""
    zone = ZoneInfo(time_zone)

    def offset(time: datetime) -> timedelta:
        return time.astimezone(zone).utcoffset() or timedelta()

    found, day = [(FIRST, offset(FIRST))], FIRST
    while day < LAST:
        before, after = day, day + DAY
        if offset(before) != offset(after):
            while after - before > MINUTE:
                middle = before + (after - before) // 2 // MINUTE * MINUTE
                before, after = (middle, after) if offset(middle) == offset(before) else (before, middle)
            found.append((after, offset(after)))
        day += DAY
    return tuple((_ms(time - FIRST), _ms(ahead)) for time, ahead in found)


def _ms(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
