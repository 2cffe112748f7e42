"""Every switch of the model takes away what it names and nothing else; left alone, the model is the one before it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from longreel.contracts.config import SWITCHES, Config, ModelConfig, parse_config
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.model.data.batch import RequestBatch
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker, ranking_loss

TURNED: dict[str, dict[str, Any]] = {
    name: {name: not each.default} for name, each in ModelConfig.__dataclass_fields__.items() if name in SWITCHES
}
TURNED["match_month"] |= {"match_counts": True}  # which it adds to
SHAPES = "26aa2d2a7e9a69ce"  # digest of the default model's parameter names and shapes, from before there were switches


def made(config: Config, moved: bool = True, **switch: Any) -> Ranker:
    """In float64, without dropout, and with every zero-initialised weight moved off zero."""
    torch.manual_seed(0)
    ranker = Ranker(replace(config.model, **switch), ("click", "like"), 2).double().eval()
    with torch.no_grad():
        for parameter in ranker.parameters() if moved else ():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ranker


def by_request(batch: RequestBatch, order: Tensor) -> RequestBatch:
    """The same batch with the events in another order."""
    return replace(batch, history={name: values[order] for name, values in batch.history.items()})


def reversed_events(batch: RequestBatch) -> Tensor:
    return torch.cat([torch.arange(a, b).flip(0) for a, b in pairwise(batch.history_offsets.tolist())])


def test_a_model_with_every_switch_at_its_default_is_the_one_from_before() -> None:
    assert set(TURNED) == set(SWITCHES)
    assert not set(ModelConfig().described()) & set(SWITCHES)
    assert ModelConfig(**ModelConfig().described()) == ModelConfig()
    shapes = {name: list(value.shape) for name, value in Ranker(ModelConfig(), ("click",), 2).state_dict().items()}
    assert digest_of(shapes) == SHAPES


@pytest.mark.parametrize("name", SWITCHES)
def test_a_turned_switch_names_another_model(name: str) -> None:
    turned = ModelConfig(**TURNED[name])
    assert turned.described() == ModelConfig().described() | TURNED[name]
    assert Config(model=turned).digest() != Config().digest()


@pytest.mark.parametrize("name", SWITCHES)
def test_a_turned_switch_learns_with_every_weight_and_alike_on_every_backend(
    config: Config, batch: RequestBatch, name: str
) -> None:
    ranker = made(config, **TURNED[name])
    logits = ranker(batch)
    loss = ranking_loss(logits, batch.labels)
    loss.backward()
    assert [name for name, p in ranker.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not torch.allclose(logits, made(config)(batch))
    for backend in ("segments", "absorbed"):
        torch.testing.assert_close(ranker(batch, backend), logits, rtol=1e-9, atol=1e-11)


def test_a_month_without_counts_is_refused() -> None:
    with pytest.raises(LongreelError, match="needs match_counts"):
        ModelConfig(match_month=True)


def test_without_time_delta_no_time_matters(config: Config, batch: RequestBatch) -> None:
    earlier = replace(batch, history=batch.history | {"time_ms": batch.history["time_ms"] - 86_400_000})
    later = replace(batch, request_time_ms=batch.request_time_ms + 3_600_000)
    for changed in (earlier, later):
        assert not torch.allclose(made(config)(batch), made(config)(changed))
        without = made(config, time_delta=False)
        assert torch.equal(without(batch), without(changed))
    ages = made(config).embeddings.context.shape[0] - made(config, time_delta=False).embeddings.context.shape[0]
    assert ages == 96  # rows that are gone, not rows that nobody reads


def test_without_position_the_order_of_events_does_not_matter(config: Config, batch: RequestBatch) -> None:
    backwards = by_request(batch, reversed_events(batch))
    with_it, without = made(config), made(config, position=False)
    assert not torch.allclose(with_it(batch), with_it(backwards))
    torch.testing.assert_close(without(batch), without(backwards), rtol=1e-9, atol=1e-11)


def test_without_query_fusion_no_layer_hears_of_another(config: Config, batch: RequestBatch) -> None:
    """What the first layer read changes nothing that the second one reads."""
    for fused in (True, False):
        ranker = made(config, query_fusion=fused)
        queries: list[Tensor] = []
        ranker.stca.layers[1].query.register_forward_hook(lambda _, given, __, into=queries: into.append(given[0]))
        ranker(batch)
        with torch.no_grad():
            ranker.stca.layers[0].out.weight.mul_(2)
        ranker(batch)
        assert torch.equal(*queries) != fused


@pytest.mark.parametrize("name", ["swiglu", "rankmixer"])
def test_what_stands_in_a_parts_place_has_as_many_weights(name: str) -> None:
    counts = [
        sum(p.numel() for p in Ranker(ModelConfig(**switch), ("click",), 2).dense_parameters())
        for switch in ({}, TURNED[name])
    ]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)
    assert counts[1] != counts[0] or name == "swiglu"


def test_rankmixers_stand_in_is_two_layers_on_the_vectors_side_by_side(config: Config) -> None:
    mlp = made(config, rankmixer=False).mixer
    z, user, target = torch.randn(3, 5, config.model.width, dtype=torch.float64)
    hidden = torch.stack([mlp[0].weight @ torch.cat(each) for each in zip(z, user, target, strict=True)]) + mlp[0].bias
    expected = (hidden * (1 + torch.erf(hidden / 2**0.5)) / 2) @ mlp[2].weight.T + mlp[2].bias
    torch.testing.assert_close(mlp(z, user, target), expected)


def test_a_sink_changes_no_other_initial_weight_and_empty_histories_still_read_nothing(
    config: Config, batch: RequestBatch
) -> None:
    plain, sunk = made(config, moved=False), made(config, moved=False, sink=True)
    states = plain.state_dict(), sunk.state_dict()
    assert set(states[1]) - set(states[0]) == {f"stca.layers.{i}.sink" for i in range(config.model.layers)}
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    empty = (batch.history_offsets.diff() == 0)[
        torch.repeat_interleave(torch.arange(batch.num_requests), batch.target_offsets.diff())
    ]
    for backend in ("padded", "absorbed"):
        with_sink = sunk(batch, backend)
        torch.testing.assert_close(with_sink[empty], plain(batch)[empty], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(with_sink[~empty], plain(batch)[~empty])


@pytest.mark.parametrize(
    ("switch", "counts"), [({}, False), ({"window_length": True}, True), ({"sink": True}, True)], ids=str
)
def test_how_many_events_there_are_is_known_with_its_switch_or_through_a_sink(
    config: Config, batch: RequestBatch, switch: dict[str, bool], counts: bool
) -> None:
    """A softmax over so many equal events reads what it reads of one."""
    ranker = made(config, position=False, identity=(), **switch)
    one = replace(
        batch,
        history={name: values[:1].expand(len(values)) for name, values in batch.history.items()},
        request_time_ms=torch.full_like(batch.request_time_ms, int(batch.history["time_ms"][0]) + 1_000),
    )
    seen = batch.history_offsets.diff() > 0
    lengths = torch.where(seen, 1, 0)
    single = replace(
        one,
        history={name: values[: int(lengths.sum())] for name, values in one.history.items()},
        history_offsets=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
    )
    assert torch.allclose(ranker(one), ranker(single), rtol=1e-9, atol=1e-11) != counts


@pytest.mark.parametrize("told", [False, True])
def test_a_cut_history_is_told_from_a_short_one_by_its_switch(
    config: Config, sample_rows: Callable[..., SampleRows], told: bool
) -> None:
    rows, ranker = sample_rows(3), made(config, history_length=told)
    cut = rows.pack(np.arange(rows.num_requests), 2)
    assert torch.equal(cut.history_total, torch.from_numpy(rows.history_lengths))
    assert (cut.history_total > cut.history_offsets.diff()).any()
    short = replace(cut, history_total=cut.history_offsets.diff())
    assert torch.equal(ranker(cut), ranker(short)) != told


def test_a_set_without_events_at_all_is_read_through_a_sink(
    config: Config, sample_rows: Callable[..., SampleRows]
) -> None:
    rows = sample_rows(3)
    nothing = rows.pack(np.arange(rows.num_requests), 0)
    torch.testing.assert_close(made(config, sink=True)(nothing, "absorbed"), made(config, sink=True)(nothing, "padded"))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(LongreelError, match="query_fusion = false leaves none"):
        parse_config("[model]\nquery_fusion = false\nquery_fusion_norm = false")
    with pytest.raises(LongreelError, match="swiglu expected true or false, got 'off'"):
        parse_config('[model]\nswiglu = "off"')
    assert parse_config("[model]\nsink = true").model.sink
