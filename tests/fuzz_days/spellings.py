"""Types in which a file can hold a column's values without loss, as pyarrow arrays."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa

from tests.fuzz_days.settings import VECTOR, Settings

TEXTS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}
INTEGERS = {f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)}
FLOATS = {"float64": pa.float64(), "float32": pa.float32(), "float16": pa.float16()}
EXACT = {"float64": 2**53, "float32": 2**24, "float16": 2**11}  # whole numbers up to these are exact
DECIMALS = {"decimal20": pa.decimal128(20, 0), "decimal22.2": pa.decimal128(22, 2), "decimal256": pa.decimal256(40, 0)}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True)
class Spelling:
    """A type, and what a value of a logical row is in it; None stays None."""

    kind: pa.DataType
    convert: Callable[[Any], Any] = lambda value: value

    def array(self, values: Sequence[Any]) -> pa.Array:
        """The values, in this type."""
        converted = [None if value is None else self.convert(value) for value in values]
        if pa.types.is_timestamp(self.kind):
            return pa.array(converted, pa.int64()).cast(self.kind)
        if pa.types.is_binary(self.kind):
            return pa.array(converted, pa.string()).cast(self.kind)
        return pa.array(converted, self.kind)


def spellings(name: str, values: Sequence[Any], settings: Settings) -> dict[str, Spelling]:
    """Every type that can hold the values of a logical column, by name; the plainest is the first."""
    present = [value for value in values if value is not None]
    if name == "time":
        return _times(present, settings)
    if name == "click":
        return _flags()
    if name == "tags":
        return _tags(present) if settings.lists else _texts(lambda tags: ",".join(map(str, tags)))
    if name == "vector":
        return _vectors(present) if settings.lists else _texts(json.dumps)
    if name in ("stars", "price"):
        return _numbers(present)
    whole = _whole(present) if present and all(type(value) is int for value in present) else {}
    if name == "request":  # text as it is: 7 and 7.0 are two requests
        whole = {name: spelling for name, spelling in whole.items() if name in INTEGERS}
    if name == "user":  # beyond 64 bits an id is hashed as it is spelled, with the decimals
        whole.pop("decimal22.2", None)
    is_trimmed = all(str(value).strip() == str(value) != "" for value in present)
    text_of_impala = {"binary": Spelling(pa.binary(), str)} if is_trimmed else {}  # without its annotation
    return whole | _texts(str) | text_of_impala


def nulls(values: Sequence[Any]) -> dict[str, Spelling]:
    """The type null, of a column without a value."""
    return {} if any(value is not None for value in values) else {"null": Spelling(pa.null())}


def _texts(convert: Callable[[Any], str]) -> dict[str, Spelling]:
    return {name: Spelling(kind, convert) for name, kind in TEXTS.items()}


def _whole(values: Sequence[int]) -> dict[str, Spelling]:
    """Types of whole numbers that hold these."""
    low, high = min(values, default=0), max(values, default=0)
    result = {}
    for name, kind in sorted(INTEGERS.items(), key=lambda entry: entry[0] != "int64"):
        bits, is_signed = kind.bit_width, name.startswith("int")
        if (-(2 ** (bits - 1)) if is_signed else 0) <= low and high < 2 ** (bits - is_signed):
            result[name] = Spelling(kind)
    result |= {name: Spelling(kind, float) for name, kind in FLOATS.items() if max(-low, high) <= EXACT[name]}
    fits = max(-low, high) < 10**20
    return result | {name: Spelling(kind, Decimal) for name, kind in DECIMALS.items() if fits}


def _numbers(values: Sequence[float]) -> dict[str, Spelling]:
    """Types of numbers that are whole, or quarters below 2^20."""
    kinds: dict[str, Spelling] = {}
    if all(value == int(value) for value in values):
        for name, spelling in _whole([int(value) for value in values]).items():
            convert = spelling.convert
            kinds[name] = Spelling(spelling.kind, lambda value, convert=convert: convert(int(value)))
    small = max(map(abs, values), default=0) < 2**6
    floats = {"float64": FLOATS["float64"], "float32": FLOATS["float32"]} | ({"float16": pa.float16()} if small else {})
    kinds |= {name: Spelling(kind, float) for name, kind in floats.items()}
    kinds["decimal22.2"] = Spelling(DECIMALS["decimal22.2"], lambda value: Decimal(str(value)))
    return kinds | _texts(str)


def _flags() -> dict[str, Spelling]:
    kinds = {"bool": Spelling(pa.bool_(), bool)}
    kinds |= {name: Spelling(INTEGERS[name], int) for name in ("int64", "int8", "uint8", "uint64")}
    kinds |= {name: Spelling(kind, float) for name, kind in FLOATS.items()}
    kinds["decimal20"] = Spelling(DECIMALS["decimal20"], lambda value: Decimal(int(value)))
    kinds |= _texts(lambda value: str(int(value)))
    for texts in (("false", "true"), ("False", "True"), ("0.0", "1.0"), ("FALSE", "TRUE")):
        kinds[texts[1]] = Spelling(pa.string(), lambda value, texts=texts: texts[bool(value)])
    return kinds


def _tags(values: Sequence[Sequence[Any]]) -> dict[str, Spelling]:
    """Types of lists of whole numbers or texts."""
    elements = [one for value in values for one in value if one is not None]
    as_text = lambda tags: [None if tag is None else str(tag) for tag in tags]  # noqa: E731
    kinds = {}
    if elements and all(type(one) is int for one in elements):
        kinds = {f"list<{name}>": Spelling(pa.list_(INTEGERS[name])) for name in ("int64", "int32")}
    kinds |= {
        "list<string>": Spelling(pa.list_(pa.string()), as_text),
        "large_list<string>": Spelling(pa.large_list(pa.string()), as_text),
        "list<large_string>": Spelling(pa.list_(pa.large_string()), as_text),
        "list<dictionary>": Spelling(pa.list_(TEXTS["dictionary"]), as_text),
    }
    if not elements:
        kinds["list<null>"] = Spelling(pa.list_(pa.null()))
    return kinds


def _vectors(values: Sequence[Sequence[float]]) -> dict[str, Spelling]:
    """Types of lists of numbers."""
    kinds = {f"list<{name}>": Spelling(pa.list_(FLOATS[name])) for name in ("float64", "float32")}
    kinds["large_list<float32>"] = Spelling(pa.large_list(pa.float32()))
    kinds["list<decimal>"] = Spelling(pa.list_(pa.decimal128(12, 2)), lambda v: [Decimal(str(one)) for one in v])
    if all(len(value) == VECTOR for value in values):
        kinds["fixed_size_list"] = Spelling(pa.list_(pa.float32(), VECTOR))
    return kinds


def _times(values: Sequence[int], settings: Settings) -> dict[str, Spelling]:
    """Types of times, given in milliseconds since 1970."""
    if settings.time == "text":
        return _texts(_day_first)
    if settings.time == "timestamp":
        return _timestamps(values, settings)
    # Times in micro- and nanoseconds lie within their millisecond.
    scale = {"ms": lambda ms: ms, "s": lambda ms: ms // 1000, "us": lambda ms: ms * 1000, "ns": lambda ms: ms * 10**6}
    convert = scale[settings.time]
    kinds = {}
    for name, spelling in _whole([convert(value) for value in values]).items():
        if name != "decimal256":
            of_whole = spelling.convert
            kinds[name] = Spelling(spelling.kind, lambda ms, of_whole=of_whole: of_whole(convert(ms)))
    return kinds | _texts(lambda ms: str(convert(ms)))


def _day_first(ms: int) -> str:
    """A time as 02.03.2026 12:00:00."""
    time = EPOCH + timedelta(milliseconds=ms)
    return f"{time:%d.%m}.{time.year:04d} {time:%H:%M:%S}"


def _timestamps(values: Sequence[int], settings: Settings) -> dict[str, Spelling]:
    """Timestamps of all units, with a zone and without."""
    kinds: dict[str, Spelling] = {}
    in_ns = all(abs(value) < 2**63 // 10**6 - 10**10 for value in values)
    in_s = all(value % 1000 == 0 for value in values)
    for unit, scale in UNITS.items():
        if (unit == "ns" and not in_ns) or (unit == "s" and not in_s):
            continue
        for zone in ("UTC", settings.zone, "+05:30", None):
            local = settings if zone is None else None

            def convert(ms: int, scale: int = scale, local: Settings | None = local) -> int:
                ms += 0 if local is None else _offset_ms(ms, local)
                return ms * scale // 1000 + (scale // 1000 and min(scale // 1000 - 1, 123))

            kinds[f"{unit} {zone}"] = Spelling(pa.timestamp(unit, zone), convert)
    return dict(sorted(kinds.items(), key=lambda entry: entry[0] != "ms UTC"))


def _offset_ms(ms: int, settings: Settings) -> int:
    """The zone's offset at a time."""
    offset = (EPOCH + timedelta(milliseconds=ms)).astimezone(settings.clock).utcoffset()
    assert offset is not None
    return round(offset.total_seconds() * 1000)


