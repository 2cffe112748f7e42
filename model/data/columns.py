"""Columns of a samples table as flat arrays, and which of them a model reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints, list_values
from longreel.contracts.log_schema import Column, LogSchema
from longreel.contracts.schemas import dataset_schemas

Columns = dict[str, NDArray[Any]]  # by column name, each [n] or [n, size], of the stored type
REQUEST_COLUMNS = tuple(Column(name, pa.int64()) for name in ("time_ms", "history_end", "target_end"))


def rows_schema(log_schema: LogSchema, labels: LogSchema | None) -> pa.Schema:
    """The columns of samples that a model of one log schema reads, with the labels of another; None: without labels.

    Request ids are not among them: no model reads them, and strings are slow to decode.
    """
    fields = [field for field in dataset_schemas(log_schema).request_table if field.name != "request_id"]
    if labels is not None:
        names = ("target_labels", *(f"target_label_{name}" for name in labels.number_labels))
        fields += [dataset_schemas(labels).samples.field(name) for name in names]
    return pa.schema(fields)


def label_columns(labels: LogSchema) -> tuple[Column, ...]:
    """Columns of a target's labels: the bitmask of the binary ones, then number labels."""
    numbers = (Column(f"label_{name}", pa.float32()) for name in labels.number_labels)
    return (Column("labels", labels.labels_type), *numbers)


def column_values(array: pa.Array | pa.ChunkedArray, name: str) -> NDArray[Any]:
    """A column's values [n], without a copy where there is one chunk.

    Raises:
        LongreelError: it has nulls.
    """
    if array.null_count:
        raise LongreelError(f"column {name}: expected no nulls, got {array.null_count}")
    return np.asarray(array.to_numpy(zero_copy_only=False))


def user_values(table: pa.Table, column: Column) -> NDArray[Any]:
    """A user column's values [U] or [U, size].

    Raises:
        LongreelError: it has nulls, or lists of another size.
    """
    name = f"user_{column.name}"
    if column.size == 1:
        return column_values(table.column(name), name)
    array, offsets = list_values(table, name)
    if lengths := set(np.diff(offsets).tolist()) - {column.size}:
        raise LongreelError(f"column {name}: expected {column.size} elements for every user, got {min(lengths)}")
    return column_values(array, name).reshape(-1, column.size)


def parallel_values(table: pa.Table, prefix: str, columns: Sequence[Column]) -> tuple[Columns, Ints]:
    """The list columns prefix_name, the first of one element an event: values by name, and the offsets of events.

    Raises:
        LongreelError: a row's lists have other lengths than `size` times that of the first column.
    """
    values: Columns = {}
    first: Ints | None = None
    for column in columns:
        name = f"{prefix}_{column.name}"
        array, offsets = list_values(table, name)
        if first is None:
            first = offsets
        elif not np.array_equal(offsets, first if column.size == 1 else first * column.size):
            raise LongreelError(_unequal(name, offsets, f"{prefix}_{columns[0].name}", first, column.size))
        flat = column_values(array, name)
        values[column.name] = flat if column.size == 1 else flat.reshape(-1, column.size)
    assert first is not None
    return values, first


def _unequal(name: str, offsets: Ints, first_name: str, first: Ints, size: int) -> str:
    row = int(np.argmax(np.diff(offsets) != size * np.diff(first)))
    got, events = (int(np.diff(ends)[row]) for ends in (offsets, first))
    return (
        f"{name} and {first_name} differ in length: row {row} has {got:,} and {events:,} elements, expected "
        f"{size} of {name} for each of {first_name}"
    )
