"""Rows on a device give the batches that the host packs, request by request and batch by batch."""

from dataclasses import fields, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.device_rows import DeviceRows
from longreel.model.data.reader import ReaderState, TrainingReader
from longreel.model.data.row_groups import read_rows
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import day_groups
from tests.sample_tables import EVERY_KIND, random_rows

TASKS = ("click", "like")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


@pytest.fixture
def rows(lake: Lake, days: list[date]) -> SampleRows:
    return read_rows(lake, day_groups(lake, days[0]))


def assert_same(one: RequestBatch, other: RequestBatch) -> None:
    """Every tensor, its type too, and every number."""
    for field in fields(one):
        expected, actual = getattr(one, field.name), getattr(other, field.name)
        pairs = [(expected[k], actual[k]) for k in expected] if isinstance(expected, dict) else [(expected, actual)]
        for a, b in pairs:
            if isinstance(a, torch.Tensor):
                assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
                torch.testing.assert_close(b.cpu(), a, rtol=0, atol=0, equal_nan=True, msg=field.name)
            else:
                assert a == b, field.name


@pytest.mark.parametrize("device", DEVICES)
def test_packs_what_the_host_packs(rows: SampleRows, device: str) -> None:
    there, rng = DeviceRows.of(rows, torch.device(device)), np.random.default_rng(0)
    assert rows.user
    for count in (0, 1, 37):
        requests = rng.choice(rows.num_requests, count)
        windows = rng.integers(1, 64, count)
        skip = np.minimum(rng.integers(0, 3, count), rows.history_lengths[requests])
        index = rng.integers(0, 1 << 40, count)
        assert_same(rows.pack(requests, windows, TASKS, index, skip), there.pack(requests, windows, TASKS, index, skip))
    everything = np.arange(rows.num_requests)
    assert_same(rows.pack(everything, 10_240), there.pack(everything, 10_240))


@pytest.mark.parametrize("device", DEVICES)
def test_packs_every_kind_of_field_and_label(device: str) -> None:
    table = pa.Table.from_pylist(random_rows(EVERY_KIND, 0), schema=dataset_schemas(EVERY_KIND).samples)
    rows = SampleRows.from_arrow(table, EVERY_KIND)
    there, requests = DeviceRows.of(rows, torch.device(device)), np.arange(rows.num_requests)[::-1].copy()
    tasks = ("spent", "bought", "click")
    batch = there.pack(requests, 16, tasks)
    assert_same(rows.pack(requests, 16, tasks), batch)
    assert batch.labels[:, 0].isnan().any()
    assert batch.user["interests"].shape == (rows.num_requests, 3)


@pytest.mark.parametrize("device", DEVICES)
def test_users_without_features_and_requests_without_history(rows: SampleRows, device: str) -> None:
    bare = replace(rows, user={}, history_stop=rows.history_start)
    some = np.arange(5)
    batch = DeviceRows.of(bare, torch.device(device)).pack(some, 64, TASKS)
    assert (batch.num_events, batch.user) == (0, {})
    assert_same(bare.pack(some, 64, TASKS), batch)


def test_labels_that_are_not_there_are_asked_for_by_name(rows: SampleRows) -> None:
    there = DeviceRows.of(replace(rows, labels=None), torch.device("cpu"))
    assert there.pack(np.arange(3), 8).labels.shape[1] == 0
    with pytest.raises(LongreelError, match="target_labels"):
        there.pack(np.arange(3), 8, TASKS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_reader_on_a_card_reads_what_one_on_the_host_reads(lake: Lake, days: list[date], config: Config) -> None:
    manifests = [lake.require("samples", day) for day in days]
    host, card = (
        TrainingReader(lake, manifests, TASKS, config.training, device=torch.device(device))
        for device in ("cpu", "cuda")
    )
    for one, other in zip(host.batches(ReaderState(batch=1)), card.batches(ReaderState(batch=1)), strict=True):
        assert one.next_state == other.next_state
        assert_same(one.batch, other.batch)
