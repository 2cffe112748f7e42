"""History events: what a row of events contributes to its user's history, and when.

    bit 0 of `history`      the impression, at time_ms, with those of its actions that have no time
    bit i + 1               timed action i, when it became known, as a further event of the same item with that action
                            alone

An event field belongs to the impression, or with `of` to the event of that timed action; elsewhere it is unknown. So no
history event holds anything that became known after its time. An action's event may lie on a later log day than its
impression, and even before it: time alone decides which requests see it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints, list_values
from longreel.contracts.log_schema import Column, LogSchema, timed_column
from longreel.spark_jobs.event_order import sort_rows

Columns = dict[str, NDArray[Any]]  # all of one length; a multi or vector column is [n, size]

NO_TIME = np.iinfo(np.int64).min  # of an action that did not happen


def history_columns(log: LogSchema) -> tuple[Column, ...]:
    """Columns of a history event, in the order that events are compared by: single values, then multi and vector."""
    return tuple(sorted(log.event_columns, key=lambda column: column.size > 1))


def event_order(log: LogSchema) -> list[str]:
    """Columns of events after the user, in the order of the rows that samples are built from."""
    labels = (f"label_{name}" for name in log.number_labels)
    names = (column.name for column in history_columns(log))
    return [*names, *map(timed_column, log.timed_actions), "history", "labels", *labels]


def history_input(log: LogSchema) -> list[str]:
    """Columns of events that history events are made from."""
    times = map(timed_column, log.timed_actions)
    return ["user_id", *(column.name for column in history_columns(log)), *times, "history"]


def event_bytes(log: LogSchema) -> int:
    """Bytes of a history event in memory."""
    return sum(column.size * column.type.bit_width // 8 for column in log.event_columns)


def empty_events(log: LogSchema, count: int = 0) -> Columns:
    """Uninitialised history events."""
    return {
        column.name: np.empty(_shape(column, count), column.type.to_pandas_dtype()) for column in history_columns(log)
    }


def _shape(column: Column, count: int) -> tuple[int, ...]:
    return (count,) if column.size == 1 else (count, column.size)


def column_values(table: pa.Table, name: str, size: int = 1) -> NDArray[Any]:
    """A column of one event or user a row: [n], or [n, size] of a list column; NO_TIME where a time is null."""
    if pa.types.is_list(table.schema.field(name).type):
        values, _ = list_values(table, name)
        return np.asarray(values.to_numpy()).reshape(table.num_rows, size)
    column = table.column(name)
    return np.asarray((pc.fill_null(column, NO_TIME) if column.null_count else column).to_numpy())


def history_events(user_id: Ints, columns: Columns, log: LogSchema) -> tuple[Ints, Columns]:
    """Users [m] and columns of the history events of events [n], ordered by user, then as `event_order`.

    Args:
        user_id: of the events, which have that order too.
        columns: `history_input` of the events.

    Raises:
        LongreelError: an event's `history` names an action that has no time.
    """
    parts = [_impressions(columns, log), *_follow_ups(columns, log)]
    users = [user_id[rows] for rows, _ in parts]
    if len(parts) == 1:
        return users[0], parts[0][1]
    owner = np.concatenate(users)
    merged = {name: np.concatenate([values[name] for _, values in parts]) for name in parts[0][1]}
    order = sort_rows(owner, merged, np.arange(len(owner)))
    return owner[order], {name: values[order] for name, values in merged.items()}


def _impressions(columns: Columns, log: LogSchema) -> tuple[Ints, Columns]:
    """Rows whose impression enters the history, and their history events."""
    rows = np.flatnonzero(columns["history"] & 1)
    events = {column.name: columns[column.name][rows] for column in history_columns(log)}
    for field in log.of_place("event"):
        if field.of in log.timed_actions:
            events[field.name].fill(field.unknown)
    if log.timed_actions:
        untimed = sum(log.action_bit(name) for name in log.action_names if name not in log.timed_actions)
        events["actions"] &= untimed
    return rows, events


def _follow_ups(columns: Columns, log: LogSchema) -> Iterator[tuple[Ints, Columns]]:
    """Of each timed action the rows in which it enters the history, and its history events."""
    for number, action in enumerate(log.timed_actions):
        rows = np.flatnonzero(columns["history"] & (1 << (number + 1)))
        events = {column.name: columns[column.name][rows] for column in history_columns(log)}
        for field in log.of_place("event"):
            if field.is_stored and field.of != action:
                events[field.name].fill(field.unknown)
        events["actions"].fill(log.action_bit(action))
        events["time_ms"] = columns[timed_column(action)][rows]
        if (events["time_ms"] == NO_TIME).any():
            raise LongreelError(
                f"{timed_column(action)} expected a time wherever `history` has the bit of {action}, got null; "
                "ingest the day again"
            )
        yield rows, events
