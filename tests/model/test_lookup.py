"""Looking rows up ahead of the step, each once, gives the values and gradients of a lookup a field."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.contracts.config import Config, ModelConfig
from longreel.contracts.log_schema import UNKNOWN, Field, LogSchema
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch, segment_ids
from longreel.model.data.encodings import Encodings, learn_encodings
from longreel.model.data.field_rows import number_rows, vocabulary_rows
from longreel.model.data.hashing import bucket
from longreel.model.data.lookup import BatchRows, RowDeduplicator, gather_rows
from longreel.model.data.reader import TrainingReader
from longreel.model.nn.context import _ContextSum, action_chunks, context_sum
from longreel.model.nn.embeddings import AGE, POSITION, Embeddings, age_bucket, position_bucket
from longreel.model.nn.ranker import Ranker
from longreel.model.training.device_loader import DeviceLoader, RowLookup
from tests.model.every_kind import EVERY_KIND, make_sample_rows

TASKS = ("click", "like")
CPU = torch.device("cpu")


def build(config: ModelConfig, log: LogSchema, encodings: Encodings) -> Embeddings:
    """In float64 and without dropout, with every zero-initialised weight moved off zero."""
    embeddings = Embeddings(replace(config, dropout=0.0), log, encodings).double()
    with torch.no_grad():
        for parameter in embeddings.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return embeddings


class Reference:
    """The embeddings of one log, value by value: plain Python, a lookup a field, every token apart."""

    def __init__(self, embeddings: Embeddings, log: LogSchema, encodings: Encodings) -> None:
        self.embeddings, self.log, self.encodings = embeddings, log, encodings
        self.zone = ZoneInfo(log.time_zone)

    def row(self, field: Field, value: object, time_ms: int) -> int:
        """The row of a value, counted from the field's first."""
        if field.kind == "category":
            codes = sorted(self.encodings.codes[field.name])
            return 0 if value == UNKNOWN else 2 + codes.index(value) if value in codes else 1
        if field.kind == "number":
            number = float(value)  # type: ignore[arg-type]
            return 0 if np.isnan(number) else 1 + sum(b < number for b in self.encodings.boundaries[field.name])
        if field.kind == "vector":
            return int(not torch.isnan(value).any())  # type: ignore[call-overload]
        if field.kind in ("hour", "weekday"):
            local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)).astimezone(self.zone)
            return local.hour if field.kind == "hour" else local.weekday()
        return int(bucket(torch.tensor(value), field.table_rows))

    def bag(self, field: Field, ids: list[int]) -> list[int]:
        """The rows of a multi: those of its ids, or that of none."""
        return [self.row(field, i, 0) for i in ids if i != UNKNOWN] or [0]

    def scaled(self, field: Field, vector: Tensor) -> Tensor:
        """A vector, standardised; zeros where it is missing."""
        scale = self.encodings.vectors[field.name]
        mean = torch.tensor(scale.mean, dtype=torch.float32).double()
        deviation = torch.tensor(scale.deviation, dtype=torch.float32).double()
        return torch.zeros_like(mean) if vector.isnan().any() else (vector.double() - mean) / deviation

    def token(self, places: tuple[str, ...], values: dict[str, Tensor], e: int, time_ms: int) -> tuple[Tensor, Tensor]:
        """What an event or target e is fused from, and the sum of its context rows."""
        emb, fields = self.embeddings, [f for f in self.log.fields if f.place in places]

        def id_row(field: Field, row: int) -> Tensor:
            return emb.ids.weight[emb.ids.starts[field.name] + row]

        ids = [id_row(f, self.row(f, int(values[f.name][e]), time_ms)) for f in fields if f.kind == "id"]
        multis = [
            torch.stack([id_row(f, row) for row in self.bag(f, values[f.name][e].tolist())]).mean(dim=0)
            for f in fields
            if f.kind == "multi"
        ]
        vectors = [self.scaled(f, values[f.name][e]) for f in fields if f.kind == "vector"]
        context = torch.zeros(emb.context.shape[1], dtype=torch.float64)
        for f in fields:
            if f.kind not in ("id", "multi"):
                value = values[f.name][e] if f.name in values else None
                value = value.item() if value is not None and value.ndim == 0 else value
                context = context + emb.context[emb.context_starts[f.name] + self.row(f, value, time_ms)]
        return torch.cat([*ids, *multis, *vectors]), context

    def history(self, batch: RequestBatch) -> Tensor:
        """X [H, D]."""
        emb, out = self.embeddings, []
        request = segment_ids(batch.history_offsets, batch.num_events).tolist()
        for e, r in enumerate(request):
            time_ms = int(batch.history["time_ms"][e])
            values, context = self.token(("item", "request", "event"), batch.history, e, time_ms)
            age = age_bucket(batch.request_time_ms[r] - time_ms)
            position = position_bucket(batch.history_offsets[r + 1] - 1 - e)
            context = context + emb.context[emb.context_starts[AGE] + age]
            context = context + emb.context[emb.context_starts[POSITION] + position]
            for bit in range(len(self.log.actions)):
                if int(batch.history["actions"][e]) >> bit & 1:
                    context = context + emb.actions.weight[:, bit]  # type: ignore[union-attr]
            out.append(emb.history_norm(emb.history_fuse(values) + context))
        return torch.stack(out)

    def target(self, batch: RequestBatch) -> Tensor:
        """x_t [T, D]."""
        emb, out = self.embeddings, []
        for t, r in enumerate(segment_ids(batch.target_offsets, batch.num_targets).tolist()):
            values, context = self.token(("item", "request"), batch.target, t, int(batch.request_time_ms[r]))
            out.append(emb.target_norm(emb.target_fuse(values) + context))
        return torch.stack(out)

    def user(self, batch: RequestBatch) -> Tensor:
        """[B, D]."""
        emb, out = self.embeddings, []
        fields = [f for f in self.log.fields if f.place == "user"]
        vectors = [f for f in fields if f.kind == "vector"]
        for b in range(batch.num_requests):
            total = torch.zeros(emb.users.weight.shape[1], dtype=torch.float64)
            for f in fields:
                value = batch.user[f.name][b]
                if f.kind == "multi":
                    rows = self.bag(f, value.tolist())
                else:
                    rows = [self.row(f, value.item() if value.ndim == 0 else value, 0)]
                total = total + torch.stack([emb.users.weight[emb.users.starts[f.name] + row] for row in rows]).mean(0)
            if vectors:
                total = total + emb.user_fuse(torch.cat([self.scaled(f, batch.user[f.name][b]) for f in vectors]))  # type: ignore[misc]
            out.append(F.layer_norm(total / len(fields) ** 0.5, total.shape))
        return torch.stack(out)


