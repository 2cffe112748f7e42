"""Comparators compute what they are named for: each against a naive formula, causal, and alike packed or alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.extrapolation import groups
from benchmarks.extrapolation.comparators import (
    COMPARATORS,
    DIN,
    HSTU,
    CausalStack,
    ComparatorRanker,
    HSTULayer,
    MeanPooling,
    SASRec,
)
from benchmarks.extrapolation.groups import Packed
from longreel.contracts.config import ModelConfig
from longreel.model.data.encodings import Encodings
from longreel.model.nn.ranker import Ranker
from tests.short_video import SHORT_VIDEO

CONFIG = ModelConfig(width=16, heads=4, layers=2, dropout=0.0)
LENGTHS, TARGETS = [5, 0, 9, 1], [2, 3, 1, 4]


def offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)])


def inputs(match: bool = True) -> tuple[Tensor, Tensor, Packed]:
    generator = torch.Generator().manual_seed(3)
    target, history = (torch.randn(sum(n), 16, generator=generator) for n in (TARGETS, LENGTHS))
    ids = (torch.randint(0, 4, (sum(TARGETS), 2)), torch.randint(0, 4, (sum(LENGTHS), 2))) if match else None
    return target, history, Packed(offsets(TARGETS), offsets(LENGTHS), ids)


def read(module: torch.nn.Module, target: Tensor, history: Tensor, packed: Packed) -> Tensor:
    return module(target, history, torch.from_numpy(packed.targets), torch.from_numpy(packed.events), packed)


def requests(packed: Packed) -> list[tuple[slice, slice]]:
    """Targets and events of each request."""
    cut = zip(pairwise(packed.targets.tolist()), pairwise(packed.events.tolist()), strict=True)
    return [(slice(*targets), slice(*events)) for targets, events in cut]


@pytest.fixture(params=[0, 256], ids=["by length", "together"])
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Requests are grouped by length, or all padded to one."""
    monkeypatch.setattr("benchmarks.extrapolation.groups.SHORT", request.param)
    return request.param


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", COMPARATORS)
@pytest.mark.parametrize("match", [False, True])
def test_a_request_reads_its_own_history_alone(name: str, match: bool) -> None:
    """Packed with others or by itself, values and gradients are the same."""
    torch.manual_seed(0)
    module = COMPARATORS[name](CONFIG, 2 * match)
    target, history, packed = inputs(match)
    together = read(module, target, history, packed)
    assert together.shape == target.shape
    together.square().sum().backward()
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    alone = []
    for (t, h), m, n in zip(requests(packed), TARGETS, LENGTHS, strict=True):
        ids = None if packed.ids is None else (packed.ids[0][t], packed.ids[1][h])
        alone.append(read(module, target[t], history[h], Packed(offsets([m]), offsets([n]), ids)))
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)
    torch.cat(alone).square().sum().backward()
    again = [p.grad for p in module.parameters() if p.grad is not None]
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stack", [SASRec, HSTU])
def test_a_later_event_changes_nothing_before_it(stack: type[CausalStack]) -> None:
    torch.manual_seed(0)
    module = stack(CONFIG, 2)
    target, history, packed = inputs()
    _, before, _ = module.states(target, history, packed)
    changed = history.clone()
    changed[3] = -changed[3].flip(0)  # the fourth event of the first request, of five
    _, after, _ = module.states(target, changed, packed)
    moved = (before - after).abs().sum(dim=1) > 1e-6
    assert moved.tolist() == [False] * 3 + [True] * 2 + [False] * 10


@pytest.mark.parametrize("name", ["din", "sasrec", "hstu"])
def test_equal_ids_of_every_configured_field_change_the_output(name: str) -> None:
    torch.manual_seed(0)
    module = COMPARATORS[name](CONFIG, 3)
    target, history, packed = inputs()
    assert packed.ids is not None
    outs = []
    for tag in (5, 6):  # of all events; targets have 5
        target_ids, history_ids = (torch.cat([ids, torch.full((len(ids), 1), 5)], dim=1) for ids in packed.ids)
        history_ids[:, 2] = tag
        outs.append(
            read(module, target, history, Packed(offsets(TARGETS), offsets(LENGTHS), (target_ids, history_ids)))
        )
    reads = torch.tensor(LENGTHS).repeat_interleave(torch.tensor(TARGETS)) > 0
    assert ((outs[0] - outs[1]).abs().sum(dim=1) > 1e-6).tolist() == reads.tolist()


