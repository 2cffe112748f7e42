"""Offsets of a time zone agree with the zone itself at any time."""

import random
from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from longreel.contracts.clock import DAY_MS, local_day, midnight_ms, transitions

ZONES = ("UTC", "Asia/Shanghai", "Asia/Kolkata", "Europe/Berlin", "America/Santiago", "Africa/Casablanca")
ODD_ZONES = ("Australia/Lord_Howe", "Pacific/Apia", "America/Caracas", "Asia/Kathmandu", "Antarctica/Troll")


@pytest.mark.parametrize("zone", [*ZONES, *ODD_ZONES])
def test_the_offset_is_the_zones_at_random_times_and_around_every_change(zone: str) -> None:
    times, offsets = transitions(zone)
    assert times == sorted(set(times))
    assert len(times) == len(offsets)
    draw = random.Random(zone)
    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1_000) for year in (1990, 2061))
    around = [time_ms + step for time_ms in times[1:] for step in (-1_000, -1, 0, 1_000)]
    for time_ms in [*(draw.randrange(first, last) for _ in range(2_000)), *around]:
        offset = datetime.fromtimestamp(time_ms / 1_000, ZoneInfo(zone)).utcoffset()
        assert offset is not None
        assert offsets[bisect_right(times, time_ms) - 1] == offset.total_seconds() * 1_000, (zone, time_ms)


def test_a_zone_has_one_entry_for_each_change() -> None:
    assert transitions("UTC")[1] == [0]
    assert len(transitions("Europe/Berlin")[0]) == 1 + 2 * 71  # summer time and back, 1990 .. 2060


@pytest.mark.parametrize("zone", [*ZONES, *ODD_ZONES, "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut"])
def test_local_days_and_midnights_are_the_calendars(zone: str) -> None:
    """Also where the clock skips midnight (Sao Paulo until 2018), a whole day (Apia), or has it twice."""
    times, _ = transitions(zone)
    draw, clock = random.Random(zone), ZoneInfo(zone)
    around = [t + step for t in times[1:] for step in (-DAY_MS, -3_600_000, -60_000, -1, 0, 59_999, 3_600_000, DAY_MS)]
    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1_000) for year in (1990, 2060))
    moments = np.array([*(draw.randrange(first, last) for _ in range(1_000)), *around])
    days = local_day(moments, zone)
    for time_ms, day, midnight in zip(moments.tolist(), days.tolist(), midnight_ms(days, zone).tolist(), strict=True):
        local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)).astimezone(clock)
        assert day == (local.date() - date(1970, 1, 1)).days
        assert midnight == datetime(local.year, local.month, local.day, tzinfo=clock).timestamp() * 1_000
        assert midnight <= time_ms
