"""Every kind of field reaches the batch from every place, as it was stored; nothing of an outcome reaches a target."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Field, LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch, one_row_per_target
from longreel.model.data.row_groups import read_rows
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import day_groups
from longreel.model.evaluation.latency import stretched
from longreel.model.training import golden
from tests.sample_tables import EVERY_KIND, random_rows

DAY = date(2026, 3, 1)
TASKS = ("bought", "spent", "click")
Rows = list[dict[str, Any]]


@pytest.fixture
def every_kind(tmp_path: Path, publish_rows: Callable[..., None]) -> Lake:
    lake = Lake(tmp_path / "every_kind", EVERY_KIND)
    publish_rows(lake, DAY, random_rows(EVERY_KIND, 0, users=20))
    return lake


def from_rows(rows: Rows, log_schema: LogSchema = EVERY_KIND) -> SampleRows:
    return SampleRows.from_arrow(pa.Table.from_pylist(rows, schema=dataset_schemas(log_schema).samples), log_schema)


def assert_values(tensor: torch.Tensor, stored: list[Any], size: int) -> None:
    """A batch's values are the stored elements, `size` of them in a row of the tensor."""
    expected = np.array(stored, tensor.numpy().dtype).reshape(-1, size)
    np.testing.assert_array_equal(tensor.numpy().reshape(-1, size), expected)
    assert tensor.shape[1:] == ((size,) if size > 1 else ())


def assert_request(batch: RequestBatch, b: int, row: dict[str, Any], r: int, window: int) -> None:
    """Request b of a batch is the r-th of a stored row."""
    start, end = max(0, row["request_history_end"][r] - window), row["request_history_end"][r]
    first, last = [0, *row["request_target_end"]][r : r + 2]
    events = slice(int(batch.history_offsets[b]), int(batch.history_offsets[b + 1]))
    targets = slice(int(batch.target_offsets[b]), int(batch.target_offsets[b + 1]))
    for c in EVERY_KIND.event_columns:
        assert_values(batch.history[c.name][events], row[f"history_{c.name}"][start * c.size : end * c.size], c.size)
    for c in EVERY_KIND.item_columns:
        assert_values(batch.target[c.name][targets], row[f"target_{c.name}"][first * c.size : last * c.size], c.size)
    for c in EVERY_KIND.user_columns:
        value = row[f"user_{c.name}"]
        assert_values(batch.user[c.name][b : b + 1], value if c.size > 1 else [value], c.size)
    bits = row["target_labels"][first:last]
    labels = [
        [float(bits[t] >> 1 & 1), row["target_label_spent"][first + t], float(bits[t] & 1)] for t in range(len(bits))
    ]
    np.testing.assert_array_equal(batch.labels[targets].numpy(), np.array(labels, np.float32))


def test_a_batch_holds_what_is_stored(every_kind: Lake) -> None:
    stored = {row["user_id"]: row for row in every_kind.read(every_kind.require("samples", DAY)).to_pylist()}
    rows = read_rows(every_kind, day_groups(every_kind, DAY))
    batch = rows.pack(np.arange(rows.num_requests), 24, TASKS)
    assert batch.num_requests == sum(len(row["request_time_ms"]) for row in stored.values()) > 40
    for b in range(batch.num_requests):
        row = stored[int(batch.user_id[b])]
        assert_request(batch, b, row, row["request_time_ms"].index(int(batch.request_time_ms[b])), 24)
    assert batch.labels[:, 1].isnan().any()
    assert {c.name: batch.history[c.name].dtype for c in EVERY_KIND.event_columns} == {
        c.name: torch.from_numpy(np.zeros(0, c.type.to_pandas_dtype())).dtype for c in EVERY_KIND.event_columns
    }


def test_targets_have_item_and_request_columns_alone(every_kind: Lake) -> None:
    rows = read_rows(every_kind, day_groups(every_kind, DAY))
    outcomes = {"coupon", "screen", "dwell_ms", "places", "scroll", "actions", "time_ms"}
    batch = rows.pack(np.arange(3), 8, TASKS)
    assert outcomes <= set(batch.history)
    assert not (outcomes | {"click", "purchase", "spent", "bought", "labels", "label_spent"}) & set(batch.target)
    assert set(batch.target) == set(batch.history) - outcomes


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (
            "history_topics",
            lambda v: v[:-1],
            r"history_topics and history_time_ms differ .* expected 3 of history_topics",
        ),
        ("target_title", lambda v: [*v, 0.5], r"target_title and target_item_id differ .* expected 4 of target_title"),
        ("user_interests", lambda v: v[:2], "user_interests: expected 3 elements for every user, got 2"),
        ("history_scroll", lambda v: [*v[:-1], None], "history_scroll: expected no nulls, got 1"),
        ("target_label_spent", lambda v: [*v[:-1], None], "target_label_spent: expected no nulls, got 1"),
        ("user_taste", lambda v: [*v[:-1], None], "user_taste: expected no nulls, got 1"),
    ],
)
def test_lists_of_another_size_and_nulls_are_rejected(
    column: str, change: Callable[[list[Any]], list[Any]], message: str
) -> None:
    rows = random_rows(EVERY_KIND, 1)
    from_rows(rows)
    rows[-1][column] = change(rows[-1][column])
    with pytest.raises(LongreelError, match=message):
        from_rows(rows)


