"""Fifty declared fields: samples are right, and each column costs its own bytes and nothing else."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from brute_force_samples import plain, samples_of
from spark_helpers import DAY, DAY_MS, MIDNIGHT_MS, Row

from longreel.contracts.config import SamplesConfig
from longreel.contracts.log_schema import Field, LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.table import Lake
from longreel.spark_jobs.array_io import write_bucket
from longreel.spark_jobs.history_events import event_bytes
from longreel.spark_jobs.samples import DayEvents, UserFields, add_day, sample_tables
from longreel.spark_jobs.user_histories import UserHistories

KINDS: list[dict[str, Any]] = [
    {"kind": "id"},
    {"kind": "category"},
    {"kind": "number"},
    {"kind": "multi", "size": 3},
    {"kind": "vector", "size": 4},
]
PLACES = ("item", "request", "event", "user")
FIELDS = tuple(Field(name=f"f{i}", place=PLACES[i % 4], **KINDS[i % 5]) for i in range(50))  # type: ignore[arg-type]
LOG = LogSchema(fields=(*LogSchema().fields, *FIELDS), history="true")


def rows_of(log: LogSchema, number: int, count: int) -> list[Row]:
    """Events of a log day with random values in every field."""
    rng, rows = random.Random(number), []
    for _ in range(count):
        row: Row = {"user_id": rng.randint(1, 9), "time_ms": MIDNIGHT_MS + number * DAY_MS + rng.randint(0, 99)}
        row |= {"request_id": None, "actions": rng.randint(0, 1), "labels": rng.randint(0, 1), "history": 1}
        for column in log.event_columns[1:-1]:
            is_number = pa.types.is_floating(column.type)
            values = [rng.random() if is_number else rng.getrandbits(31) for _ in range(column.size)]
            values = np.array(values, column.type.to_pandas_dtype()).tolist()
            row[column.name] = values[0] if column.size == 1 else values
        rows.append(row)
    return rows


def build(log: LogSchema, days: list[list[Row]]) -> tuple[pa.Table, UserHistories]:
    """The samples of the last day, and the histories after it."""
    schemas = dataset_schemas(log)
    events = [DayEvents.of(pa.Table.from_pylist(rows, schema=schemas.events), log) for rows in days]
    histories = UserHistories(64, log)
    for day in events[:-1]:
        add_day(histories, day)
    users = UserFields.of(schemas.users.empty_table(), log)
    return pa.concat_tables(sample_tables(events[-1], histories, users, SamplesConfig())), histories


def test_samples_of_fifty_fields_are_those_of_plain_python() -> None:
    days = [rows_of(LOG, number, 40) for number in range(3)]
    table, _ = build(LOG, days)
    expected = samples_of(days[0] + days[1], days[2], LOG, max_history=64)
    assert plain(table.to_pylist()) == plain(expected)


def test_a_further_id_costs_its_bytes_in_memory_and_at_most_them_in_files(tmp_path: Path) -> None:
    log = replace(LOG, fields=(*LOG.fields, Field(name="more", place="item", kind="id")))
    assert event_bytes(log) - event_bytes(LOG) == 8
    sizes = {}
    for one in (LOG, log):
        table, histories = build(one, [rows_of(one, number, 3_000) for number in range(3)])
        stored = sum(histories.column(column.name).nbytes for column in one.event_columns)
        assert stored == histories.size * event_bytes(one)
        lake = Lake(tmp_path / str(one is log), one)
        path = write_bucket(lake.writer("samples", DAY), 0, [table])
        assert path is not None
        values = len(table.column("history_time_ms").combine_chunks().flatten()) + 3_000
        sizes[one is log] = Path(path).stat().st_size
    assert 0 < sizes[True] - sizes[False] < 8 * values
