"""Calendar days: parsing, ranges and numbers."""

from datetime import date, timedelta

from longreel.contracts.errors import LongreelError

EPOCH = date(1970, 1, 1)


def parse_day(text: str) -> date:
    """2026-11-01 -> a date.

    Raises:
        LongreelError: the text is not YYYY-MM-DD.
    """
    if not text:
        raise LongreelError("expected a day as YYYY-MM-DD, got none; in Airflow, enter one when you trigger the DAG")
    try:
        day = date.fromisoformat(text)  # accepts 20261101 and 2026-W44-7 too
        if str(day) == text:
            return day
        raise ValueError(text)
    except ValueError as error:
        raise LongreelError(f"expected a day as YYYY-MM-DD, got {text!r}") from error


def day_range(start: date, end: date) -> list[date]:
    """Every day from start to end, both inclusive.

    Raises:
        LongreelError: end is before start.
    """
    if end < start:
        raise LongreelError(f"the range ends on {end}, before it starts on {start}")
    return [start + timedelta(days=i) for i in range((end - start).days + 1)]


def day_number(day: date) -> int:
    """A day as days since 1970."""
    return (day - EPOCH).days


def day_of_number(number: int) -> date:
    """The day so many days after 1970-01-01."""
    return EPOCH + timedelta(days=number)
