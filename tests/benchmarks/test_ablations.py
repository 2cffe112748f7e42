"""An ablation takes away what it names and nothing else; other training windows have their shape and part."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.extrapolation.ablations import PARTS, PARTS_OF_THE_MODEL, SHAPES, ranker_without, windows_of
from longreel.contracts.config import Config, ModelConfig, TrainingConfig
from longreel.contracts.log_schema import LogSchema
from longreel.model.data.batch import RequestBatch
from longreel.model.data.encodings import Encodings
from longreel.model.data.windows import distribution
from longreel.model.nn.ranker import Ranker

CONFIG = TrainingConfig(window_min=64, window_mean=2_048, window_max=10_240, window_alpha=0.2)


def test_other_shapes_keep_the_mean_or_are_one_window() -> None:
    index = np.arange(100_000)
    drawn = {shape: windows_of(shape)(CONFIG).sample(0, index) for shape in SHAPES}
    assert set(drawn["fixed"]) == {2_048}
    assert set(drawn["full"]) == {10_240}
    assert (drawn["uniform"].min(), drawn["uniform"].max()) == (64, 4_032)
    assert abs(drawn["uniform"].mean() - 2_048) < 16  # four standard errors
    counts = np.bincount(drawn["uniform"] // 1_000)
    assert counts[1:4].min() > 0.9 * counts[1:4].max()


def test_drawn_windows_have_the_configured_mean_and_shares() -> None:
    for shape in SHAPES:
        sampler = windows_of(shape)(CONFIG)
        windows = distribution(sampler, sampler.sample(0, np.arange(200_000)))
        assert windows["drawn_mean"] == pytest.approx(windows["configured_mean"], rel=0.02)
        assert sum(windows["configured_share"]) == pytest.approx(1)
        assert np.abs(np.subtract(windows["configured_share"], windows["drawn_share"])).max() < 0.01


@pytest.mark.parametrize("growth", [3.0, 1 / 3])
def test_windows_that_grow_keep_the_mean_and_a_requests_place_among_them(growth: float) -> None:
    index = np.arange(200_000)
    for shape in ("uniform", "fixed"):
        sampler = windows_of(shape)(replace(CONFIG, window_curriculum=growth))
        first, second = (sampler.sample(0, index, phase) for phase in (0, 1))
        assert second.mean() == pytest.approx(growth * first.mean(), rel=0.03)
        assert (first.mean() + second.mean()) / 2 == pytest.approx(2_048, rel=0.02)
        assert ((first <= second) if growth > 1 else (first >= second)).all()  # the same quantile of both
        windows = distribution(sampler, np.concatenate([first, second]))
        assert windows["configured_mean"] == pytest.approx(2_048, rel=0.003)
        assert np.abs(np.subtract(windows["configured_share"], windows["drawn_share"])).max() < 0.01


def test_a_part_lies_within_the_history_and_is_recomputed_alike() -> None:
    index, visible = np.arange(5_000), np.arange(5_000) % 700
    windows = np.full(5_000, 256)
    skips = {part: windows_of(part=part)(CONFIG).skip(1, index, visible, windows) for part in PARTS}
    assert (skips["newest"] == 0).all()
    assert (skips["oldest"] == np.maximum(visible - 256, 0)).all()
    drawn, spare = skips["random"], np.maximum(visible - 256, 0)
    assert ((drawn >= 0) & (drawn <= spare)).all()
    assert drawn.sum() == pytest.approx(spare.sum() / 2, rel=0.05)
    again = windows_of(part="random")(CONFIG).skip(1, index[99:], visible[99:], windows[99:])
    assert (again == drawn[99:]).all()


def build(config: Config, part: str = "") -> Ranker:
    """In float64, without dropout, and with every zero-initialised weight moved off zero; `part` taken away."""
    torch.manual_seed(0)
    sizes = config.model, ("click", "like"), config.log_schema, Encodings()
    ranker = (ranker_without(part, *sizes) if part else Ranker(*sizes)).double().eval()
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ranker


@pytest.mark.parametrize("part", PARTS_OF_THE_MODEL)
def test_a_model_without_a_part_learns_with_every_weight_and_alike_on_every_backend(
    config: Config, batch: RequestBatch, part: str
) -> None:
    ranker = build(config, part)
    logits = ranker(batch)
    ranker.loss(logits, batch.labels).backward()
    assert [name for name, p in ranker.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not torch.allclose(logits, build(config)(batch))
    for backend in ("reference", "absorbed"):
        torch.testing.assert_close(ranker(batch, backend), logits, rtol=1e-9, atol=1e-11)


def test_without_time_delta_no_time_matters(config: Config, batch: RequestBatch) -> None:
    earlier = replace(batch, history=batch.history | {"time_ms": batch.history["time_ms"] - 86_400_000})
    later = replace(batch, request_time_ms=batch.request_time_ms + 3_600_000)
    full, without = build(config), build(config, "time delta")
    for changed in (earlier, later):
        assert not torch.allclose(full(batch), full(changed))
        assert torch.equal(without(batch), without(changed))


def test_without_position_the_order_of_events_does_not_matter(config: Config, batch: RequestBatch) -> None:
    order = torch.cat([torch.arange(a, b).flip(0) for a, b in pairwise(batch.history_offsets.tolist())])
    backwards = replace(batch, history={name: values[order] for name, values in batch.history.items()})
    full, without = build(config), build(config, "position")
    assert not torch.allclose(full(batch), full(backwards))
    torch.testing.assert_close(without(batch), without(backwards), rtol=1e-9, atol=1e-11)


def test_without_query_fusion_no_layer_hears_of_another(config: Config, batch: RequestBatch) -> None:
    """What the first layer read changes nothing that the second one reads."""
    for part in ("", "query fusion"):
        ranker, queries = build(config, part), list[Tensor]()
        ranker.stca.layers[1].query.register_forward_hook(lambda _, inputs, __, into=queries: into.append(inputs[0]))
        ranker(batch)
        with torch.no_grad():
            ranker.stca.layers[0].out.weight.mul_(2)
        ranker(batch)
        assert torch.equal(*queries) == (part != "")


def test_without_its_norm_a_fused_query_is_the_network_alone(config: Config) -> None:
    (fusion,) = build(config, "norm on fusion").stca.fusions
    x = torch.randn(5, 2 * config.model.width, dtype=torch.float64)
    torch.testing.assert_close(fusion(x), fusion[1](fusion[0](x)))


@pytest.mark.parametrize("part", ["SwiGLU", "RankMixer"])
def test_what_replaces_a_part_has_as_many_weights(part: str) -> None:
    arguments = ModelConfig(), ("click",), LogSchema(), Encodings()
    full, without = (
        sum(p.numel() for p in ranker.dense_parameters())
        for ranker in (Ranker(*arguments), ranker_without(part, *arguments))
    )
    assert without == pytest.approx(full, rel=0.02)
    assert without != full or part == "SwiGLU"


def test_gelu_networks_stand_wherever_swiglu_did(config: Config) -> None:
    names = {type(module).__name__ for module in build(config, "SwiGLU").modules()}
    assert "SwiGLU" not in names
    network = build(config, "SwiGLU").stca.layers[0].encode
    x = torch.randn(5, config.model.width, dtype=torch.float64)
    hidden = x @ network[0].weight.T
    torch.testing.assert_close(network(x), (hidden * (1 + torch.erf(hidden / 2**0.5)) / 2) @ network[2].weight.T)


def test_rankmixers_replacement_is_two_layers_on_the_vectors_side_by_side(config: Config) -> None:
    mlp = build(config, "RankMixer").mixer
    z, user, target = torch.randn(3, 5, config.model.width, dtype=torch.float64)
    vectors = zip(z, user, target, strict=True)
    hidden = torch.stack([mlp[0].weight @ torch.cat(three) for three in vectors]) + mlp[0].bias
    expected = (hidden * (1 + torch.erf(hidden / 2**0.5)) / 2) @ mlp[2].weight.T + mlp[2].bias
    torch.testing.assert_close(mlp(z, user, target), expected)
