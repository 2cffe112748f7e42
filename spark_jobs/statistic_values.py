"""The value that a row has of a statistic's columns: one number, the same in NumPy and in Spark.

Of one column it is that column's id or category; of several together a 64-bit hash, Spark's xxhash64 (XXH64 of Collet,
seed 42). A row in which one of the columns is unknown has none.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import UNKNOWN
from longreel.contracts.statistics import USER, Statistic

if TYPE_CHECKING:
    from pyspark.sql import Column

SEED = 42
PRIMES = tuple(
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
Words = NDArray[np.uint64]


def _rotated(words: Words, bits: int) -> Words:
    return np.asarray((words << np.uint64(bits)) | (words >> np.uint64(64 - bits)))


def xxhash64(columns: list[Ints]) -> Ints:
    """Spark's `xxhash64` of BIGINT columns [n] each."""
    p1, p2, p3, p4, p5 = PRIMES
    state = np.full(len(columns[0]), SEED, np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            word = np.ascontiguousarray(column, np.int64).view(np.uint64)
            state = state + p5 + np.uint64(8)
            state = _rotated(state ^ (_rotated(word * p2, 31) * p1), 27) * p1 + p4
            state = (state ^ (state >> np.uint64(33))) * p2
            state = (state ^ (state >> np.uint64(29))) * p3
            state = state ^ (state >> np.uint64(32))
    return state.view(np.int64)


def values_of(statistic: Statistic, columns: Mapping[str, NDArray[Any]]) -> tuple[Ints, NDArray[np.bool_]]:
    """The values [n] of rows, and which of them are known.

    Args:
        columns: at least those of the statistic, [n] each.
    """
    of = [np.asarray(columns[name]).astype(np.int64) for name in statistic.of]
    is_known = np.ones(len(of[0]), bool)
    for name, column in zip(statistic.of, of, strict=True):
        if name != USER:
            is_known &= column != UNKNOWN
    return (of[0] if len(of) == 1 else xxhash64(of)), is_known


def value_column(statistic: Statistic) -> "Column":
    """As `values_of`, over a frame of events; null where a value is unknown."""
    from pyspark.sql import functions as F

    of = [F.col(name).cast("bigint") for name in statistic.of]
    is_known = F.lit(True)
    for name, column in zip(statistic.of, of, strict=True):
        if name != USER:
            is_known &= column != UNKNOWN
    return F.when(is_known, of[0] if len(of) == 1 else F.xxhash64(*of))
