"""Log days of time zones: they follow each other without gap, also where a day has 23 or 25 hours."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from longreel.contracts.config import SourceConfig, parse_config
from longreel.contracts.presets import preset
from longreel.spark_jobs.day_bounds import event_bounds_ms, log_day_bounds_ms

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("zone", "day", "hours", "start"),
    [
        ("Asia/Shanghai", date(2022, 4, 25), 24, "2022-04-24T16:00:00Z"),
        ("Europe/Berlin", date(2026, 3, 28), 24, "2026-03-27T23:00:00Z"),
        ("Europe/Berlin", date(2026, 3, 29), 23, "2026-03-28T23:00:00Z"),
        ("Europe/Berlin", date(2026, 10, 25), 25, "2026-10-24T22:00:00Z"),
        ("America/Santiago", date(2026, 9, 6), 23, "2026-09-06T04:00:00Z"),  # begins at 01:00, there is no midnight
        ("America/Santiago", date(2026, 4, 4), 25, "2026-04-04T03:00:00Z"),  # 23:00 comes twice
        ("America/Havana", date(2026, 11, 1), 25, "2026-11-01T04:00:00Z"),  # midnight comes twice
        ("Pacific/Apia", date(2011, 12, 30), 0, "2011-12-30T10:00:00Z"),  # a day that was left out
    ],
)
def test_a_log_day_is_as_long_as_its_clock_says(zone: str, day: date, hours: int, start: str) -> None:
    start_ms, end_ms = log_day_bounds_ms(day, SourceConfig(time_zone=zone))
    assert start_ms == datetime.fromisoformat(start).timestamp() * 1_000
    assert end_ms - start_ms == hours * HOUR_MS


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Santiago", "Asia/Shanghai", "America/Havana"])
def test_every_time_of_a_year_belongs_to_the_day_that_the_clock_shows(zone: str) -> None:
    source = SourceConfig(time_zone=zone)
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
    bounds = [log_day_bounds_ms(day, source) for day in days]
    assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
    for day, (start_ms, end_ms) in zip(days, bounds, strict=True):
        for time_ms in (start_ms, start_ms + HOUR_MS, end_ms - HOUR_MS, end_ms - 1):
            assert datetime.fromtimestamp(time_ms / 1_000, ZoneInfo(zone)).date() == day


def test_lateness_is_counted_in_hours_before_the_days_midnight() -> None:
    source = SourceConfig(time_zone="Europe/Berlin", max_lateness_hours=1.5)
    start_ms, end_ms = log_day_bounds_ms(date(2026, 3, 29), source)
    assert event_bounds_ms(date(2026, 3, 29), source) == (start_ms - 5_400_000, end_ms)


def test_kuairands_days_are_those_of_shanghai() -> None:
    assert parse_config(preset("kuairand")).source.time_zone == "Asia/Shanghai"
