"""Argument types of the command line: numbers within bounds, and days."""

import argparse
import math
from collections.abc import Callable
from datetime import date

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import LongreelError

MAX_INTEGER = 2**31 - 1  # what MLflow's version numbers and file formats hold


def at_least(minimum: int, maximum: int = MAX_INTEGER) -> Callable[[str], int]:
    """An argparse type: an integer from `minimum` to `maximum`, in decimal digits."""

    def parse(text: str) -> int:
        digits = text.strip().removeprefix("-")
        number = int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= 20 else None
        if number is None or not minimum <= number <= maximum:
            above = "" if maximum == MAX_INTEGER else f" and at most {maximum:,}"
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}{above}, got {text[:40]!r}")
        return number

    return parse


def number_between(low: float, high: float, *, open_low: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number from `low`, or with `open_low` above it, to `high`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high or (open_low and number == low):  # nan is in no range
            begin = f"above {low:g}" if open_low else f"from {low:g}"
            raise argparse.ArgumentTypeError(f"expected a number {begin} to {high:g}, got {text[:40]!r}")
        return number

    return parse


def calendar_day(text: str) -> date:
    """An argparse type: a day as YYYY-MM-DD."""
    try:
        return parse_day(text)
    except LongreelError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
