"""Jagged arrays: lists as one flat array of values and offsets [n + 1], as Arrow stores them."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError

Ints = NDArray[np.int64]


def offsets_of(lengths: Ints) -> Ints:
    """[n] lengths -> [n + 1] offsets, from 0."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The concatenated index ranges start, start + 1 .. start + length - 1 of every pair."""
    offsets = offsets_of(lengths)
    return np.asarray(np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]))


def list_values(table: pa.Table, name: str) -> tuple[pa.Array, Ints]:
    """A list column's values, and their offsets [rows + 1] from 0.

    Raises:
        LongreelError: the column has nulls.
    """
    column = table.column(name)
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # makes a copy
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    if column.null_count:
        raise LongreelError(f"column {name}: expected no nulls, got {column.null_count}")
    offsets = np.asarray(column.offsets.to_numpy(), np.int64)
    return column.flatten(), offsets - offsets[0]
