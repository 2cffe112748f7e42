"""How many events of the window match a target, and which is the newest, is what looking at every event says."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longreel.contracts.config import Config
from longreel.contracts.log_schema import ALL_IMPRESSIONS, UNKNOWN, Column, LogSchema
from longreel.model.data.batch import RequestBatch, one_row_per_target
from longreel.model.data.encodings import Encodings
from longreel.model.data.samples import SampleRows
from longreel.model.nn.embeddings import POSITION
from longreel.model.nn.match_counts import HORIZONS_MS, MatchCounts, counted_fields, log2p1, num_numbers
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import load_model, save_model
from longreel.model.training.cuda_graphs import loss_and_gradients
from longreel.model.training.device_loader import RowLookup
from longreel.model.training.padding import pad_to_bucket
from tests.short_video import SHORT_VIDEO

TASKS = ("click", "like")
HOUR = 3_600_000
CPU = torch.device("cpu")
ID_FIELDS = counted_fields(SHORT_VIDEO)
IMPRESSIONS = replace(SHORT_VIDEO, history=ALL_IMPRESSIONS)


def random_batch(seed: int) -> RequestBatch:
    """Jagged requests, some without events or targets; few ids, so that many match; some unknown, some huge."""
    rng = np.random.default_rng(seed)
    requests = int(rng.integers(1, 9))
    lengths = rng.integers(0, 40, requests) * (rng.random(requests) < 0.8)
    counts = rng.integers(0 if seed % 3 else 1, 2 if seed % 3 == 0 else 7, requests)
    request_time_ms = 1_700_000_000_000 + rng.integers(0, 1_000 * HOUR, requests)
    ages = [np.sort(rng.choice([1, HOUR, 24 * HOUR, 900 * HOUR]) * rng.integers(1, 9, n))[::-1] for n in lengths]
    ids = np.array([UNKNOWN, 0, 7, 2**31 - 1, 11, 12])

    def fields(columns: tuple[Column, ...], total: int) -> dict[str, Tensor]:
        values = {column.name: torch.from_numpy(rng.choice(ids, total)) for column in columns}
        values["item_id"] = torch.from_numpy(rng.choice([-(2**63), 2**63 - 1, 2**63 - 2, 5, 6, 0], total))
        return values | {"tag": values["tag"].int()}

    history = fields(SHORT_VIDEO.event_columns, int(lengths.sum()))
    history["time_ms"] = torch.from_numpy(
        np.repeat(request_time_ms, lengths) - np.concatenate([*ages, np.zeros(0, np.int64)])
    )
    history["actions"] = torch.from_numpy(rng.integers(0, 2, int(lengths.sum())) * rng.choice([1, 2, 130]))
    offsets = [torch.from_numpy(np.concatenate([[0], np.cumsum(n)])) for n in (lengths, counts)]
    return RequestBatch(
        history=history,
        history_offsets=offsets[0],
        target=fields(SHORT_VIDEO.item_columns, int(counts.sum())),
        target_offsets=offsets[1],
        labels=torch.from_numpy(rng.integers(0, 2, (int(counts.sum()), 2)).astype(np.float32)),
        request_time_ms=torch.from_numpy(request_time_ms),
        user={},
        user_id=torch.arange(requests),
        request_index=torch.arange(requests),
        max_history=int(lengths.max()),
        max_targets=int(counts.max()),
    )


def counted_slowly(batch: RequestBatch, log_schema: LogSchema = SHORT_VIDEO) -> Tensor:
    """Numbers [T, numbers], from one look at every event of every target's request."""
    rows = []
    for request in range(batch.num_requests):
        window = range(*batch.history_offsets[request : request + 2].tolist())
        request_time_ms = int(batch.request_time_ms[request])
        ages = {e: request_time_ms - int(batch.history["time_ms"][e]) for e in window}
        acted = [e for e in window if int(batch.history["actions"][e])]
        chosen = [list(window), acted] if log_schema is IMPRESSIONS else [list(window)]

        def logs(places: list[int], ages: dict[int, int] = ages) -> list[float]:
            counts = [len(places), *(sum(ages[e] <= horizon for e in places) for horizon in HORIZONS_MS)]
            return [math.log2(1 + n) / 4 for n in counts]

        for target in range(*batch.target_offsets[request : request + 2].tolist()):
            row: list[float] = []
            for events in chosen:
                for name in ID_FIELDS:
                    target_id = int(batch.target[name][target])
                    places = [e for e in events if int(batch.history[name][e]) == target_id != UNKNOWN]
                    row += logs(places)
                    row += [1, math.log2(1 + ages[places[-1]] / 1_000) / 8 - 2] if places else [0, 0]
                    row += [math.log2(window.stop - places[-1]) / 4 - 1] if places else [0]
            if len(chosen) > 1:
                bits = [1 << bit for bit in range(len(log_schema.actions))]
                of_actions = [[e for e in window if int(batch.history["actions"][e]) & bit] for bit in bits]
                row += [number for events in (list(window), *of_actions) for number in logs(events)]
            rows.append(row)
    return torch.tensor(rows).reshape(len(rows), num_numbers(log_schema))