def values_and_gradients(emb: Embeddings, vectors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    emb.zero_grad()
    generator = torch.Generator().manual_seed(1)
    loss = sum((v * torch.randn(v.shape, generator=generator, dtype=v.dtype)).sum() for v in vectors)
    loss.backward()  # type: ignore[union-attr]
    values = dict(zip(("history", "target", "user"), (v.detach() for v in vectors), strict=True))
    return values | {name: p.grad.to_dense().clone() for name, p in emb.named_parameters() if p.grad is not None}


def assert_like_the_reference(embeddings: Embeddings, reference: Reference, batch: RequestBatch, ahead: bool) -> None:
    vectors = reference.history(batch), reference.target(batch), reference.user(batch)
    expected = values_and_gradients(embeddings, vectors)
    if ahead:
        batch = RowLookup(embeddings, CPU)(batch)
        assert batch.rows is not None
        assert batch.rows.unique is not None
        assert len(batch.rows.unique) < batch.rows.history.numel() + batch.rows.target.numel()
    gathered = embeddings.gather(batch)
    actual = values_and_gradients(
        embeddings, (embeddings.history(gathered), embeddings.target(gathered), embeddings.user(gathered))
    )
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: n + m)
    assert embeddings.ids.weight.grad is not None
    assert embeddings.ids.weight.grad.is_sparse == ahead


@pytest.mark.parametrize("ahead", [True, False], ids=["rows looked up ahead", "whole tables"])
def test_embeddings_equal_their_reference_in_values_and_gradients(
    config: Config, log_schema: LogSchema, encodings: Encodings, batch: RequestBatch, ahead: bool
) -> None:
    embeddings = build(config.model, log_schema, encodings)
    assert_like_the_reference(embeddings, Reference(embeddings, log_schema, encodings), batch, ahead)


@pytest.mark.parametrize("ahead", [True, False], ids=["rows looked up ahead", "whole tables"])
def test_fields_of_every_kind_equal_their_reference(config: Config, ahead: bool) -> None:
    encodings = learn_encodings(EVERY_KIND, make_sample_rows(EVERY_KIND, 1))
    embeddings = build(config.model, EVERY_KIND, encodings)
    rows = make_sample_rows(EVERY_KIND, 2)  # other rows: some of their categories are new
    rows.history["device"][::5] = 1_000
    batch = rows.pack(np.arange(rows.num_requests), 10)
    assert_like_the_reference(embeddings, Reference(embeddings, EVERY_KIND, encodings), batch, ahead)


def test_short_videos_cost_a_gather_a_side_and_a_row_a_value(
    config: Config, log_schema: LogSchema, encodings: Encodings, batch: RequestBatch
) -> None:
    rows = Embeddings(config.model, log_schema, encodings).find_rows(batch)
    assert (rows.history.shape[1], rows.target.shape[1], rows.user.shape[1]) == (3, 3, 2)
    assert (rows.history_context.shape[1], rows.target_context.shape[1]) == (6, 2)  # five features, eight action bits
    unused = {"unique", "counts", "user_unique", "match_counts"}
    assert [f.name for f in fields(BatchRows) if getattr(rows, f.name) is None and f.name not in unused] == [
        f"{side}_{what}" for what in ("weights", "vectors") for side in ("history", "target", "user")
    ]


