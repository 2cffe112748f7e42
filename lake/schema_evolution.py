"""Schema evolution: tables that lack a column, or have one too many, as the current schema declares.

A schema may gain a column (`schemas.added_column`) without a rebuild of older partitions. Every reader asks a file for
`stored_columns` and passes them through `to_schema`, which fills in the declared default where a column is missing.
Columns that the reader's schema does not know are not read.
"""

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import list_values
from longreel.contracts.schemas import added_column_of


def stored_columns(schema: pa.Schema, present: Collection[str]) -> list[str]:
    """The columns to read of a file that has the columns `present`, so that `to_schema` can give those of a schema."""
    stored = [field.name for field in schema if field.name in present]
    added = (added_column_of(field) for field in schema if field.name not in present)
    parallels = [column.parallel_to for column in added if column is not None and column.parallel_to in present]
    return list(dict.fromkeys([*stored, *(name for name in parallels if name is not None)]))


def missing_columns(schema: pa.Schema, present: Collection[str]) -> list[str]:
    """The columns of a schema that have no default and are not `present`."""
    return [field.name for field in schema if field.name not in present and added_column_of(field) is None]


def to_schema(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """The schema's columns of a table, in its types, with the default where an added column is missing.

    Args:
        what: names the table in an error.

    Raises:
        LongreelError: a column is missing and has no default, or cannot be read as its type.
    """
    if missing := missing_columns(schema, table.column_names):
        raise LongreelError(
            f"{what}: column {', '.join(missing)} is missing; got {', '.join(table.column_names)}; "
            "see contracts/schemas.py"
        )
    try:
        present = set(table.column_names)
        columns = [table.column(f.name) if f.name in present else _default(table, f) for f in schema]
        return pa.table(columns, names=schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError) as error:
        raise LongreelError(f"{what}: {error}; expected\n{schema}") from error


def _default(table: pa.Table, field: pa.Field) -> pa.Array:
    """An added column's default in every row, or for every element of the list column that it is parallel to."""
    column = added_column_of(field)
    assert column is not None
    if not pa.types.is_list(field.type):
        return pa.repeat(pa.scalar(column.default, field.type), table.num_rows)
    offsets = np.arange(table.num_rows + 1) if column.parallel_to is None else list_values(table, column.parallel_to)[1]
    offsets = (offsets - offsets[0]) * column.size
    defaults = pa.repeat(pa.scalar(column.default, field.type.value_type), int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), defaults)
