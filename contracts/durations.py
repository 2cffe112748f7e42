"""Durations and delays as longreel.toml spells them: `48 h`, `10 min`, and `next day`."""

import re

from longreel.contracts.errors import LongreelError

UNITS_MS = {"s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
NEXT_DAY = "next day"  # the local midnight that ends the day
_DURATION = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(UNITS_MS)})")


def duration_ms(text: str, where: str) -> int:
    """Milliseconds of a duration such as `48 h`, `10 min`, `2 d` or `30 s`.

    Raises:
        LongreelError: it is none; the message begins with `where`.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise LongreelError(f"{where}: expected a number and one of {', '.join(UNITS_MS)}, such as 48 h, got {text!r}")
    return round(float(match[1]) * UNITS_MS[match[2]])


def delay_ms(text: str, where: str) -> int | None:
    """Milliseconds of a delay, 0 of an empty one; None stands for NEXT_DAY.

    Raises:
        LongreelError: it is neither a duration nor `next day`.
    """
    if text == NEXT_DAY:
        return None
    if not text:
        return 0
    try:
        return duration_ms(text, where)
    except LongreelError as error:
        units = ", ".join(UNITS_MS)
        raise LongreelError(
            f"{where}: expected {NEXT_DAY!r}, or a number and one of {units}, such as 10 min, got {text!r}"
        ) from error