def is_told_by_its_local_time(ms: int, settings: Settings) -> bool:
    """Whether a time is the first of those with its local time: a clock that is turned back has an hour twice."""
    try:
        local = (EPOCH + timedelta(milliseconds=ms)).astimezone(settings.clock)
    except OverflowError:
        return False
    return local.fold == 0


# Types of a column that nothing reads, with the values of a row's number.
UNREAD: dict[str, Callable[[Sequence[int]], pa.Array]] = {
    "int64": lambda rows: pa.array(rows, pa.int64()),
    "string": lambda rows: pa.array([f'text {row}, "quoted"' for row in rows]),
    "float64": lambda rows: pa.array([row / 3 if row % 3 else None for row in rows]),
    "float16": lambda rows: pa.array([float(row % 9) for row in rows], pa.float16()),
    "bool": lambda rows: pa.array([row % 2 == 0 for row in rows]),
    "null": lambda rows: pa.nulls(len(rows)),
    "uint64": lambda rows: pa.array([2**64 - 1 - row for row in rows], pa.uint64()),
    "decimal128": lambda rows: pa.array([Decimal(row) for row in rows], pa.decimal128(18, 0)),
    "decimal256": lambda rows: pa.array([Decimal(row) for row in rows], pa.decimal256(50, 2)),
    "uuid": lambda rows: pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([row.to_bytes(16, "big") for row in rows], pa.binary(16))
    ),
    "timestamp ns": lambda rows: pa.array(rows, pa.timestamp("ns")),
    "timestamp far": lambda rows: pa.array([2**55 + row for row in rows], pa.timestamp("ms")),
    "date32": lambda rows: pa.array([date(2026, 1, 1)] * len(rows)),
    "date64": lambda rows: pa.array([date(2026, 1, 1)] * len(rows), pa.date64()),
    "time32": lambda rows: pa.array(rows, pa.time32("ms")),
    "time64": lambda rows: pa.array(rows, pa.time64("ns")),
    "duration": lambda rows: pa.array(rows, pa.duration("us")),
    "binary": lambda rows: pa.array([b"\xff\x00" + bytes([row % 256]) for row in rows]),
    "list<timestamp ns>": lambda rows: pa.array([[row] for row in rows], pa.list_(pa.timestamp("ns"))),
    "list<struct>": lambda rows: pa.array([[{"a": row, "b": None}] for row in rows]),
    "struct": lambda rows: pa.array(
        [{"at": row, "x": 1.5} for row in rows], pa.struct([("at", pa.timestamp("ns")), ("x", pa.float32())])
    ),
    "map": lambda rows: pa.array([[("a", row)] for row in rows], pa.map_(pa.string(), pa.int64())),
    "dictionary": lambda rows: pa.array([f"v{row % 2}" for row in rows]).dictionary_encode(),
    "list<null>": lambda rows: pa.array([[] for _ in rows], pa.list_(pa.null())),
}


def draw_spelling(random: Random, name: str, values: Sequence[Any], settings: Settings) -> str:
    """A random type for a column's values: often the plainest."""
    kinds = list(spellings(name, values, settings) | nulls(values))
    return kinds[0] if random.random() < 0.3 else random.choice(kinds)
