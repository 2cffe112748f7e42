"""What a day's rows must become, in plain Python: the events with their values, and the reasons of the others."""

import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.fuzz_days.settings import TAGS, VECTOR, Settings

Values = dict[str, Any]  # of a raw row, by logical name; what no file spells differently
EVENT = ("user_id", "item_id", "time_ms", "request_id", "actions", "price", "tags", "vec", "surface", "country")
FRACTION = r"[+-]?[0-9]+(\.0*|\.[0-9]*[eE]\+?[0-9]+|[eE]\+[0-9]+)"  # a whole number as writers of fractions spell it
MASK = 2**64 - 1
P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)


@dataclass(frozen=True)
class Expected:
    """The events of a day, each as a tuple of EVENT, how many rows have which reason, and the number of rows read."""

    events: Counter[tuple[Any, ...]]
    reasons: Counter[str]
    input_rows: int


def expected_of(rows: Iterable[Values], settings: Settings, malformed: Sequence[str] = ()) -> Expected:
    """What the rows of a day must become.

    Args:
        malformed: further lines, which have too many or too few cells.
    """
    rows = list(rows)
    events: Counter[tuple[Any, ...]] = Counter()
    reasons = Counter({"malformed_row": len(set(malformed))} if malformed else {})
    for row in {repr(sorted(row.items(), key=str)): row for row in rows}.values():
        reason, event = _event(row, settings)
        if reason is None:
            events[event] += 1
        else:
            reasons[reason] += 1
    return Expected(events, reasons, len(rows) + len(malformed))


def _event(row: Values, settings: Settings) -> tuple[str | None, tuple[Any, ...]]:
    """The first reason why a row is no event, or None, and its event."""
    has = settings.names.keys()
    user, item, time = id_of(row.get("user")), id_of(row.get("item")), row.get("time")
    first, end = settings.bounds_ms()
    vector, price, click = row.get("vector"), row.get("price"), row.get("click")
    checks = (
        ("missing_user", user is None),
        ("missing_item", item is None),
        ("missing_time", time is None),
        ("unparsable_vec", vector is not None and len(vector) != VECTOR),
        ("future_time", time is not None and time >= end),
        ("stale_time", time is not None and time < first),
        ("bad_click", click not in (None, True, False)),
    )
    reason = next((name for name, applies in checks if applies), None)
    tags = [id_of(tag) for tag in row.get("tags") or () if id_of(tag) is not None][:TAGS]
    request = row.get("request")
    values = {
        "user_id": user,
        "item_id": item,
        "time_ms": time,
        "request_id": None if request is None or not str(request).strip() else str(request).strip(),
        "actions": bool(click) + 2 * ((row.get("stars") or 0) >= 4),
        "price": -1 if price is None else price,
        "tags": (*tags, *[-1] * (TAGS - len(tags))) if "tags" in has else None,
        "vec": tuple(vector or ()) if "vector" in has else None,
        "surface": category_code(row.get("surface")),
        "country": text_of(row.get("country")),
    }
    return reason, tuple(values[name] for name in EVENT)


def text_of(value: Any) -> str | None:
    """A category's text; whole numbers have one spelling."""
    text = "" if value is None else str(value).strip()
    number = whole_number(text)
    return (str(number) if number is not None and re.fullmatch(FRACTION, text) else text) or None


def id_of(value: Any) -> int | None:
    """An id: a whole number of 64 bits as it is, other text hashed; None where there is none."""
    text = None if value is None else str(value).strip()
    if not text:
        return None
    number = whole_number(text)
    return signed(xxh64(text.encode())) if number is None else number


def category_code(value: Any) -> int:
    """A category's code: a whole number of 32 bits as it is, other text hashed to 31 bits; -1 where there is none."""
    text = text_of(value)
    if text is None:
        return -1
    number = whole_number(text)
    return number if number is not None and -(2**31) <= number < 2**31 else signed(xxh64(text.encode())) % 2**31


def whole_number(text: str) -> int | None:
    """The whole number of 64 bits that a text spells, such as 007, 7.0 and 1.65E12, but not 1e3; else None."""
    if re.fullmatch(r"[+-]?[0-9]+", text):
        number = int(text)
    elif re.fullmatch(FRACTION, text):
        decimal = Decimal(text)
        if abs(decimal) >= Decimal(10) ** 32:
            return None
        number = math.trunc(decimal)
    else:
        return None
    return number if -(2**63) <= number < 2**63 else None


def signed(value: int) -> int:
    """An unsigned number of 64 bits as a signed one."""
    return value - 2**64 if value >= 2**63 else value


def xxh64(data: bytes, seed: int = 42) -> int:
    """XXH64 of Collet, with the seed of Spark's `xxhash64`."""
    length, at = len(data), 0
    if length >= 32:
        lanes = [(seed + P1 + P2) & MASK, (seed + P2) & MASK, seed, (seed - P1) & MASK]
        for at in range(0, length - 31, 32):
            words = struct.unpack_from("<4Q", data, at)
            lanes = [_round(lane, word) for lane, word in zip(lanes, words, strict=True)]
        at += 32
        value = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * P1 + P4) & MASK
    else:
        value = (seed + P5) & MASK
    value = (value + length) & MASK
    while at + 8 <= length:
        value = (_rotate(value ^ _round(0, struct.unpack_from("<Q", data, at)[0]), 27) * P1 + P4) & MASK
        at += 8
    if at + 4 <= length:
        value = (_rotate(value ^ (struct.unpack_from("<I", data, at)[0] * P1 & MASK), 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        value = _rotate(value ^ (byte * P5 & MASK), 11) * P1 & MASK
    value = (value ^ (value >> 33)) * P2 & MASK
    value = (value ^ (value >> 29)) * P3 & MASK
    return value ^ (value >> 32)


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & MASK


def _round(lane: int, word: int) -> int:
    return _rotate((lane + word * P2) & MASK, 31) * P1 & MASK
