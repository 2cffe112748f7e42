"""A request's targets share its history without changing anything; packing changes nothing either."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from longreel.contracts.config import Config
from longreel.contracts.log_schema import ITEM, Field, Kind, Label, LogSchema, Place
from longreel.model.data.batch import RequestBatch, one_row_per_target
from longreel.model.data.encodings import Encodings, Moments, learn_encodings
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.device_loader import RowLookup
from longreel.model.training.optimizer import Optimizers, clip_gradients
from tests.model.every_kind import EVERY_KIND, make_sample_rows

TASKS = ("click", "like")


@pytest.fixture
def ranker(config: Config, make_ranker: Callable[..., Ranker]) -> Ranker:
    """In float64 and without dropout, so that equal means equal; with every zero-initialised weight moved off zero."""
    ranker = make_ranker(config.model).double().eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ranker


def logits_and_gradients(
    ranker: Ranker, batch: RequestBatch, backend: str = "auto"
) -> tuple[Tensor, dict[str, Tensor]]:
    ranker.zero_grad()
    logits = ranker(batch, backend)
    ranking_loss_64(logits, batch.labels).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in ranker.named_parameters() if p.grad is not None}


def ranking_loss_64(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum") / len(labels)


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-9, atol=1e-11)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        torch.testing.assert_close(
            one[1][name], other[1][name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_request_level_batch_equals_one_row_per_target(ranker: Ranker, batch: RequestBatch) -> None:
    single = one_row_per_target(batch)
    assert len(set(batch.target_offsets.diff().tolist())) > 2  # jagged
    assert single.num_requests == batch.num_targets > batch.num_requests
    assert single.num_events > batch.num_events
    assert_same(logits_and_gradients(ranker, batch), logits_and_gradients(ranker, single))


def test_every_gradient_of_the_model_flows(ranker: Ranker, batch: RequestBatch) -> None:
    _, gradients = logits_and_gradients(ranker, batch)
    silent = [name for name, _ in ranker.named_parameters() if name not in gradients or not gradients[name].any()]
    assert silent == []


def test_attention_backends_give_the_same_model(ranker: Ranker, batch: RequestBatch) -> None:
    assert 0 in batch.history_offsets.diff()
    assert 1 in batch.history_offsets.diff()
    exact = logits_and_gradients(ranker, batch, "reference")
    for backend in ("padded", "absorbed"):
        assert_same(logits_and_gradients(ranker, batch, backend), exact)


def test_requests_scored_together_or_alone_get_the_same_logits(
    ranker: Ranker, sample_rows: Callable[..., SampleRows]
) -> None:
    rows = sample_rows(3)
    with torch.inference_mode():
        together = ranker(rows.pack(np.arange(rows.num_requests), 48))
        alone = torch.cat([ranker(rows.pack(np.array([r]), 48)) for r in range(rows.num_requests)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)


def test_half_precision_does_not_round_the_logits_themselves(ranker: Ranker, batch: RequestBatch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = ranker.float()(batch)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_targets_of_a_request_do_not_see_each_other(ranker: Ranker, batch: RequestBatch) -> None:
    other = dict(batch.target) | {"item_id": batch.target["item_id"].clone()}
    other["item_id"][0] += 1
    before, after = ranker(batch), ranker(replace(batch, target=other))
    assert not torch.equal(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:], rtol=0, atol=1e-12)


def test_logits_do_not_depend_on_labels(ranker: Ranker, table: Callable[..., pa.Table]) -> None:
    rows = table(3)
    column = rows.schema.get_field_index("target_labels")
    flipped = pa.array(
        [[1023 - v for v in values] for values in rows["target_labels"].to_pylist()], pa.list_(pa.int32())
    )
    one, other = (
        SampleRows.from_arrow(t, ranker.log_schema)
        for t in (rows, rows.set_column(column, rows.schema.field(column), flipped))
    )
    everything = np.arange(one.num_requests)
    a, b = one.pack(everything, 48, TASKS), other.pack(everything, 48, TASKS)
    assert not torch.equal(a.labels, b.labels)
    assert torch.equal(ranker(a), ranker(b))


def test_request_without_history_depends_on_target_and_user_alone(ranker: Ranker, batch: RequestBatch) -> None:
    empty = int((batch.history_offsets.diff() == 0).nonzero()[0, 0])
    where = slice(int(batch.target_offsets[empty]), int(batch.target_offsets[empty + 1]))
    later = replace(batch, request_time_ms=batch.request_time_ms + 3_600_000)
    before, after = ranker(batch), ranker(later)
    assert before[where].isfinite().all()
    assert torch.equal(before[where], after[where])
    assert not torch.equal(before, after)  # elsewhere events have become older


def test_only_the_newest_events_inside_the_window_matter(
    ranker: Ranker, sample_rows: Callable[..., SampleRows]
) -> None:
    rows = sample_rows(3)
    longest = np.array([int(np.argmax(rows.history_lengths))])
    batch = rows.pack(longest, 8)
    oldest_visible = int(rows.history_stop[longest[0]]) - 8
    changed = dict(rows.history) | {"item_id": rows.history["item_id"].copy()}
    changed["item_id"][oldest_visible - 1] += 1
    assert torch.equal(ranker(batch), ranker(replace(rows, history=changed).pack(longest, 8)))
    changed["item_id"][oldest_visible] += 1
    assert not torch.equal(ranker(batch), ranker(replace(rows, history=changed).pack(longest, 8)))


def test_a_time_never_trained_on_says_nothing(
    config: Config, batch: RequestBatch, make_ranker: Callable[..., Ranker]
) -> None:
    fresh = make_ranker(config.model).eval()
    later = replace(batch, request_time_ms=batch.request_time_ms + 40 * 365 * 86_400_000)
    assert torch.equal(fresh(batch), fresh(later))


def test_loss_is_the_sum_over_targets_and_tasks_over_the_targets(ranker: Ranker) -> None:
    logits, labels = torch.tensor([[0.3, -1.0], [2.0, 0.0], [-0.5, 0.1]]), torch.tensor([[1.0, 0], [0, 0], [1, 1]])
    p = torch.sigmoid(logits)
    by_hand = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum() / 3
    torch.testing.assert_close(ranker.loss(logits, labels), by_hand)
    torch.testing.assert_close(ranker.loss(logits, labels, 6), by_hand / 2)
    torch.testing.assert_close(ranker.values(logits), p)


MIXED = LogSchema(
    labels=(
        Label(name="click", when="click"),
        Label(name="spent", value="1", weight=3.0),
        Label(name="unused", when="click"),
    )
)


def mixed_ranker(config: Config, moments: Moments) -> Ranker:
    return Ranker(config.model, ("spent", "click"), MIXED, Encodings(number_labels={"spent": moments}))


def test_a_number_is_learned_on_its_own_scale_where_it_is_labelled(config: Config) -> None:
    ranker = mixed_ranker(config, Moments(mean=20.0, deviation=4.0))
    logits = torch.tensor([[0.5, 0.3], [1.0, -1.0], [9.0, 2.0]], requires_grad=True)
    labels = torch.tensor([[24.0, 1.0], [16.0, 0.0], [float("nan"), 1.0]])
    p = torch.sigmoid(logits[:, 1])
    by_hand = 3 * ((0.5 - 1.0) ** 2 + (1.0 + 1.0) ** 2) / 2 - (p[0].log() + (1 - p[1]).log() + p[2].log())
    loss = ranker.loss(logits, labels)
    torch.testing.assert_close(loss, by_hand / 3)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[:, 0], torch.tensor([3 * -0.5, 3 * 2.0, 0.0]) / 3)
    assert logits.grad.isfinite().all()
    values = ranker.values(logits)
    torch.testing.assert_close(values, torch.stack([20 + 4 * logits[:, 0], p], dim=1))


def test_a_number_starts_at_its_mean_and_a_probability_at_its_rate(config: Config) -> None:
    ranker = mixed_ranker(config, Moments(mean=20.0, deviation=4.0))
    ranker.set_prior(torch.tensor([float("nan"), 0.2]))
    torch.testing.assert_close(ranker.values(ranker.head.bias[None]), torch.tensor([[20.0, 0.2]]))


def test_a_loss_that_diverged_is_not_hidden(config: Config) -> None:
    ranker = mixed_ranker(config, Moments())
    assert ranker.loss(torch.full((2, 2), float("nan")), torch.ones(2, 2)).isnan()


def test_fields_of_every_kind_train(config: Config) -> None:
    rows = make_sample_rows(EVERY_KIND, 1)
    batch = rows.pack(np.arange(rows.num_requests), 10, ("spent", "click"))
    model = replace(config.model, match_counts=True, dropout=0.0)
    ranker = Ranker(model, ("spent", "click"), EVERY_KIND, learn_encodings(EVERY_KIND, rows)).train()
    optimizer = torch.optim.Adam(ranker.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = ranker.loss(ranker(batch), batch.labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [name for name, p in ranker.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert losses[-1] < 0.5 * losses[0]


def test_fifty_fields_work(config: Config) -> None:
    kinds: list[Kind] = ["id", "category", "number", "multi", "vector"]
    places: list[Place] = ["item", "request", "event", "user"]
    fields = [
        Field(
            name=f"f{i}", place=places[i % 4], kind=kinds[i % 5], size=3 if kinds[i % 5] in ("multi", "vector") else 1
        )
        for i in range(50)
    ]
    log = LogSchema(fields=(ITEM, *fields))
    rows = make_sample_rows(log, 1)
    ranker = Ranker(config.model, ("click",), log, learn_encodings(log, rows))
    batch = rows.pack(np.arange(rows.num_requests), 10, ("click",))
    loss = ranker.loss(ranker(RowLookup(ranker.embeddings, torch.device("cpu"))(batch)), batch.labels)
    loss.backward()
    assert loss.isfinite()


def test_an_item_alone_is_enough(config: Config) -> None:
    log = LogSchema(actions=(), history="true", labels=(Label(name="click", when="item_id = 1"),))
    rows = make_sample_rows(log, 1)
    ranker = Ranker(config.model, ("click",), log, learn_encodings(log, rows))
    optimizers = Optimizers(ranker, config.training, 10)
    batch = RowLookup(ranker.embeddings, torch.device("cpu"))(rows.pack(np.arange(rows.num_requests), 10, ("click",)))
    assert batch.rows is not None
    assert (batch.rows.user.shape[1], batch.rows.target_context.shape[1]) == (0, 0)
    before = ranker.loss(ranker(batch), batch.labels)
    before.backward()
    clip_gradients(optimizers.parameters, 1.0)
    optimizers.step(0)
    assert not torch.equal(ranker.loss(ranker(batch), batch.labels), before)