@pytest.fixture
def counting(config: Config) -> Config:
    return replace(config, model=replace(config.model, match_counts=True))


def build(config: Config, **changes: float) -> Ranker:
    """In float64, with every zero-initialised weight moved off zero."""
    torch.manual_seed(0)
    ranker = Ranker(replace(config.model, **changes), TASKS, config.log_schema, Encodings()).double().eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ranker


def found_numbers(ranker: Ranker, batch: RequestBatch) -> Tensor:
    rows = ranker.embeddings.find_rows(batch).match_counts
    assert rows is not None
    return rows


@pytest.mark.parametrize("log_schema", [SHORT_VIDEO, IMPRESSIONS], ids=["engaged events", "impressions"])
@pytest.mark.parametrize("seed", range(60))
def test_numbers_are_those_of_looking_at_every_event(counting: Config, seed: int, log_schema: LogSchema) -> None:
    batch = random_batch(seed)
    numbers = MatchCounts(counting.model, log_schema).numbers(batch)
    torch.testing.assert_close(numbers, counted_slowly(batch, log_schema), rtol=1e-6, atol=1e-6)


def test_the_batches_of_that_comparison_hold_every_case() -> None:
    batches = [random_batch(seed) for seed in range(60)]
    slow = torch.cat([counted_slowly(batch) for batch in batches])
    by_field = slow.reshape(len(slow), len(ID_FIELDS), -1)
    assert all(len(column.unique()) > 2 for column in slow[:, :4].T)  # several counts, not only whether
    for wider in range(3):
        narrower = by_field[..., 1 + (wider - 1) % 3]
        assert (narrower < by_field[..., 0 if wider == 0 else 1 + wider]).flatten(0).any()
    for field in by_field.unbind(1):
        assert field[:, 4].unique().tolist() == [0, 1]
    assert any(batch.num_events == 0 for batch in batches)
    assert any(batch.num_targets == 0 for batch in batches)
    assert any(batch.max_targets == 1 < batch.num_targets for batch in batches)


