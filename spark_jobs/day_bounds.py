"""Time bounds of a log day, in milliseconds since 1970 UTC."""

from datetime import date, datetime, timedelta

from longreel.contracts.config import SourceConfig

EARLIEST_MS = 631_152_000_000  # 1990: older times of imported history are seconds, or a typing error


def log_day_bounds_ms(day: date, source: SourceConfig) -> tuple[int, int]:
    """First millisecond of a log day on the source's clock, and of the day after."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=source.clock)
    return round(midnight.timestamp() * 1_000), round((midnight + timedelta(days=1)).timestamp() * 1_000)


def event_bounds_ms(day: date, source: SourceConfig) -> tuple[int, int]:
    """Earliest time of an event of a log day, late ones included, and the first time that is too late for it."""
    start_ms, end_ms = log_day_bounds_ms(day, source)
    return start_ms - round(source.max_lateness_hours * 3_600_000), end_ms
