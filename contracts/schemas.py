"""Schemas of every dataset in the lake. Times are milliseconds since the epoch, UTC.

A list column ending in an event field (`history_time_ms`, `target_item_id`) is parallel to its siblings: element i of
each belongs to one event. Lists hold primitives, so a reader gets values and offsets without touching a row in Python.
docs/decisions/0007-schemas-grow-at-the-edges.md says what may change here and what else a change needs.
"""

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

SCHEMA_VERSION = 1  # raised by every change of a column of any dataset

UNKNOWN = -1  # author, tag or surface that the source does not give


@dataclass(frozen=True, kw_only=True)
class AddedColumn:
    """A column that came with schema version `since`. Older tables read as `default` in every row, or in every element
    of a list as long as the list column `parallel_to`."""

    since: int
    default: int | str | None
    parallel_to: str | None = None


def added_column(name: str, kind: pa.DataType, column: AddedColumn) -> pa.Field:
    """A column that a dataset has gained, nullable where its default is null.

    Raises:
        ValueError: the declaration does not fit the type or SCHEMA_VERSION.
    """
    if not 1 < column.since <= SCHEMA_VERSION:
        raise ValueError(f"{name}: since {column.since}, expected 2 .. SCHEMA_VERSION, which is {SCHEMA_VERSION}")
    if pa.types.is_list(kind) != (column.parallel_to is not None):
        raise ValueError(
            f"{name}: a list column needs `parallel_to`, a column of its length, and no other column has one"
        )
    if column.parallel_to is not None and column.default is None:
        raise ValueError(f"{name}: elements of lists are never null; give a default")
    pa.scalar(column.default, kind.value_type if column.parallel_to else kind)  # fails for a value of another type
    metadata = {"added_column": json.dumps(asdict(column))}
    return pa.field(name, kind, nullable=column.default is None, metadata=metadata)


def added_column_of(field: pa.Field) -> AddedColumn | None:
    """The declaration of an added column; None for a column of the first version."""
    text = (field.metadata or {}).get(b"added_column")
    return None if text is None else AddedColumn(**json.loads(text))


# events/date=D: one row per impression of the log day D, sorted by (user_id, time_ms).
EVENTS = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("time_ms", pa.int64(), nullable=False),
        pa.field("request_id", pa.string()),  # null where the source has none
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("author_id", pa.int64(), nullable=False),
        pa.field("tag", pa.int32(), nullable=False),
        pa.field("surface", pa.int32(), nullable=False),
        pa.field("actions", pa.int32(), nullable=False),  # contracts.actions.ACTIONS
        pa.field("play_ms", pa.int64(), nullable=False),
        pa.field("duration_ms", pa.int64(), nullable=False),  # 0 where unknown
    ]
)

# users/date=D: the categorical features of the users active on D, hashed to int64, in the order the manifest names.
USERS = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("user_features", pa.list_(pa.int64()), nullable=False),
    ]
)

# quarantine/date=D: complete rows that ingest rejected, with the first reason that applied.
QUARANTINE = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),  # the raw row as JSON
    ]
)

# The fields of a history event, in storage order. `history_end` counts elements of these lists.
HISTORY_FIELDS: dict[str, pa.DataType] = {
    "time_ms": pa.int64(),
    "item_id": pa.int64(),
    "author_id": pa.int64(),
    "tag": pa.int32(),
    "surface": pa.int32(),
    "actions": pa.int32(),
    "play_ms": pa.int64(),
    "duration_ms": pa.int64(),
}

# The fields of a target. Actions and play time are outcomes: they are labels, never features.
TARGET_FIELDS: dict[str, pa.DataType] = {
    "item_id": pa.int64(),
    "author_id": pa.int64(),
    "tag": pa.int32(),
    "surface": pa.int32(),
    "duration_ms": pa.int64(),
}


def _lists(prefix: str, fields: dict[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(f"{prefix}_{name}", pa.list_(kind), nullable=False) for name, kind in fields.items()]


# history/date=B: per user the newest history events of the log days up to and including B, oldest first.
HISTORY = pa.schema([pa.field("user_id", pa.int64(), nullable=False), *_lists("history", HISTORY_FIELDS)])

# samples/date=D: one row per user active on D. Requests are ordered by time; request r owns the targets
# [request_target_end[r-1], request_target_end[r]) and sees history[max(0, request_history_end[r] - window) :
# request_history_end[r]], every event of which is strictly older than request_time_ms[r].
SAMPLES = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("user_features", pa.list_(pa.int64()), nullable=False),
        *_lists("history", HISTORY_FIELDS),
        pa.field("request_id", pa.list_(pa.string()), nullable=False),
        pa.field("request_time_ms", pa.list_(pa.int64()), nullable=False),
        pa.field("request_history_end", pa.list_(pa.int32()), nullable=False),
        pa.field("request_target_end", pa.list_(pa.int32()), nullable=False),
        *_lists("target", TARGET_FIELDS),
        pa.field("target_labels", pa.list_(pa.int32()), nullable=False),  # contracts.actions.LABELS
    ]
)

# A scorer's input: the samples row without its labels.
REQUEST_TABLE = pa.schema([field for field in SAMPLES if field.name != "target_labels"])

DATASETS: dict[str, pa.Schema] = {
    "events": EVENTS,
    "users": USERS,
    "quarantine": QUARANTINE,
    "history": HISTORY,
    "samples": SAMPLES,
}

# The schema version since which a dataset's partitions are read as they are now: raised by a change other than an
# `added_column`. Older partitions are not read then, nor newer ones by older code.
READABLE_SINCE: dict[str, int] = dict.fromkeys(DATASETS, 1)


def type_text(kind: pa.DataType) -> str:
    """A column type without details that engines name differently: a list's element field and its nullability."""
    return f"list<{type_text(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def schema_text(schema: pa.Schema) -> str:
    """Column names and types on one line, list elements unnamed."""
    return ", ".join(f"{field.name} {type_text(field.type)}" for field in schema)
