"""Checks of what declared fields hold on a day: some value, more than one value, and no label in disguise."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column
from pyspark.sql import functions as F

from longreel.contracts.config import Config
from longreel.contracts.log_schema import UNKNOWN, Field, LogSchema
from longreel.contracts.sql_names import names_in
from longreel.lake.table import PartitionWriter

SAMPLE_ROWS = 20_000  # events that are compared with labels
MIN_ROWS = 100  # fewer events are not compared: chance alone makes a field equal to a label
MIN_CLASS = 5  # events with a label, and without, likewise


def setting_of(field: Field) -> str:
    """Where a field is declared."""
    return f"[fields.{field.place}] {field.name}"


def field_aggregates(fields: Iterable[Field], prefix: str = "") -> Iterator[Column]:
    """For each stored field, how many rows have a value of it, and the least and the greatest of a scalar's values; not
    of categories, which are counted anyway.

    Args:
        prefix: of the fields' columns.
    """
    for field in fields:
        if not field.is_stored or field.kind == "category":
            continue
        column = F.col(f"{prefix}{field.name}")
        first = column[0] if field.size > 1 else column
        is_known = ~F.isnan(first) if field.kind in ("number", "vector") else first != UNKNOWN
        yield F.count_if(is_known).alias(f"known_{field.name}")
        if field.size == 1:
            yield F.min(F.when(is_known, column)).alias(f"least_{field.name}")
            yield F.max(F.when(is_known, column)).alias(f"greatest_{field.name}")


@dataclass(frozen=True)
class FieldReport:
    """What declared fields hold on a day."""

    without_values: list[str]  # required fields without a value in any row, which stop a day
    notes: list[str]  # what need not be wrong


def field_report(
    log: LogSchema,
    observed: Mapping[str, Any],
    categories: Mapping[str, list[list[Any]]],
    counts: Mapping[str, int],
) -> FieldReport:
    """The fields without a value, or with one and the same. Both are ordinary on a small day, or for a field that only
    some logs have, and so only a required field without any value stops a day.

    Args:
        observed: the values of `field_aggregates`, of events and users.
        categories: `named_categories` of both.
        counts: the day's events and `action_<name>`; a field with `of` is expected where its action happened.
    """
    without_values, notes = [], []
    for field in log.fields:
        if not field.is_stored or not counts[f"action_{field.of}" if field.of else "events"]:
            continue
        if field.kind == "category":
            values = categories[field.name]
            with_value, constant = sum(count for *_, count in values), values[0][1] if len(values) == 1 else None
        else:
            with_value, constant = observed[f"known_{field.name}"], observed.get(f"least_{field.name}")
            constant = constant if constant == observed.get(f"greatest_{field.name}") else None
        if not with_value and field.optional:
            notes.append(f"{setting_of(field)} has no value in any row")
        elif not with_value:
            without_values.append(setting_of(field))
        elif with_value > 1 and constant is not None:
            notes.append(f"{setting_of(field)} is {constant} in all {with_value:,} rows that have a value")
    return FieldReport(without_values, notes)


def sample_of(writer: PartitionWriter) -> pa.Table:
    """The first SAMPLE_ROWS events of a build."""
    tables, rows = [], 0
    schema = writer.lake.schemas[writer.dataset]
    for info in writer.lake.storage.list(writer.path):
        if info.path.endswith(".parquet") and rows < SAMPLE_ROWS:
            with pq.ParquetFile(info.path, filesystem=writer.lake.filesystem) as file:
                for batch in file.iter_batches(SAMPLE_ROWS - rows, columns=[f.name for f in schema]):
                    tables.append(pa.Table.from_batches([batch]))
                    rows += batch.num_rows
                    if rows >= SAMPLE_ROWS:
                        break
    return pa.concat_tables(tables) if tables else schema.empty_table()


def equal_to_label(log: LogSchema, tasks: Iterable[str], events: pa.Table) -> list[str]:
    """`setting = label` for each scalar item or request field whose values, or whether there is one, are the label's
    throughout; for a number label also where they are in proportion."""
    if events.num_rows < MIN_ROWS:
        return []
    pairs = []
    fields = [f for f in log.of_place("item", "request") if f.is_stored and f.size == 1]
    columns = {field.name: events.column(field.name).to_numpy() for field in fields}
    labels = events.column("labels").to_numpy()
    for task in tasks:
        label = log.label(task)
        if label.is_number:
            target = events.column(f"label_{task}").to_numpy()
            same = [f for f in fields if f.kind == "number" and _is_proportional(columns[f.name], target)]
        else:
            target = (labels & log.label_bit(task)) != 0
            same = [f for f in fields if _is_same(columns[f.name], target)]
        pairs += [f"{setting_of(field)} = {task}" for field in same]
    return pairs


def _is_same(values: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> bool:
    """Whether values tell exactly where a binary label holds: by one value there and another elsewhere, or by having
    any only there."""
    positives = int(label.sum())
    if min(positives, len(label) - positives) < MIN_CLASS:
        return False
    is_known = ~np.isnan(values) if values.dtype.kind == "f" else values != UNKNOWN
    if np.array_equal(is_known, label) or np.array_equal(is_known, ~label):
        return True
    with_label, without = (np.unique(values[one]) for one in (label, ~label))
    return len(with_label) == len(without) == 1 and not np.array_equal(with_label, without, equal_nan=True)


def _is_proportional(values: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> bool:
    """Whether |correlation| is 1, up to rounding, over enough events that have both."""
    both = ~np.isnan(values) & ~np.isnan(label)
    x, y = values[both].astype(np.float64), label[both].astype(np.float64)
    if len(x) < MIN_ROWS or x.std() == 0 or y.std() == 0:
        return False
    return bool(abs(np.corrcoef(x, y)[0, 1]) > 1 - 1e-6)


def outcome_report(config: Config, counts: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Warnings of each task whose label all events of a day have, or none, and of a day without history events; and
    notes of other actions that no event has. Neither on a small day."""
    events, schema = counts["events"], config.log_schema
    if events < MIN_ROWS:
        return [], []
    warnings = [
        f"every one of {events:,} events has the label {task}, and a model needs others to tell from them; log the "
        "impressions without it too, or sample negatives: docs/log-schema.md#a-log-of-positives-only"
        for task in config.tasks
        if not schema.label(task).is_number and counts[f"label_{task}"] == events
    ]
    nowhere = {
        f"has the label {task} ([labels] {task}": schema.label(task).sql
        for task in config.tasks
        if not counts[f"label_{task}"]
    }
    if not counts["history_impressions"]:
        nowhere["enters a history ([history] events"] = schema.history
    absent = {
        action.name: f"[actions] {action.name} = {action.when or action.name!r}"
        for action in schema.actions
        if not counts[f"action_{action.name}"]
    }
    for what, sql in nowhere.items():
        settings = [setting for name, setting in absent.items() if name in names_in(sql, words=True)]
        question = f"; is the column right of {', '.join(settings)}?" if settings else ""
        warnings.append(f"none of {events:,} events {what} = {sql!r}){question}")
    named = {name for sql in nowhere.values() for name in names_in(sql, words=True)}
    return warnings, [f"{absent[name]} happened in none of {events:,} events" for name in absent if name not in named]
