"""Times among raw values: their unit or format, and the SQL that ingest reads them with."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

NAMED = re.compile(r"(^|_)(time|times|timestamp|ts|date|datetime|at|epoch|unix|ms|when|on)(_|$)")
FIRST_S, LAST_S = 631_152_000, 2_524_608_000  # 1990 .. 2050: a number outside is no time
UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}  # of a second
# Text: what it looks like, pandas' format of it (None: ISO 8601) and Spark's.
FORMATS = (
    (re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d+)?( ?UTC|Z|[+-]\d\d:?\d\d)?)?"), None, ""),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"), "%Y-%m-%d %H:%M", "yyyy-MM-dd HH:mm"),
    (re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d"), "%Y/%m/%d %H:%M:%S", "yyyy/MM/dd HH:mm:ss"),
    (re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d"), "%d/%m/%Y %H:%M:%S", "dd/MM/yyyy HH:mm:ss"),
    (re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d"), "%m/%d/%Y %H:%M:%S", "MM/dd/yyyy HH:mm:ss"),
    (re.compile(r"\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d"), "%d.%m.%Y %H:%M:%S", "dd.MM.yyyy HH:mm:ss"),
    (re.compile(r"(19|20)\d{12}"), "%Y%m%d%H%M%S", "yyyyMMddHHmmss"),
    (re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"), "%Y%m%d", "yyyyMMdd"),
)
NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Times:
    """How a column says when. `ms` [distinct values]: milliseconds since 1970 UTC, NO_TIME where a value is none."""

    what: str  # unit or format, for people
    sql: str  # a timestamp, or milliseconds
    ms: npt.NDArray[np.int64]
    is_millis: bool  # whether `sql` is a number of milliseconds
    zero_is_none: bool = False  # 0 stands for no time
    has_zone: bool = True

    @property
    def is_date(self) -> bool:
        """Whether every time is a midnight."""
        times = self.ms[self.ms != NO_TIME]
        return bool(np.all(times % 86_400_000 == 0))

    def day_sql(self) -> str:
        """SQL for the date in UTC."""
        return f"to_date({f'timestamp_millis({self.sql})' if self.is_millis else self.sql})"


def times_of(name: str, sql: str, values: pa.Array) -> Times | None:
    """Times in a column's distinct values; None where it holds something else."""
    kind = values.type
    if not len(values) or pa.types.is_boolean(kind):
        return None
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        ms = values.cast(pa.timestamp("ns")).to_numpy(zero_copy_only=False).astype("datetime64[ms]").astype(np.int64)
        zone = pa.types.is_timestamp(kind) and kind.tz is not None
        return Times("date" if pa.types.is_date(kind) else "timestamp", sql, ms, False, has_zone=zone)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text or pa.types.is_integer(kind):
        texts = values.cast(pa.string()).to_pandas()
        if (formatted := _formatted(sql if is_text else f"CAST({sql} AS string)", texts)) is not None:
            return formatted
    numbers = pd.to_numeric(values.to_pandas(), errors="coerce").to_numpy(np.float64)
    return None if np.isnan(numbers).any() else _of_unit(name, sql, numbers, is_text)


def _of_unit(name: str, sql: str, numbers: npt.NDArray[np.float64], is_text: bool) -> Times | None:
    """Numbers since 1970, in the unit that puts all of them between 1990 and 2050."""
    some = numbers != 0
    if not some.any():
        return None
    for what, unit in UNITS.items():
        seconds = numbers[some] / unit
        if seconds.min() < FIRST_S or seconds.max() > LAST_S:
            continue
        if what == "seconds" and not NAMED.search(name.lower()):
            return None  # ten digits are as often an id
        is_whole = bool(np.all(numbers == np.floor(numbers)))
        number = f"try_cast({sql} AS {'bigint' if is_whole else 'double'})" if is_text else sql
        millis = {
            "seconds": f"{number} * 1000" if is_whole else f"CAST({number} * 1000 AS bigint)",
            "milliseconds": sql if is_whole else f"CAST({number} AS bigint)",
        }.get(what, f"CAST({number} AS bigint) DIV {unit / 1e3:.0f}")
        ms = np.full(len(numbers), NO_TIME, np.int64)
        ms[some] = (seconds * 1e3).astype(np.int64)
        return Times(f"{what} since 1970", millis, ms, True, zero_is_none=not some.all())
    return None


def _formatted(sql: str, texts: "pd.Series[str]") -> Times | None:
    first = texts.iloc[:1_000]
    for pattern, python, spark in FORMATS:
        if not first.map(pattern.fullmatch).notna().all():
            continue
        times = pd.to_datetime(texts, format=python or "ISO8601", utc=True, errors="coerce")
        if times.isna().any():
            continue
        ms = times.dt.tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
        zone = not python and bool(first.str.contains(r"(?:UTC|Z|[+-]\d\d:?\d\d)$").all())
        function = f"try_to_timestamp({sql}, '{spark}')" if spark else f"try_to_timestamp({sql})"
        return Times(f"text such as {first.iloc[0]}", function, ms, False, has_zone=zone)
    return None
