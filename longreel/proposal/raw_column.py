"""Facts about one raw column: its values, their shape, and what of a row they follow from."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from longreel.proposal import words
from longreel.proposal.times import Times, times_of

Codes = npt.NDArray[np.int64]
PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
TRUTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
YES = {"no": False, "yes": True, "n": False, "y": True, "f": False, "t": True}
PERSONAL = {
    "an e-mail address": re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}"),
    "an IP address": re.compile(r"(\d{1,3}\.){3}\d{1,3}|([0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}", re.IGNORECASE),
    "a phone number": re.compile(r"\+\d[\d ()-]{7,}\d"),
}
PATH_SEPARATORS = (" > ", "/")
SEPARATORS = ("|", ";", ",", *PATH_SEPARATORS)


@dataclass(frozen=True)
class RawColumn:
    """A column of the sample. `codes` [rows] index its distinct `values`; -1 is null. Lists are known by their text."""

    name: str
    codes: Codes
    values: pa.Array  # [distinct]
    is_list: bool  # an array in the file
    type: pa.DataType  # of the file

    @property
    def sql(self) -> str:
        """Its name in SQL."""
        return ".".join(p if PLAIN.fullmatch(p) else f"`{p}`" for p in self.name.split("."))

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its name in lower case; `visitorid` is visitor and id."""
        parts = snake_case(self.name).split("_")
        glued = {word + "id" for word in (*words.USER, *words.ITEM, *words.REQUEST, *words.THING)}
        return tuple(word for part in parts for word in ((part[:-2], "id") if part in glued else (part,)))

    def named(self, any_of: tuple[str, ...]) -> bool:
        """Whether its name has one of some words."""
        return not set(self.words).isdisjoint(any_of)

    @property
    def distinct(self) -> int:
        """Number of distinct values."""
        return len(self.values)

    @cached_property
    def null_share(self) -> float:
        """Share of rows without a value."""
        return float(np.mean(self.codes < 0)) if len(self.codes) else 1.0

    @cached_property
    def counts(self) -> Codes:
        """Rows of each distinct value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=self.distinct)

    @cached_property
    def texts(self) -> "pd.Series[str]":
        """Distinct values as text."""
        return self.values.cast(pa.string()).to_pandas()

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64] | None:
        """Distinct values as numbers; None where one is none."""
        if not self.distinct or self.is_list or not (_is_number(self.type) or _is_text(self.type)):
            return None
        numbers = pd.to_numeric(self.values.to_pandas(), errors="coerce").to_numpy(np.float64)
        return None if np.isnan(numbers).any() else numbers

    @cached_property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self.numbers is not None and bool(np.all(self.numbers == np.floor(self.numbers)))

    @cached_property
    def truth(self) -> npt.NDArray[np.bool_] | None:
        """Whether each distinct value means yes; None where they are neither yes nor no."""
        texts = [text.strip().lower() for text in self.texts] if 0 < self.distinct <= 2 and not self.is_list else [""]
        for meanings in (TRUTH, YES):
            if all(text in meanings for text in texts):
                return np.array([meanings[text] for text in texts])
        return None

    @cached_property
    def truth_sql(self) -> str:
        """SQL that holds where the column says yes."""
        texts = {text.strip().lower() for text in self.texts}
        if texts <= TRUTH.keys():
            return self.sql
        truth = [] if self.truth is None else self.truth.tolist()
        yes = [text for text, holds in zip(self.texts, truth, strict=False) if holds]
        return f"{self.sql} = '{yes[0]}'" if yes else "false"

    @cached_property
    def times(self) -> Times | None:
        """How it says when; None where it does not."""
        return None if self.is_list else times_of(snake_case(self.name), self.sql, self.values)

    @cached_property
    def personal(self) -> str:
        """What its values look like, where that is personal; else empty."""
        some = [text for text in self.texts.iloc[:1_000] if text]
        for what, pattern in PERSONAL.items():
            if some and _is_text(self.type) and sum(map(bool, map(pattern.fullmatch, some))) > len(some) / 2:
                return what
        return ""

    @cached_property
    def elements(self) -> list[list[str]]:
        """Elements of the first distinct values, of a list or of a text with separators; empty for another column."""
        some = list(self.texts.iloc[:5_000])
        if self.is_list:
            return [text.split("\x1f") if text else [] for text in some]
        return [[p.strip() for p in text.strip("[]").split(self.separator)] for text in some] if self.separator else []

    @cached_property
    def separator(self) -> str:
        """What separates the parts of its texts, if parts recur and texts have several; else empty."""
        some = [text.strip("[] ") for text in self.texts.iloc[:5_000]]
        if self.is_list or not _is_text(self.type) or self.numbers is not None or self.times is not None:
            return ""
        for separator in SEPARATORS:
            parts = [[part.strip() for part in text.split(separator)] for text in some if separator in text]
            distinct = {part for split in parts for part in split}
            recurs = sum(map(len, parts)) > 2 * len(distinct)
            is_path = separator in PATH_SEPARATORS and 2 * len({split[0] for split in parts}) <= len(parts)
            is_vector = len({len(split) for split in parts}) == 1 and all(map(NUMBER.fullmatch, distinct))
            is_prose = separator in (",", "/") and any(len(part) > 40 for part in distinct)
            if len(parts) > max(2, 0.3 * len(some)) and (recurs or is_path or is_vector) and not is_prose:
                return separator
        return ""

    def holds(self) -> npt.NDArray[np.bool_]:
        """Whether each row says yes, or has a value other than 0."""
        if self.truth is not None:
            return np.append(self.truth, False)[self.codes].astype(bool)
        filled = np.ones(self.distinct, bool) if self.numbers is None else self.numbers != 0
        return np.append(filled, False)[self.codes]


def raw_columns(rows: pa.Table) -> list[RawColumn]:
    """The columns of a sample."""
    return [_column(name, rows.column(name).combine_chunks()) for name in rows.column_names]


def snake_case(name: str) -> str:
    """A column's name in lower case with underscores: `eventTime` and `Event-Time` are event_time."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_") or "column"


def _column(name: str, values: pa.Array) -> RawColumn:
    kind = values.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list:
        values = pc.binary_join(values.cast(pa.list_(pa.string())), "\x1f")
    elif pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = kind.value_type
    elif pa.types.is_decimal(kind):
        values, kind = values.cast(pa.float64()), pa.float64()
    elif not (_is_number(kind) or _is_text(kind) or pa.types.is_temporal(kind) or pa.types.is_boolean(kind)):
        values = pa.nulls(len(values), pa.string())  # maps and the like: not looked at
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
    encoded = values.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return RawColumn(name, codes, encoded.dictionary, is_list, kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
