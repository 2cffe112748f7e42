"""Gathering each row once, ahead of the step, changes no value and no gradient."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.contracts.config import Config
from longreel.contracts.schemas import HISTORY_FIELDS
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch, segment_ids
from longreel.model.data.hashing import bucket, mix64
from longreel.model.data.lookup import RowDeduplicator, gather_rows
from longreel.model.data.reader import TrainingReader
from longreel.model.nn.context import BITS, _ContextSum, context_sum
from longreel.model.nn.embeddings import (
    CONTEXT_SIZES,
    CONTEXT_STARTS,
    Embeddings,
    age_bucket,
    duration_bucket,
    play_ratio_bucket,
    position_bucket,
)
from longreel.model.nn.ranker import Ranker, ranking_loss
from longreel.model.training.device_loader import DeviceLoader, RowLookup

TASKS = ("click", "like")


@pytest.fixture
def embeddings(config: Config) -> Embeddings:
    embeddings = Embeddings(replace(config.model, dropout=0.0), 2).double()
    with torch.no_grad():
        for parameter in embeddings.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return embeddings


def reference(emb: Embeddings, batch: RequestBatch) -> tuple[Tensor, Tensor, Tensor]:
    """History, target and user vectors feature by feature and table by table: a lookup a field, every token apart."""

    def identity(fields: dict[str, Tensor]) -> Tensor:
        parts = []
        for name, size in emb.ids.sizes.items():
            table = emb.ids.weight[emb.ids.starts[name] : emb.ids.starts[name] + size]
            parts.append(table[bucket(fields[name], size)])
        return torch.cat(parts, dim=-1)

    def context(features: dict[str, Tensor]) -> Tensor:
        return sum(emb.context[CONTEXT_STARTS[name] + rows] for name, rows in features.items())  # type: ignore[return-value]

    h, t = batch.history, batch.target
    request = segment_ids(batch.history_offsets, batch.num_events)
    newest = batch.history_offsets[1:][request] - 1
    ages = batch.request_time_ms[request] - h["time_ms"]
    events = context(
        {
            "surface": bucket(h["surface"], CONTEXT_SIZES["surface"]),
            "duration": duration_bucket(h["duration_ms"]),
            "play_ratio": play_ratio_bucket(h["play_ms"], h["duration_ms"]),
            "age": age_bucket(ages),
            "position": position_bucket(newest - torch.arange(batch.num_events)),
        }
    )
    bits = ((h["actions"][:, None] & torch.tensor(BITS)) != 0).double()
    history = emb.history_norm(emb.history_fuse(identity(h)) + bits @ emb.actions.weight.T + events)
    surface = bucket(t["surface"], CONTEXT_SIZES["surface"])
    shown = context({"surface": surface, "duration": duration_bucket(t["duration_ms"])})
    target = emb.target_norm(emb.target_fuse(identity(t)) + shown)
    rows = bucket(mix64(batch.user_features) ^ mix64(torch.arange(2)), emb.user_features.num_rows)
    users = emb.user_features.weight[rows].sum(dim=1) / 2**0.5
    return history, target, F.layer_norm(users, users.shape[-1:])


def values_and_gradients(emb: Embeddings, vectors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    emb.zero_grad()
    generator = torch.Generator().manual_seed(1)
    loss = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in vectors)
    loss.backward()  # type: ignore[union-attr]
    values = dict(zip(("history", "target", "user"), (v.detach() for v in vectors), strict=True))
    return values | {name: p.grad.to_dense().clone() for name, p in emb.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("ahead", [True, False], ids=["rows looked up ahead", "whole tables"])
def test_embeddings_equal_their_reference_in_values_and_gradients(
    embeddings: Embeddings, batch: RequestBatch, ahead: bool
) -> None:
    expected = values_and_gradients(embeddings, reference(embeddings, batch))
    if ahead:
        batch = RowLookup(embeddings, torch.device("cpu"))(batch)
        assert batch.rows is not None
        assert batch.rows.unique is not None
        assert len(batch.rows.unique) < batch.rows.history.numel() + batch.rows.target.numel()
    gathered = embeddings.gather(batch)
    vectors = embeddings.history(gathered), embeddings.target(gathered), embeddings.user(gathered)
    actual = values_and_gradients(embeddings, vectors)
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: n + m)
    assert embeddings.ids.weight.grad is not None
    assert embeddings.ids.weight.grad.is_sparse == ahead


def test_product_and_gather_give_the_same_context_sum_and_gradients() -> None:
    rng = torch.Generator().manual_seed(0)
    starts, sizes = torch.tensor(list(CONTEXT_STARTS.values())), torch.tensor(list(CONTEXT_SIZES.values()))
    rows = (starts + (torch.rand(200, 5, generator=rng) * sizes).long()).int()
    actions = torch.randint(0, 1024, (200,), generator=rng, dtype=torch.int32)  # bits that are no action change nothing
    table, weight = torch.randn(int(sizes.sum()), 6).double(), torch.randn(6, len(BITS)).double()
    leaves = [[table.clone().requires_grad_(), weight.clone().requires_grad_()] for _ in range(2)]
    one = context_sum(leaves[0][0], rows, leaves[0][1], actions)
    other = _ContextSum.apply(leaves[1][0], rows, leaves[1][1], actions)
    torch.testing.assert_close(one, other)
    out = torch.randn(one.shape, generator=rng).double()
    (one * out).sum().backward()
    (other * out).sum().backward()
    for a, b in zip(*leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert torch.autograd.gradcheck(
        lambda t: _ContextSum.apply(t, rows, None, None), leaves[1][0].detach()[:, :1].requires_grad_()
    )


def test_deduplicator_numbers_distinct_rows_in_order() -> None:
    deduplicate = RowDeduplicator(50, torch.device("cpu"))
    for seed in range(3):  # nothing is left over from the call before
        rng = np.random.default_rng(seed)
        lookups = [rng.integers(0, 50, size) for size in ((9, 3), (4, 3), (0, 3))]
        unique, places = deduplicate(*(torch.from_numpy(ids).int() for ids in lookups))
        assert unique.tolist() == sorted({int(row) for ids in lookups for row in ids.flatten()})
        for ids, place in zip(lookups, places, strict=True):
            assert (unique[place.long()].numpy() == ids).all()


def test_gradient_of_gathered_rows_holds_those_rows_alone() -> None:
    table = torch.nn.Parameter(torch.randn(1_000, 4))
    unique = torch.tensor([3, 17, 999])
    gather_rows(table, unique).square().sum().backward()
    assert table.grad is not None
    assert table.grad._indices()[0].tolist() == [3, 17, 999]
    torch.testing.assert_close(table.grad._values(), 2 * table.detach()[unique])


def test_model_gives_the_same_with_rows_looked_up_ahead(config: Config, batch: RequestBatch) -> None:
    ranker = Ranker(config.model, TASKS, 2).eval()
    ahead = RowLookup(ranker.embeddings, torch.device("cpu"))(batch)
    one, other = ranker(batch), ranker(ahead)
    torch.testing.assert_close(one, other)
    ranking_loss(other, batch.labels).backward()
    assert all(p.grad is not None for p in ranker.parameters())
    assert set(HISTORY_FIELDS) == set(ahead.history)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loading_on_cuda_gives_the_rows_of_the_cpu(config: Config, lake: Lake, days: list[date]) -> None:
    cuda = torch.device("cuda")
    embeddings = Embeddings(config.model, 2)
    manifests = [lake.require("samples", day) for day in days]
    on_cpu, on_cuda = (
        list(
            DeviceLoader(
                TrainingReader(lake, manifests, TASKS, config.training, device=device).batches(),
                embeddings.to(device),
                device,
            )
        )
        for device in (torch.device("cpu"), cuda)
    )
    for one, other in zip(on_cpu, on_cuda, strict=True):
        expected, actual = one.on_current_stream(), other.on_current_stream().to("cpu")
        assert expected.rows is not None
        assert actual.rows is not None
        for name in (
            "history",
            "target",
            "user",
            "history_context",
            "target_context",
            "unique",
            "counts",
            "user_unique",
        ):
            assert torch.equal(getattr(expected.rows, name), getattr(actual.rows, name)), name
