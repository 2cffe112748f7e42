"""Schemas of every dataset in the lake, as a log schema has them. Times are milliseconds since the epoch, UTC.

A list column that begins with `history_` or `target_` is parallel to its siblings: element i of each belongs to one
event. A multi or vector field has `size` elements for each event, one event after another. Lists hold primitives, so a
reader gets values and offsets without touching a row in Python.
docs/decisions/0007-schemas-grow-at-the-edges.md says what may change here and what else a change needs.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache

import pyarrow as pa

from longreel.contracts.log_schema import Column, LogSchema, timed_column

SCHEMA_VERSION = 4  # raised by every change of a column that every log has, or of what a manifest must say

DATASETS = ("events", "users", "quarantine", "counters", "statistics", "history", "samples")

# The schema version since which a dataset's partitions are read as they are now: raised by a change other than an
# `added_column`. Older partitions are not read then, nor newer ones by older code.
READABLE_SINCE: dict[str, int] = dict.fromkeys(DATASETS, 4)


@dataclass(frozen=True, kw_only=True)
class AddedColumn:
    """A column that tables may lack. Those read as `default` in every row, or in `size` elements for every element of
    the list column `parallel_to`. `since` is the schema version that it came with; None: an optional field of the log.
    """

    since: int | None = None
    default: float | str | None
    parallel_to: str | None = None
    size: int = 1


def added_column(name: str, kind: pa.DataType, column: AddedColumn) -> pa.Field:
    """A column that tables may lack, nullable where its default is null.

    Raises:
        ValueError: the declaration does not fit the type or SCHEMA_VERSION.
    """
    if column.since is not None and not 1 < column.since <= SCHEMA_VERSION:
        raise ValueError(f"{name}: since {column.since}, expected 2 .. SCHEMA_VERSION, which is {SCHEMA_VERSION}")
    is_list = pa.types.is_list(kind)
    if is_list != (column.parallel_to is not None or column.size > 1):
        raise ValueError(f"{name}: a list column needs `parallel_to` or `size`, and no other column has one")
    if is_list and column.default is None:
        raise ValueError(f"{name}: elements of lists are never null; give a default")
    pa.scalar(column.default, kind.value_type if is_list else kind)  # fails for a value of another type
    metadata = {"added_column": json.dumps(asdict(column))}
    return pa.field(name, kind, nullable=column.default is None, metadata=metadata)


def added_column_of(field: pa.Field) -> AddedColumn | None:
    """The declaration of a column that tables may lack; None for any other."""
    text = (field.metadata or {}).get(b"added_column")
    return None if text is None else AddedColumn(**json.loads(text))


# quarantine/date=D: complete rows that ingest rejected, with the first reason that applied.
QUARANTINE = pa.schema(
    [
        pa.field("reason", pa.string(), nullable=False),
        pa.field("user_id", pa.int64()),  # null where the row does not tell
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),  # the raw row as JSON
    ]
)


@dataclass(frozen=True)
class DatasetSchemas:
    """The schemas of one log.

    events/date=D: one row per impression of the log day D, sorted by (user_id, time_ms).
        request_id     null where the source has none
        <field>        item, request and event fields; multi and vector as lists of `size`
        actions        bit i: action i
        <action>_ms    when a timed action became known; null where it did not happen
        history        bit 0: the impression enters the history; bit i + 1: timed action i does, at its own time
        labels         bit i: binary label i
        label_<name>   a number label; NaN where it has no value
    users/date=D: the user fields of the users active on D, as `user_<field>`.
    counters/date=D: how often values of a statistic's columns occur in the events of D. Days are local, since 1970.
        statistic      place in `LogSchema.statistics`
        value          of its column; of several columns together a hash (spark_jobs/statistic_values.py)
        day            of the impressions
        known_day      of what the row counts: impressions on `day`, or actions that became known on this day, or at
                       the midnight that ends it
        impressions, action_<name>   of the actions that rates are of
    statistics/date=D: for the events of D the numbers of their values, as statistics.py has them.
        statistic, value   as in counters
        day            the local day of the requests, which for late events is before D
        <column>       one for each of `LogSchema.statistic_columns`; NaN where it is of another statistic
    history/date=B: per user the newest history events of the log days up to and including B, oldest first.
    samples/date=D: one row per user active on D. Requests are ordered by time; request r owns the targets
        [request_target_end[r-1], request_target_end[r]) and sees history[max(0, request_history_end[r] - window) :
        request_history_end[r]], every event of which was known strictly before request_time_ms[r].
    request_table: a scorer's input, the samples row without its labels.
    """

    events: pa.Schema
    users: pa.Schema
    quarantine: pa.Schema
    counters: pa.Schema
    statistics: pa.Schema
    history: pa.Schema
    samples: pa.Schema
    request_table: pa.Schema

    def __getitem__(self, dataset: str) -> pa.Schema:
        """The schema of a dataset in DATASETS."""
        if dataset not in DATASETS:
            raise KeyError(dataset)
        schema: pa.Schema = getattr(self, dataset)
        return schema


@lru_cache(maxsize=64)
def dataset_schemas(log: LogSchema) -> DatasetSchemas:
    """The schemas of a log's datasets."""
    user = pa.field("user_id", pa.int64(), nullable=False)
    described = [_scalar(column, f"user_{column.name}") for column in log.described_user_columns]
    users = [_scalar(column, f"user_{column.name}") for column in log.user_columns]
    history = _lists("history", log.event_columns)
    targets = _lists("target", log.target_columns)
    requests = [
        pa.field("request_id", pa.list_(pa.string()), nullable=False),
        pa.field("request_time_ms", pa.list_(pa.int64()), nullable=False),
        pa.field("request_history_end", pa.list_(pa.int32()), nullable=False),
        pa.field("request_target_end", pa.list_(pa.int32()), nullable=False),
    ]
    labels = [pa.field("target_labels", pa.list_(log.labels_type), nullable=False)]
    labels += [pa.field(f"target_label_{name}", pa.list_(pa.float32()), nullable=False) for name in log.number_labels]
    request_table = [user, *users, *history, *requests, *targets]
    return DatasetSchemas(
        events=pa.schema([user, *_event_fields(log)]),
        users=pa.schema([user, *described]),
        quarantine=QUARANTINE,
        counters=pa.schema(_counter_fields(log)),
        statistics=pa.schema(_statistic_fields(log)),
        history=pa.schema([user, *history]),
        samples=pa.schema([*request_table, *labels]),
        request_table=pa.schema(request_table),
    )