def test_files_without_optional_columns_have_no_value_of_them(
    tmp_path: Path, publish_rows: Callable[..., None]
) -> None:
    before = replace(EVERY_KIND, fields=tuple(field for field in EVERY_KIND.fields if not field.optional))
    publish_rows(Lake(tmp_path, before), DAY, random_rows(before, 0))
    publish_rows(Lake(tmp_path, EVERY_KIND), DAY + timedelta(days=1), random_rows(EVERY_KIND, 1))
    lake = Lake(tmp_path, EVERY_KIND)
    old, new = (read_rows(lake, day_groups(lake, DAY + timedelta(days=n))[:1]) for n in range(2))
    optional = [field for field in EVERY_KIND.fields if field.optional]
    assert {field.kind for field in optional} == {"id", "multi", "vector", "number", "category"}
    for field in optional:
        places = {"user": ["user"], "event": ["history"]}.get(field.place, ["history", "target"])
        for place in places:
            values, others = getattr(old, place)[field.name], getattr(new, place)[field.name]
            assert values.shape[1:] == others.shape[1:]
            np.testing.assert_array_equal(values, np.full_like(values, field.unknown))
            assert len(values) == len(old.user_id if place == "user" else getattr(old, place)["item_id"]) > 0
            assert not np.array_equal(others, np.full_like(others, field.unknown), equal_nan=True)


def test_a_model_reads_the_columns_of_its_own_schema(every_kind: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that were declared since are not read; a field that has left is unknown; labels are the lake's."""
    names = ("item_id", "brand", "device", "age", "interests")
    size = Field(name="size", place="item", kind="number", optional=True)
    own = LogSchema(fields=(*(f for f in EVERY_KIND.fields if f.name in names), size))
    groups = day_groups(every_kind, DAY)[:1]
    read: list[str] = []
    original = pq.ParquetFile.read_row_group

    def watch(file: pq.ParquetFile, index: int, columns: list[str], **options: Any) -> pa.Table:
        read.extend(columns)
        return original(file, index, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watch)
    rows = read_rows(every_kind, groups, own)
    assert set(rows.history) == {"time_ms", "item_id", "brand", "size", "device", "actions"}
    assert set(rows.user) == {"age", "interests"}
    assert np.isnan(rows.target["size"]).all()
    assert {"history_brand", "user_age", "target_label_spent"} <= set(read)
    assert not {name for name in read if "title" in name or "color" in name or "request_id" in name}
    whole = read_rows(every_kind, groups)
    np.testing.assert_array_equal(rows.task_labels(TASKS), whole.task_labels(TASKS))
    np.testing.assert_array_equal(rows.history["brand"], whole.history["brand"])


def test_tasks_that_the_samples_have_no_label_of_are_named(every_kind: Lake) -> None:
    rows = read_rows(every_kind, day_groups(every_kind, DAY))
    with pytest.raises(LongreelError, match="the samples have no label like; expected some of click, bought, spent"):
        rows.task_labels(("click", "like"))


def test_chosen_users_keep_their_targets_and_number_labels(every_kind: Lake) -> None:
    rows = read_rows(every_kind, day_groups(every_kind, DAY))
    chosen = rows.user_id[[4, 2]]
    some = rows.of_users(chosen)
    kept = np.repeat(np.isin(rows.user_id[rows.request_row], chosen), rows.target_counts)
    np.testing.assert_array_equal(some.task_labels(TASKS), rows.task_labels(TASKS)[kept])
    np.testing.assert_array_equal(some.target["title"], rows.target["title"][kept])


def test_copies_of_a_history_and_stretched_requests_keep_every_column(every_kind: Lake) -> None:
    rows = read_rows(every_kind, day_groups(every_kind, DAY))
    batch = rows.pack(np.arange(rows.num_requests), 24, TASKS)
    apart = one_row_per_target(batch)
    request_of_target = torch.repeat_interleave(torch.arange(batch.num_requests), batch.target_offsets.diff())
    for name, values in batch.user.items():
        np.testing.assert_array_equal(apart.user[name], values[request_of_target])
    for request in (rows.history_lengths.argmin(), rows.history_lengths.argmax()):  # one of them has no history
        longer = stretched(rows.pack(np.array([request]), 24), 50, 9)
        assert {name: tuple(v.shape) for name, v in longer.history.items()} == {
            c.name: (50, c.size)[: 1 + (c.size > 1)] for c in EVERY_KIND.event_columns
        }
        assert {len(values) for values in longer.target.values()} == {9}


def test_golden_requests_draw_every_column_from_the_rows() -> None:
    rows = from_rows(random_rows(EVERY_KIND, 0, users=20))
    batch = golden.make_requests(rows, 0)
    for place, stored in ((batch.history, rows.history), (batch.target, rows.target), (batch.user, rows.user)):
        assert list(place) == list(stored)
        for name, values in place.items():
            assert values.numpy().dtype == stored[name].dtype
            if name not in ("time_ms", "actions"):
                stored_values = {row.tobytes() for row in rows.target.get(name, stored[name])}
                assert {row.tobytes() for row in values.numpy()} <= stored_values, name
    assert set(batch.history["actions"].tolist()) == {0, 1, 2, 3}


def test_golden_requests_need_no_history_in_the_rows() -> None:
    rows = [row for row in random_rows(EVERY_KIND, 3) if not row["history_time_ms"]]
    batch = golden.make_requests(from_rows(rows), 0)
    assert batch.num_events > 500
    assert (batch.history["dwell_ms"] == 0).all()