def test_mean_pooling_is_numpys_mean() -> None:
    _, history, packed = inputs()
    pooled = MeanPooling(CONFIG, 2).pool(history, offsets(LENGTHS)).numpy()
    for (_, h), row in zip(requests(packed), pooled, strict=True):
        expected = history[h].numpy().mean(axis=0) if h.stop > h.start else np.zeros(16)
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_din_is_an_mlp_on_each_pair() -> None:
    torch.manual_seed(0)
    din = DIN(CONFIG, 2)
    target, history, packed = inputs()
    assert din.match_part is not None
    weight = torch.cat(
        [
            *din.target_part.weight.chunk(2, dim=1),
            *din.event_part.weight.chunk(2, dim=1),
            din.product_part.weight,
            din.match_part.weight,
        ],
        dim=1,
    )
    got = read(din, target, history, packed)
    for t, h in requests(packed):
        for m in range(t.start, t.stop):
            pooled, match_weights = torch.zeros(16), torch.zeros(2)
            for e in range(h.start, h.stop):
                x, y = target[m], history[e]
                equal = (packed.ids[0][m] == packed.ids[1][e]).float()  # type: ignore[index]
                inside = weight @ torch.cat([x, x, y, -y, x * y, equal]) + din.target_part.bias
                a = din.score(F.silu(inside))[0]
                pooled, match_weights = pooled + a * y / (h.stop - h.start), match_weights + a * equal
            match_weight = torch.sign(match_weights) * torch.log(1 + match_weights.abs())
            torch.testing.assert_close(
                din.mlp(torch.cat([pooled, match_weight, target[m]])), got[m], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("match", [False, True])
def test_hstu_is_its_formula(match: bool) -> None:
    """Events and targets of one layer, in float64, head by head and event by event."""
    torch.manual_seed(0)
    layer = HSTULayer(CONFIG, 2 * match).double()
    target, history, packed = inputs(match)
    target, history = target.double(), history.double()
    read_t, read_h, match_weights = layer(target, history, packed)

    def projected(x: Tensor) -> list[Tensor]:
        return list(F.silu(layer.uqkv(layer.norm(x))).view(4, 4, 4))  # u, q, k, v of every head

    for t, h in requests(packed):
        events, n = [projected(x) for x in history[h]], h.stop - h.start
        for i, (u, q, _, _) in enumerate(events):
            own = sum(F.silu((q * k).sum(1) / 2)[:, None] * v for _, _, k, v in events[: i + 1])
            out = layer.out(layer.read_norm(own.flatten() / (i + 1)) * u.flatten())  # type: ignore[union-attr]
            torch.testing.assert_close(read_h[h][i], history[h][i] + out)
        for m in range(t.start, t.stop):
            u, q, _, _ = projected(target[m])
            own, match_weight = torch.zeros(4, 4).double(), torch.zeros(4).double()
            for j, (_, _, k, v) in enumerate(events):
                score = (q * k).sum(1) / 2
                if match:
                    assert packed.ids is not None
                    equal = (packed.ids[0][m] == packed.ids[1][h][j])[layer.head_channel]
                    score = score + layer.scale * equal
                    match_weight = match_weight + F.silu(score) * equal
                own = own + F.silu(score)[:, None] * v / n
            out = layer.out(layer.read_norm(own.flatten()) * u.flatten())
            torch.testing.assert_close(read_t[m], target[m] + out, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(
                match_weights[m], match_weight.sign() * match_weight.abs().log1p(), atol=1e-6, rtol=1e-6
            )


def test_equal_ids_raise_a_targets_score_and_unknown_ones_do_not() -> None:
    packed = Packed(offsets([2]), offsets([2]), (torch.tensor([[7, -1], [8, 5]]), torch.tensor([[7, -1], [9, 5]])))
    equal = packed.groups[0].equal
    assert equal is not None
    assert equal[:, 0].tolist() == [[[True, False], [False, False]], [[False, False], [False, True]]]


@pytest.mark.usefixtures("short")
def test_groups_hold_every_row_once_and_nothing_twice_as_long() -> None:
    lengths = [5, 0, 9, 1, 4, 1_000, 400, 600]
    packed = Packed(offsets([1] * len(lengths)), offsets(lengths), None)
    rows = torch.arange(sum(lengths))
    assert packed.joined([rows[group.events] for group in packed.groups], of_targets=False).equal(rows)
    assert sum(int(group.there.sum()) for group in packed.groups) == len(rows)
    for group in packed.groups:
        longest = group.there.shape[1]
        assert longest <= groups.SHORT or 2 * int(group.lengths.min()) > longest
        assert group.there.sum(1).clamp(min=1).equal(group.lengths)


def test_a_comparator_differs_from_the_ranker_in_the_reader_of_histories_only() -> None:
    for name in COMPARATORS:
        theirs = ComparatorRanker(name, CONFIG, ("click",), SHORT_VIDEO, Encodings())
        ours = Ranker(CONFIG, ("click",), SHORT_VIDEO, Encodings())
        shapes = [
            {n: p.shape for n, p in ranker.named_parameters() if not n.startswith("stca")} for ranker in (theirs, ours)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", COMPARATORS)
def test_half_precision_trains_and_stays_near(name: str) -> None:
    """As under CUDA's autocast: every type fits, gradients are finite, values are near those of float32."""
    torch.manual_seed(0)
    module = COMPARATORS[name](CONFIG, 2)
    target, history, packed = inputs()
    full = read(module, target, history, packed)
    with torch.autocast("cpu", torch.bfloat16):
        half = read(module, target.bfloat16(), history.bfloat16(), packed)
    half.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    torch.testing.assert_close(half.float(), full, atol=0.1, rtol=0.1)
