"""A batch that is padded to a shape gives the loss and the gradients of the batch itself."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch

from longreel.contracts.config import Config
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.reader import ShapeLimits, TrainingReader
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.cuda_graphs import loss_and_gradients
from longreel.model.training.device_loader import RowLookup
from longreel.model.training.padding import Shape, pad_to_bucket, round_up
from tests.model.every_kind import EVERY_KIND, make_sample_rows

TASKS = ("click", "like")


@pytest.fixture
def ranker(config: Config, make_ranker: Callable[..., Ranker]) -> Ranker:
    return make_ranker(replace(config.model, dropout=0.0)).train()


@pytest.fixture
def batches(ranker: Ranker, sample_rows: Callable[..., SampleRows]) -> list[RequestBatch]:
    rows, lookup = sample_rows(3), RowLookup(ranker.embeddings, torch.device("cpu"))
    sizes = [(3, 48), (30, 16), (7, 8), (40, 64), (1, 64)]
    return [lookup(rows.pack(np.arange(3, 3 + n), window, TASKS)) for n, window in sizes]


@pytest.mark.parametrize("steps", [1, 8])
def test_sizes_are_rounded_up_a_little_and_to_few_values(steps: int) -> None:
    counts = range(1, 5_000)
    rounded = [round_up(n, steps) for n in counts]
    assert all(n <= r <= n + max(1, n // steps) for n, r in zip(counts, rounded, strict=True))
    assert len({r for n, r in zip(counts, rounded, strict=True) if 1_024 < n <= 2_048}) == steps
    assert all(round_up(r, steps) == r for r in rounded)


def test_a_padded_batch_is_a_batch_of_its_shape(batches: list[RequestBatch]) -> None:
    for batch in batches:
        padded, shape = pad_to_bucket(batch, ("item_id",), batch.num_targets).batch, Shape.of(batch, ShapeLimits())
        assert (padded.num_requests, padded.num_events, padded.num_targets) == (
            shape.requests,
            shape.events,
            shape.targets,
        )
        for offsets, total, most in (
            (padded.history_offsets, shape.events, shape.max_history),
            (padded.target_offsets, shape.targets, shape.max_targets),
        ):
            assert offsets[-1] == total
            assert 0 <= int(offsets.diff().min()) <= int(offsets.diff().max()) <= most


def test_a_padded_batch_gives_the_loss_and_gradients_of_the_batch(ranker: Ranker, batches: list[RequestBatch]) -> None:
    ranker.double()
    tables = {id(p) for p in ranker.table_parameters()}
    for batch in (replace(batch, labels=batch.labels.double()) for batch in batches):
        ranker.zero_grad()
        loss = ranker.loss(ranker(batch), batch.labels, 2 * batch.num_targets)  # as of two ranks
        loss.backward()
        padded_loss, gradients = loss_and_gradients(
            ranker,
            list(ranker.parameters()),
            pad_to_bucket(batch, ranker.log_schema.match_fields, 2 * batch.num_targets),
        )
        torch.testing.assert_close(padded_loss, loss.detach(), rtol=1e-6, atol=0)
        rows = batch.rows
        assert rows is not None
        own = {
            ranker.embeddings.ids.num_rows: rows.num_unique,
            ranker.embeddings.users.num_rows: rows.num_user_unique,
        }
        for (name, p), gradient in zip(ranker.named_parameters(), gradients, strict=True):
            if id(p) in tables:
                assert gradient is not None
                assert not gradient._values()[own[p.shape[0]] :].any()
                values = gradient._values()[: own[p.shape[0]]]
                assert torch.equal(gradient._indices()[0, : len(values)], p.grad._indices()[0])
                torch.testing.assert_close(values, p.grad._values(), rtol=1e-5, atol=1e-8, msg=name)
            else:
                torch.testing.assert_close(gradient, p.grad, rtol=1e-5, atol=1e-8, msg=name)


def test_padding_keeps_fields_of_every_kind(config: Config) -> None:
    rows = make_sample_rows(EVERY_KIND, 1)
    model = replace(config.model, dropout=0.0, match_counts=True)
    ranker = Ranker(model, ("spent", "click"), EVERY_KIND, learn_encodings(EVERY_KIND, rows)).double().train()
    batch = rows.pack(np.arange(3, rows.num_requests), 10, ("spent", "click"))
    batch = RowLookup(ranker.embeddings, torch.device("cpu"))(replace(batch, labels=batch.labels.double()))
    loss = ranker.loss(ranker(batch), batch.labels)
    loss.backward()
    padded = pad_to_bucket(batch, ranker.log_schema.match_fields, batch.num_targets)
    padded_loss, gradients = loss_and_gradients(ranker, list(ranker.dense_parameters()), padded)
    torch.testing.assert_close(padded_loss, loss.detach(), rtol=1e-6, atol=0)
    for p, gradient in zip(ranker.dense_parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-5, atol=1e-7)


def test_batches_of_an_epoch_have_few_shapes(lake: Lake, days: list[date], config: Config, ranker: Ranker) -> None:
    """They differ in events and rows alone, which are the work; and no batch exceeds the limits."""
    reader = TrainingReader(lake, [lake.require("samples", day) for day in days], TASKS, config.training)
    lookup = RowLookup(ranker.embeddings, torch.device("cpu"))
    own, shapes, sizes = set(), set(), []
    for rank_batch in reader.batches():
        if rank_batch.next_state.epoch:
            break
        batch, limits = lookup(rank_batch.batch), rank_batch.limits
        sizes.append((batch.num_requests, batch.num_targets, batch.max_history, batch.max_targets))
        shape = Shape.of(batch, limits)
        own.add(Shape.of(batch, ShapeLimits()))
        shapes.add(replace(shape, events=0, rows=0, user_rows=0))
        assert (limits.requests, limits.targets) >= (batch.num_requests, batch.num_targets)
        padded = pad_to_bucket(batch, ("item_id",), rank_batch.num_targets, limits)
        assert padded.shape == shape
        assert padded.batch.num_targets == shape.targets
    assert tuple(map(max, zip(*sizes, strict=True))) == (
        limits.requests,
        limits.targets,
        limits.max_history,
        limits.max_targets,
    )
    assert len(own) > len(shapes) <= 2
