"""What does a reader get of a table that lacks a column, or has one too many? What the schema declares.

A schema may gain a column (`schemas.later`) without a rebuild of what was written before. Every reader asks
a file for `stored_columns` and passes what it got through `to_schema`, which puts the declared default in the place of
a column that is not there; columns that the reader's schema does not know are left unread.
"""

from collections.abc import Collection

import pyarrow as pa

from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import list_values
from longreel.contracts.schemas import AddedColumn, added_column_of


def stored_columns(schema: pa.Schema, present: Collection[str]) -> list[str]:
    """The columns to read of a file that has the columns `present`, so that `to_schema` can give those of a schema."""
    wanted = [field.name for field in schema if field.name in present]
    absent = (added_column_of(field) for field in schema if field.name not in present)
    beside = (later.parallel_to for later in absent if later is not None and later.parallel_to in present)
    return list(dict.fromkeys([*wanted, *(name for name in beside if name is not None)]))


def missing_columns(schema: pa.Schema, present: Collection[str]) -> list[str]:
    """The columns of a schema that have no default and are not `present`."""
    return [field.name for field in schema if field.name not in present and added_column_of(field) is None]


def to_schema(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """The schema's columns of a table, in its types, with defaults where a later column is not there.

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
    later: AddedColumn | None = added_column_of(field)
    assert later is not None
    if later.parallel_to is None:
        return pa.repeat(pa.scalar(later.default, field.type), table.num_rows)
    values, offsets = list_values(table, later.parallel_to)
    filled = pa.repeat(pa.scalar(later.default, field.type.value_type), len(values))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), filled)