def test_numbers_stay_small_at_any_count_and_age() -> None:
    far = torch.tensor([2**17, 2**24, 2**40 // 1_000])
    assert float(log2p1(far[0]) / 4) < 5
    assert float(log2p1(far[2]) / 8 - 2) < 2
    assert log2p1(torch.tensor([-3, 0, 1])).tolist() == [0, 0, 1]


def test_requests_share_counts_as_one_row_per_target_has_them(counting: Config, batch: RequestBatch) -> None:
    ranker, single = build(counting), one_row_per_target(batch)
    assert torch.equal(found_numbers(ranker, batch), found_numbers(ranker, single))
    outcomes = []
    for variant in (batch, single):
        ranker.zero_grad()
        logits = ranker(variant)
        (logits * torch.arange(logits.numel()).view_as(logits)).sum().backward()
        assert ranker.embeddings.match_counts is not None
        outcomes.append((logits.detach(), ranker.embeddings.match_counts.up.weight.grad))
    assert outcomes[0][1].any()
    torch.testing.assert_close(*[variant[0] for variant in outcomes], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(*[outcome[1] for outcome in outcomes], rtol=1e-7, atol=1e-9)


def test_every_weight_learns_and_backends_agree(counting: Config, batch: RequestBatch) -> None:
    ranker = build(counting)
    logits = ranker(batch)
    ranker.loss(logits, batch.labels).backward()
    assert [name for name, p in ranker.named_parameters() if p.grad is None or not p.grad.any()] == []
    for backend in ("reference", "absorbed"):
        torch.testing.assert_close(ranker(batch, backend), logits, rtol=1e-9, atol=1e-11)


def test_only_the_window_is_counted(counting: Config, sample_rows: Callable[..., SampleRows]) -> None:
    rows = sample_rows(3)
    longest = np.array([int(np.argmax(rows.history_lengths))])
    ranker, batch = build(counting), rows.pack(longest, 8)
    target = batch.target["author_id"][0].item()
    start = int(rows.history_stop[longest[0]]) - 8

    def with_author_at(place: int) -> Tensor:
        history = dict(rows.history) | {"author_id": rows.history["author_id"].copy()}
        history["author_id"][:] = 1
        history["author_id"][place] = target
        return found_numbers(ranker, replace(rows, history=history).pack(longest, 8))[0]

    assert torch.equal(with_author_at(start - 1), with_author_at(start - 2))
    assert not torch.equal(with_author_at(start - 1), with_author_at(start))


def test_nothing_leaks_from_other_targets_labels_or_other_requests(counting: Config, batch: RequestBatch) -> None:
    ranker = build(counting)
    before = ranker(batch)
    target = {name: values.clone() for name, values in batch.target.items()}
    for name in ID_FIELDS:
        target[name][0] = target[name][1]
    changed = ranker(replace(batch, target=target))
    assert not torch.allclose(changed[0], before[0])
    torch.testing.assert_close(changed[1:], before[1:], rtol=0, atol=1e-12)
    assert torch.equal(ranker(replace(batch, labels=1 - batch.labels)), before)
    history = {name: values.clone() for name, values in batch.history.items()}
    last = int(batch.history_offsets[-2])
    for name in ID_FIELDS:
        history[name][last:] = target[name][0]
    others = slice(0, int(batch.target_offsets[-2]))
    torch.testing.assert_close(ranker(replace(batch, history=history))[others], before[others], rtol=0, atol=1e-12)


def test_repeating_the_matching_event_changes_the_count_alone(counting: Config, batch: RequestBatch) -> None:
    """A window of equal events gives attention the mean that one gives; the count does not."""
    same = {name: values[:1].expand(len(values)).clone() for name, values in batch.history.items()}
    target = dict(batch.target) | {name: batch.target[name].clone().fill_(int(same[name][0])) for name in ID_FIELDS}
    full = replace(
        batch,
        history=same,
        target=target,
        request_time_ms=torch.full_like(batch.request_time_ms, int(same["time_ms"][0]) + 1_000),
    )
    lengths = batch.history_offsets.diff().clamp(max=1)
    one = replace(
        full,
        history={name: values[: int(lengths.sum())] for name, values in same.items()},
        history_offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
    )
    for counts in (False, True):
        ranker = build(counting, match_counts=counts)
        with torch.no_grad():  # the events then differ in nothing
            ranker.embeddings.context[ranker.embeddings.context_starts[POSITION] :].zero_()
        assert torch.allclose(ranker(full), ranker(one), rtol=1e-9, atol=1e-11) != counts


def test_a_filled_batch_gives_the_loss_and_gradients_of_the_batch(
    counting: Config, sample_rows: Callable[..., SampleRows]
) -> None:
    ranker, rows = build(counting, dropout=0.0).train(), sample_rows(3)
    for n, window in ((3, 48), (30, 16), (1, 64)):
        batch = RowLookup(ranker.embeddings, CPU)(rows.pack(np.arange(3, 3 + n), window, TASKS))
        batch = replace(batch, labels=batch.labels.double())
        ranker.zero_grad()
        loss = ranker.loss(ranker(batch), batch.labels)
        loss.backward()
        filled = pad_to_bucket(batch, ranker.log_schema.match_fields, batch.num_targets)
        assert filled.batch.rows is not None
        assert filled.batch.rows.match_counts is not None
        assert len(filled.batch.rows.match_counts) == filled.shape.targets
        padded_loss, gradients = loss_and_gradients(ranker, list(ranker.dense_parameters()), filled)
        torch.testing.assert_close(padded_loss, loss.detach(), rtol=1e-6, atol=0)
        for p, gradient in zip(ranker.dense_parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, p.grad, rtol=1e-5, atol=1e-8)


def test_half_precision_gives_about_the_same(counting: Config, batch: RequestBatch) -> None:
    ranker = build(counting).float()
    with torch.autocast("cpu", torch.bfloat16):
        half = ranker(batch)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, ranker(batch), rtol=0.1, atol=0.1)


def test_a_saved_model_counts_when_loaded(counting: Config, batch: RequestBatch, tmp_path: Path) -> None:
    ranker = build(counting).float()
    save_model(tmp_path / "model", ranker, {})
    loaded, _ = load_model(tmp_path / "model")
    assert loaded.config == ranker.config
    assert loaded.config.match_counts
    assert torch.equal(loaded.eval()(batch), ranker(batch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("log_schema", [SHORT_VIDEO, IMPRESSIONS], ids=["engaged events", "impressions"])
def test_a_device_counts_alike_without_being_waited_for_and_in_a_graph(counting: Config, log_schema: LogSchema) -> None:
    module, device = MatchCounts(counting.model, log_schema).cuda(), torch.device("cuda")
    for seed in range(60):
        batch = random_batch(seed)
        if not batch.num_targets:
            continue
        on_device = batch.to(device)
        module.numbers(on_device)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            numbers = module.numbers(on_device)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(numbers.cpu(), counted_slowly(batch, log_schema), rtol=1e-5, atol=1e-5)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = module.numbers(on_device)
        graph.replay()
        assert torch.equal(recorded, numbers)