def _event_fields(log: LogSchema) -> list[pa.Field]:
    columns = [column for column in log.event_columns if column.field is not None]
    return [
        pa.field("time_ms", pa.int64(), nullable=False),
        pa.field("request_id", pa.string()),
        *(_scalar(column, column.name) for column in columns),
        pa.field("actions", log.actions_type, nullable=False),
        *(pa.field(timed_column(name), pa.int64()) for name in log.timed_actions),
        pa.field("history", pa.int32() if len(log.timed_actions) < 31 else pa.int64(), nullable=False),
        pa.field("labels", log.labels_type, nullable=False),
        *(pa.field(f"label_{name}", pa.float32(), nullable=False) for name in log.number_labels),
    ]


def _counter_fields(log: LogSchema) -> list[pa.Field]:
    actions = [name for name in log.action_names if any(name in statistic.rates for statistic in log.statistics)]
    counts = ("impressions", *(f"action_{name}" for name in actions))
    return [
        pa.field("statistic", pa.int32(), nullable=False),
        pa.field("value", pa.int64(), nullable=False),
        pa.field("day", pa.int32(), nullable=False),
        pa.field("known_day", pa.int32(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in counts),
    ]


def _statistic_fields(log: LogSchema) -> list[pa.Field]:
    return [
        pa.field("statistic", pa.int32(), nullable=False),
        pa.field("value", pa.int64(), nullable=False),
        pa.field("day", pa.int32(), nullable=False),
        *(pa.field(column.name, pa.float32(), nullable=False) for column in log.statistic_columns),
    ]


def _scalar(column: Column, name: str) -> pa.Field:
    """A column of one event or user a row."""
    kind = column.type if column.size == 1 else pa.list_(column.type)
    if not column.is_optional or column.field is None:
        return pa.field(name, kind, nullable=False)
    return added_column(name, kind, AddedColumn(default=column.field.unknown, size=column.size))


def _lists(prefix: str, columns: Iterable[Column]) -> list[pa.Field]:
    """Columns of the events or targets of a user, one list a row. Parallel to the first of them."""
    fields = []
    first = "history_time_ms" if prefix == "history" else "target_item_id"
    for column in columns:
        name, kind = f"{prefix}_{column.name}", pa.list_(column.type)
        if column.is_optional and column.field is not None:
            declared = AddedColumn(default=column.field.unknown, parallel_to=first, size=column.size)
            fields.append(added_column(name, kind, declared))
        else:
            fields.append(pa.field(name, kind, nullable=False))
    return fields


def type_text(kind: pa.DataType) -> str:
    """A column type without details that engines name differently: a list's element field and its nullability."""
    return f"list<{type_text(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def schema_text(schema: pa.Schema) -> str:
    """Column names and types on one line, list elements unnamed."""
    return ", ".join(f"{field.name} {type_text(field.type)}" for field in schema)
