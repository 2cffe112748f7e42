"""Batches hold each request once an epoch, with exactly its window, and reading resumes to the row."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import Field, LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.files import PublishedFile
from longreel.lake.table import Lake
from longreel.model.data import reader as reader_module
from longreel.model.data import row_groups as row_groups_module
from longreel.model.data.batch import RequestBatch
from longreel.model.data.reader import ReaderState, TrainingReader, balance_by_tokens, even_buffers
from longreel.model.data.row_groups import RowGroup
from longreel.model.data.samples import SampleRows
from longreel.model.data.windows import WindowSampler, distribution

TASKS = ("click", "like")


@pytest.fixture
def reader(lake: Lake, days: list[date], config: Config) -> TrainingReader:
    return TrainingReader(lake, [lake.require("samples", day) for day in days], TASKS, config.training)


def naive_requests(lake: Lake, days: list[date]) -> dict[tuple[int, int], dict]:
    """(user, request time) -> what the request is, by plain slicing of the stored rows."""
    requests = {}
    for day in days:
        for row in lake.read(lake.require("samples", day)).to_pylist():
            begin = 0
            for r, time in enumerate(row["request_time_ms"]):
                end, stop = row["request_history_end"][r], row["request_target_end"][r]
                requests[row["user_id"], time] = {
                    "history": {c.name: row[f"history_{c.name}"][:end] for c in lake.log_schema.event_columns},
                    "target": {c.name: row[f"target_{c.name}"][begin:stop] for c in lake.log_schema.item_columns},
                    "labels": row["target_labels"][begin:stop],
                    "user": {c.name: row[f"user_{c.name}"] for c in lake.log_schema.user_columns},
                }
                begin = stop
    return requests


def test_every_request_once_an_epoch_with_exactly_its_window(
    lake: Lake, days: list[date], reader: TrainingReader
) -> None:
    naive = naive_requests(lake, days)
    assert len(naive) == reader.num_requests
    for epoch in range(2):
        keys: list[tuple[int, int]] = []
        for rank_batch in reader.batches(ReaderState(epoch=epoch)):
            batch = rank_batch.batch
            windows = reader.windows.sample(epoch, batch.request_index.numpy())
            for b in range(batch.num_requests):
                key = (int(batch.user_id[b]), int(batch.request_time_ms[b]))
                keys.append(key)
                _assert_request(lake.log_schema, batch, b, naive[key], int(windows[b]))
            if rank_batch.next_state == ReaderState(epoch=epoch + 1):
                break
        assert sorted(keys) == sorted(naive)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_windows_grow_in_the_second_half_of_all_requests(
    lake: Lake, days: list[date], config: Config, epochs: int
) -> None:
    training = replace(config.training, epochs=epochs, window_curriculum=3.0)
    manifests = [lake.require("samples", day) for day in days]
    reader = TrainingReader(lake, manifests, TASKS, training)
    half, read = epochs * reader.num_requests // 2, 0
    rank_batches = list(reader.batches())
    stages: list[int] = []
    for rank_batch in rank_batches:
        epoch = rank_batch.next_state.epoch if rank_batch.next_state.batch else rank_batch.next_state.epoch - 1
        stage = int(read >= half)
        stages.append(stage)
        read += rank_batch.num_requests
        assert stage or read <= half, "a batch holds windows of both halves"
        index = rank_batch.batch.request_index.numpy()
        windows = reader.windows.sample(epoch, index, stage)
        assert (rank_batch.batch.history_offsets.diff().numpy() == np.minimum(reader.events[index], windows)).all()
        assert rank_batch.limits.max_history >= rank_batch.batch.max_history
        assert rank_batch.limits.requests >= rank_batch.num_requests
    assert read == epochs * reader.num_requests
    assert set(stages) == {0, 1}
    drawn = reader.drawn_windows()
    assert np.minimum(reader.events, drawn).sum() == sum(batch.num_events for batch in rank_batches)
    windows = distribution(reader.windows, drawn.ravel())
    assert windows["drawn_mean"] == pytest.approx(windows["configured_mean"], rel=0.1)
    again = TrainingReader(lake, manifests, TASKS, training)
    for at in (0, len(rank_batches) // 2, len(rank_batches) - 2):  # resumed after any batch, it reads the same
        rest = list(again.batches(rank_batches[at].next_state))
        assert [rank_batch.next_state for rank_batch in rest] == [
            rank_batch.next_state for rank_batch in rank_batches[at + 1 :]
        ]
        for ours, theirs in zip(rest, rank_batches[at + 1 :], strict=True):
            assert torch.equal(ours.batch.request_index, theirs.batch.request_index)
            assert torch.equal(ours.batch.history_offsets, theirs.batch.history_offsets)


def _assert_request(log_schema: LogSchema, batch: RequestBatch, b: int, expected: dict, window: int) -> None:
    h = slice(int(batch.history_offsets[b]), int(batch.history_offsets[b + 1]))
    t = slice(int(batch.target_offsets[b]), int(batch.target_offsets[b + 1]))
    for name, values in expected["history"].items():
        assert batch.history[name][h].tolist() == values[-window:]
    for name, values in expected["target"].items():
        assert batch.target[name][t].tolist() == values
    assert {name: values[b].item() for name, values in batch.user.items()} == expected["user"]
    for column, task in enumerate(TASKS):
        assert batch.labels[t, column].tolist() == [
            float(bool(v & log_schema.label_bit(task))) for v in expected["labels"]
        ]


class AnyPart(WindowSampler):
    """Windows that hold one stretch of a history, for every third request the oldest."""

    def skip(self, epoch: int, index: Ints, visible: Ints, windows: Ints) -> Ints:
        """Some newer events, for every third request all of them: [B]."""
        spare = np.maximum(visible - windows, 0)
        return np.where(index % 3 == 0, spare, index % (spare + 1))


def test_another_part_of_the_history_is_one_stretch_of_it(lake: Lake, days: list[date], config: Config) -> None:
    manifests = [lake.require("samples", day) for day in days]
    reader = TrainingReader(lake, manifests, TASKS, config.training, make_windows=AnyPart)
    naive, shifted = naive_requests(lake, days), 0
    for batch in (rank_batch.batch for rank_batch in reader.batches(ReaderState(epoch=1))):
        windows = reader.windows.sample(1, batch.request_index.numpy())
        for b in range(batch.num_requests):
            whole = naive[int(batch.user_id[b]), int(batch.request_time_ms[b])]["history"]["time_ms"]
            times = batch.history["time_ms"][batch.history_offsets[b] : batch.history_offsets[b + 1]].tolist()
            length = min(int(windows[b]), len(whole))
            places = [at for at in range(len(whole) - length + 1) if whole[at : at + length] == times]
            assert len(times) == length
            assert places
            assert int(batch.request_index[b]) % 3 or 0 in places
            shifted += len(whole) - length not in places
    assert shifted > 20


def test_no_event_at_or_after_its_request(reader: TrainingReader) -> None:
    events = 0
    for batch in (rank_batch.batch for rank_batch in reader.batches()):
        request = torch.repeat_interleave(batch.request_time_ms, batch.history_offsets.diff())
        assert (batch.history["time_ms"] < request).all()
        events += batch.num_events
    assert events > 1_000


def assert_equal(one: RequestBatch, other: RequestBatch) -> None:
    assert torch.equal(one.request_index, other.request_index)
    assert torch.equal(one.history_offsets, other.history_offsets)
    assert torch.equal(one.labels, other.labels)
    assert all(torch.equal(one.history[name], other.history[name]) for name in one.history)


def test_reading_resumes_exactly_from_every_position(
    lake: Lake, days: list[date], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "BUFFER_BYTES", 150_000)  # several pools an epoch
    manifests = [lake.require("samples", day) for day in days]
    readers = [TrainingReader(lake, manifests, TASKS, config.training) for _ in range(2)]
    whole = list(readers[0].batches())
    sizes = [buffer.num_batches for buffer in readers[0]._plan(1)]
    assert len(sizes) > 1
    assert min(sizes) > 1
    assert len(whole) == readers[0].num_batches(0) + readers[0].num_batches(1)
    starts = [ReaderState(), *(rank_batch.next_state for rank_batch in whole)]
    for at in range(0, len(whole), 3):
        for one, other in zip(readers[1].batches(starts[at]), whole[at:], strict=True):
            assert one.next_state == other.next_state
            assert_equal(one.batch, other.batch)
    assert list(readers[1].batches(starts[-1])) == []


def test_batches_are_balanced_by_tokens_and_mix_users(reader: TrainingReader, config: Config) -> None:
    batches = [rank_batch.batch for rank_batch in reader.batches()][: reader.num_batches(0)]
    tokens = np.array([batch.num_events + batch.num_targets for batch in batches])
    assert len(batches) > 4
    assert abs(tokens - config.training.batch_tokens).max() < 0.35 * config.training.batch_tokens
    assert all(len(batch.user_id.unique()) > 8 for batch in batches)
    assert all((batch.history_offsets.diff().diff() >= 0).all() for batch in batches)  # sorted for padding's sake


def test_a_seed_fixes_the_order_and_another_changes_it(lake: Lake, days: list[date], config: Config) -> None:
    manifests = [lake.require("samples", day) for day in days]

    def first(seed: int) -> list[int]:
        reader = TrainingReader(lake, manifests, TASKS, replace(config.training, seed=seed))
        return next(iter(reader.batches())).batch.request_index.tolist()

    assert first(0) == first(0)
    assert sorted(first(0)) != sorted(first(1))


@pytest.mark.parametrize("ranks", [2, 3, 64])
def test_ranks_share_every_batch_evenly_whatever_their_number(
    lake: Lake, days: list[date], config: Config, ranks: int
) -> None:
    manifests = [lake.require("samples", day) for day in (days if ranks < 64 else days[:1])]
    readers = [TrainingReader(lake, manifests, TASKS, config.training, rank=r, ranks=ranks) for r in range(ranks)]
    whole = TrainingReader(lake, manifests, TASKS, config.training)
    for one, *parts in zip(whole.batches(), *(reader.batches() for reader in readers), strict=True):
        together = torch.cat([part.batch.request_index for part in parts])
        assert sorted(together.tolist()) == sorted(one.batch.request_index.tolist())
        assert {part.next_state for part in parts} == {one.next_state}
        assert {(p.num_requests, p.num_targets, p.num_events) for p in parts} == {
            (one.batch.num_requests, one.batch.num_targets, one.batch.num_events)
        }
        tokens = [part.batch.num_events + part.batch.num_targets for part in parts]
        largest = int((one.batch.history_offsets.diff() + one.batch.target_offsets.diff()).max())
        assert max(tokens) - min(tokens) <= largest
    assert any(part.batch.num_requests == 0 for part in parts) == (ranks == 64)


def test_balancing_gives_the_next_largest_request_to_the_rank_with_the_least() -> None:
    parts = balance_by_tokens(np.array([7, 1, 6, 5, 2, 3]), 2)
    assert [part.tolist() for part in parts] == [[0, 4, 5], [1, 2, 3]]
    assert [part.tolist() for part in balance_by_tokens(np.array([4]), 3)] == [[0], [], []]


def test_label_rates_are_those_of_the_data(lake: Lake, days: list[date], reader: TrainingReader) -> None:
    group = reader.groups[0]
    rows = row_groups_module.read_rows(lake, [group])
    bits = np.asarray(rows.labels)
    expected = [np.mean((bits & lake.log_schema.label_bit(task)) > 0) for task in TASKS]
    assert reader.label_rates().tolist() == pytest.approx(expected)


def test_nothing_to_train_on_is_an_error(
    tmp_path: object, config: Config, publish_rows: Callable[..., None], days: list[date]
) -> None:
    empty = Lake(f"{tmp_path}/empty")
    publish_rows(empty, days[0], [])
    with pytest.raises(LongreelError, match="hold no targets"):
        TrainingReader(empty, [empty.require("samples", days[0])], TASKS, config.training)


def from_rows(rows: list[dict], log_schema: LogSchema) -> SampleRows:
    table = pa.Table.from_pylist(rows, schema=dataset_schemas(log_schema).samples)
    return SampleRows.from_arrow(table, log_schema)


def test_an_event_at_the_time_of_its_request_is_rejected(
    rows: Callable[..., list[dict]], log_schema: LogSchema
) -> None:
    row = next(row for row in rows(5) if row["request_history_end"][0] > 0)
    newest = row["history_time_ms"][row["request_history_end"][0] - 1]
    row["request_time_ms"][0] = newest + 1
    from_rows([row], log_schema)
    row["request_time_ms"][0] = newest
    with pytest.raises(LongreelError, match="at or after the request"):
        from_rows([row], log_schema)


def broken(rows: list[dict], changes: dict[str, Callable[[list], list]]) -> list[dict]:
    row = dict(rows[-1])
    return [*rows[:-1], row | {name: change(list(row[name])) for name, change in changes.items()}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_time_ms": lambda v: [1_000] * len(v)}, "at or after the request"),
        ({"history_tag": lambda v: v[:-1]}, "history_tag and history_time_ms differ in length"),
        ({"history_tag": lambda v: [*v[:-1], None]}, "history_tag: expected no nulls, got 1"),
        ({"target_duration_ms": lambda v: [*v[:-1], None]}, "target_duration_ms: expected no nulls, got 1"),
        ({"request_history_end": lambda v: [10_000] * len(v)}, "outside the history"),
        ({"request_target_end": lambda v: [end - 1 for end in v]}, "belong to no request"),
        ({"history_time_ms": lambda v: v[::-1]}, "not ordered by time"),
    ],
)
def test_rows_that_break_the_schema_are_rejected(
    rows: Callable[..., list[dict]],
    log_schema: LogSchema,
    changes: dict[str, Callable[[list], list]],
    message: str,
) -> None:
    good_rows = [row for row in rows(5) if len(row["history_time_ms"]) > 5 and row["request_history_end"][0] > 2]
    from_rows(good_rows, log_schema)
    with pytest.raises(LongreelError, match=message):
        from_rows(broken(good_rows, changes), log_schema)


def test_days_from_before_a_column_train_with_days_that_have_it(
    own_lake: Lake,
    days: list[date],
    config: Config,
    rows: Callable[..., list[dict[str, object]]],
    publish_rows: Callable[..., None],
) -> None:
    old, new = days[0], days[-1] + timedelta(days=1)
    before = own_lake.require("samples", old)
    new_rows = rows(9, first_user=900)
    price = Field(name="price", place="item", kind="number", optional=True)
    grown = Lake(own_lake.root, replace(own_lake.log_schema, fields=(*own_lake.log_schema.fields, price)))
    for row in new_rows:
        row["target_price"] = [7] * len(row["target_item_id"])  # type: ignore[arg-type]
        row["history_price"] = [8] * len(row["history_item_id"])  # type: ignore[arg-type]
    publish_rows(grown, new, new_rows)

    reader = TrainingReader(grown, [grown.require("samples", day) for day in (old, new)], TASKS, config.training)
    prices: dict[bool, set[str]] = {False: set(), True: set()}
    for batch in (rank_batch.batch for rank_batch in reader.batches()):
        counts = np.diff(batch.target_offsets.numpy())
        for is_new, value in zip(np.repeat(batch.user_id.numpy() >= 900, counts), batch.target["price"], strict=True):
            prices[bool(is_new)].add(f"{value:g}")
    assert prices == {False: {"nan"}, True: {"7"}}
    assert grown.require("samples", old) == before


NO_FILE = PublishedFile(path="", size_bytes=0, footer="", bucket=0)


def test_buffers_are_about_as_large_and_keep_the_order() -> None:
    def group(size: int) -> RowGroup:
        return RowGroup(file=NO_FILE, index=0, size_bytes=size << 20, max_events=0, first_request=0, num_requests=1)

    for sizes in ([42] * 12, [10] * 5, [500, 1, 1, 1], [1], [383, 2, 383, 2], [0, 0]):
        buffers = even_buffers([group(size) for size in sizes])
        assert [group.size_bytes >> 20 for buffer in buffers for group in buffer] == sizes
        held = [sum(group.size_bytes for group in buffer) for buffer in buffers]
        assert max(held) - min(held) <= 2 * max(sizes) << 20
        assert len(buffers) <= -(-sum(sizes) // 384) or len(buffers) == 1
    assert len(even_buffers([group(42) for _ in range(12)])) == 2