@pytest.mark.parametrize("num_actions", [1, 3, 8, 9, 37, 60])
def test_product_and_gather_give_the_same_context_sum_and_gradients(num_actions: int) -> None:
    rng = torch.Generator().manual_seed(0)
    sizes = torch.tensor([64, 32, 5, 96, 48])
    rows = (sizes.cumsum(0) - sizes + (torch.rand(200, 5, generator=rng) * sizes).long()).int()
    actions = torch.randint(0, 1 << 62, (200,), generator=rng)  # bits that are no action change nothing
    chunks = action_chunks(actions, num_actions)
    table, weight = torch.randn(int(sizes.sum()), 6).double(), torch.randn(6, num_actions).double()
    by_hand = table[rows.long()].sum(dim=1)
    for bit in range(num_actions):
        by_hand += (actions >> bit & 1)[:, None] * weight[:, bit]
    leaves = [[table.clone().requires_grad_(), weight.clone().requires_grad_()] for _ in range(2)]
    one = context_sum(leaves[0][0], rows, leaves[0][1], chunks)
    other = _ContextSum.apply(leaves[1][0], rows, leaves[1][1], chunks)
    torch.testing.assert_close(one, by_hand)
    torch.testing.assert_close(one, other)
    out = torch.randn(one.shape, generator=rng).double()
    (one * out).sum().backward()
    (other * out).sum().backward()
    for a, b in zip(*leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert torch.autograd.gradcheck(
        lambda t: _ContextSum.apply(t, rows, None, None), leaves[1][0].detach()[:, :1].requires_grad_()
    )


def test_unknown_and_unseen_values_have_rows_of_their_own() -> None:
    codes = torch.tensor([2, 5, 9], dtype=torch.int32)
    values = torch.tensor([UNKNOWN, 0, 2, 3, 5, 9, 10, 2**31 - 1], dtype=torch.int32)
    assert vocabulary_rows(values, codes).tolist() == [0, 1, 2, 1, 3, 4, 1, 1]
    assert vocabulary_rows(values, codes[:0]).tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    numbers = torch.tensor([float("nan"), -float("inf"), 0.0, 1.0, 1.5, 2.0, 7.0, float("inf")])
    assert number_rows(numbers, torch.tensor([0.0, 1.5, 7.0])).tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
    assert number_rows(numbers, torch.tensor([])).tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


def test_deduplicator_numbers_distinct_rows_in_order() -> None:
    deduplicate = RowDeduplicator(50, CPU)
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


def test_model_gives_the_same_with_rows_looked_up_ahead(
    config: Config, batch: RequestBatch, make_ranker: Callable[..., Ranker]
) -> None:
    ranker = make_ranker(config.model).eval()
    ahead = RowLookup(ranker.embeddings, CPU)(batch)
    one, other = ranker(batch), ranker(ahead)
    torch.testing.assert_close(one, other)
    ranker.loss(other, batch.labels).backward()
    assert all(p.grad is not None for p in ranker.parameters())
    assert ahead.history.keys() == batch.history.keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loading_on_cuda_gives_the_rows_of_the_cpu(
    config: Config, lake: Lake, days: list[date], log_schema: LogSchema, encodings: Encodings
) -> None:
    cuda = torch.device("cuda")
    embeddings = Embeddings(config.model, log_schema, encodings)
    manifests = [lake.require("samples", day) for day in days]
    on_cpu, on_cuda = (
        list(
            DeviceLoader(
                TrainingReader(lake, manifests, TASKS, config.training, device=device).batches(),
                embeddings.to(device),
                device,
            )
        )
        for device in (CPU, cuda)
    )
    for one, other in zip(on_cpu, on_cuda, strict=True):
        expected, actual = one.on_current_stream(), other.on_current_stream().to("cpu")
        assert expected.rows is not None
        assert actual.rows is not None
        for name in (field.name for field in fields(BatchRows) if getattr(expected.rows, field.name) is not None):
            assert torch.equal(getattr(expected.rows, name), getattr(actual.rows, name)), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fields_of_every_kind_find_the_same_rows_on_cuda(config: Config) -> None:
    rows = make_sample_rows(EVERY_KIND, 2)
    embeddings = Embeddings(config.model, EVERY_KIND, learn_encodings(EVERY_KIND, rows))
    batch = rows.pack(np.arange(rows.num_requests), 10)
    expected = embeddings.find_rows(batch)
    actual = embeddings.cuda().find_rows(batch.to("cuda")).map(lambda tensor: tensor.cpu())
    for field in fields(BatchRows):
        one, other = getattr(expected, field.name), getattr(actual, field.name)
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6) if one is not None else None
