"""Durations and delays as longreel.toml spells them: `48 h`, `10 min`, and `next day`; and the time that is left."""

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


def time_left(elapsed_s: float, share_done: float) -> str:
    """The time that work will still take at its pace so far, as progress lines say it: `about 3 min left`.

    Empty before anything is done, when no pace is known.
    """
    if share_done <= 0:
        return ""
    left = max(0.0, elapsed_s / share_done - elapsed_s)
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if left >= 2 * unit_s:
            return f"about {left / unit_s:.0f} {unit} left"
    return f"about {left:.0f} s left"
