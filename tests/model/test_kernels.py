"""The fused kernels compute what float64 does, leave nothing unwritten, and give the same bits twice.

On a CUDA device they run in bf16. Where there is none, they run in Triton's interpreter in float32, over fewer shapes.
"""

import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.model.kernels import has_triton
from longreel.model.kernels.packing import Packing
from longreel.model.nn.attention import Requests, cross_attention
from longreel.model.nn.attention_backends import ComparedIds, IdMatch

ON_CUDA = torch.cuda.is_available()
INTERPRETED = not ON_CUDA and os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(not has_triton() or not (ON_CUDA or INTERPRETED), reason="Triton is not installed"),
    # NumPy says so of rows past a tensor's end, which are computed from whatever lies there and never stored.
    pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero) encountered:RuntimeWarning"),
]
DEVICE, DTYPE, TOLERANCE = ("cuda", torch.bfloat16, 0.02) if ON_CUDA else ("cpu", torch.float32, 1e-5)
LENGTHS = {  # targets and events of each request
    "jagged": ([3, 1, 4], [5, 0, 130]),
    "one of everything": ([1], [1]),
    "odd": ([17, 2], [129, 257]) if ON_CUDA else ([5, 2], [9, 257]),
    "many targets": ([70, 33], [40, 9]) if ON_CUDA else ([66, 2], [9, 5]),
}
EVENTS = (1, 130, 300) if ON_CUDA else (1, 130)
ENCODERS = [(32, False), (64, False), (48, True)] + ([(64, True)] if ON_CUDA else [])  # width; u and v are kept


def agree(ours: list[Tensor], exact: list[Tensor]) -> None:
    for one, reference in zip(ours, exact, strict=True):
        assert one.isfinite().all()
        scale = reference.norm().clamp(min=1)  # over a single event queries learn nothing
        assert (one.double() - reference).norm() <= TOLERANCE * scale


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


def encoded(x: Tensor, weights: list[Tensor], through: Callable[..., list[Tensor]]) -> list[Tensor]:
    """x^ of every layer, and the gradients of X and all weights."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in (x, *weights)]
    out = through(leaves[0], leaves[1:])
    sum((tensor * draw(*tensor.shape, seed=i).to(tensor.dtype)).sum() for i, tensor in enumerate(out)).backward()  # type: ignore
    return [*(tensor.detach() for tensor in out), *(leaf.grad for leaf in leaves)]  # type: ignore[list-item]


def plain_encoder(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    out = []
    for w, wo in zip(weights[: len(weights) // 2], weights[len(weights) // 2 :], strict=True):
        up, gate = (x @ w.T).chunk(2, dim=-1)
        out.append(F.layer_norm((up * F.silu(gate)) @ wo.T, wo.shape[:1]))
    return out


@pytest.mark.parametrize("chunk", [None, 128], ids=["at once", "in chunks"])
@pytest.mark.parametrize("events", EVENTS)
@pytest.mark.parametrize(("width", "keeps"), ENCODERS)
def test_encoder_equals_layer_norm_of_swiglu(
    monkeypatch: pytest.MonkeyPatch, events: int, width: int, keeps: bool, chunk: int | None
) -> None:
    from longreel.model.kernels import swiglu_layernorm

    if keeps:
        monkeypatch.setattr(swiglu_layernorm, "FUSED_WIDTH", 16)
    if chunk is not None:
        monkeypatch.setattr(swiglu_layernorm, "_chunk", lambda *_: chunk)
    x = draw(events, width)
    weights = [draw(4 * width, width, seed=i).float() / width**0.5 for i in (1, 2)]
    weights += [draw(width, 2 * width, seed=i).float() / width**0.5 for i in (3, 4)]
    exact = encoded(x.double(), [w.double() for w in weights], plain_encoder)

    def fused(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
        return list(swiglu_layernorm.EncodeHistory.apply(x, False, *weights)[:2])

    ours = encoded(x, weights, fused)
    agree(ours, exact)
    assert all(torch.equal(a, b) for a, b in zip(ours, encoded(x, weights, fused), strict=True))
    layers = [swiglu_layernorm.encode_layer(x, weights[i], weights[2 + i]) for i in (0, 1)]
    agree(layers, exact[:2])


@pytest.mark.parametrize("events", EVENTS)
@pytest.mark.parametrize(("width", "hidden"), [(16, 16), (32, 64), (64, 128)])
def test_a_layer_in_one_kernel_gives_events_or_keys_and_values(events: int, width: int, hidden: int) -> None:
    from longreel.model.kernels import swiglu_layernorm

    x = draw(events, width)
    w = draw(2 * 2 * hidden, width, seed=1) / width**0.5  # two layers
    wo = draw(2 * width, hidden, seed=2) / hidden**0.5
    w_kv, bias = draw(2 * width, width, seed=3) / width**0.5, draw(2 * width, seed=4)
    out, rstd = x.new_full((2, events + 5, width), 7.0), torch.full((2, events + 5), 7.0, device=DEVICE)
    pairs = swiglu_layernorm.interleaved(w, hidden)
    swiglu_layernorm.encode_rows(x, pairs, wo, out, rstd, 5)
    for layer in (0, 1):
        up, gate = w.double().chunk(2)[layer].chunk(2)
        y = (x.double() @ up.T * F.silu(x.double() @ gate.T)) @ wo.double().chunk(2)[layer].T
        exact = F.layer_norm(y, (width,))
        agree([out[layer, 5:], rstd[layer, 5:]], [exact, 1 / (y.var(-1, correction=0) + swiglu_layernorm.EPS).sqrt()])
    assert (out[:, :5] == 7).all()
    assert (rstd[:, :5] == 7).all()
    exact = F.linear(out[0, 5:].double(), w_kv.double(), bias.double())
    agree([swiglu_layernorm.encode_keys_values(x, pairs[: 2 * hidden], wo[:width], w_kv, bias)], [exact])


@pytest.mark.parametrize("matched", [False, True], ids=["", "matched"])
@pytest.mark.parametrize(("form", "width"), [("kv", 16), ("shared", 16), ("shared", 32), ("wide", 64)])
@pytest.mark.parametrize("counts", LENGTHS.values(), ids=LENGTHS)
def test_attention_kernels_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[list[int], list[int]], form: str, width: int, matched: bool
) -> None:
    from longreel.model.kernels import target_attention, wide_target_attention
    from longreel.model.kernels.id_match_bits import MatchBits, match_bits

    for module in (target_attention, wide_target_attention):  # so that these short histories are split too
        monkeypatch.setattr(module, "split_size", lambda *_: 128)
    monkeypatch.setattr(wide_target_attention, "SLICE", 32)
    heads, (targets, events) = 4, counts
    q = draw(sum(targets), heads, width)
    kv = draw(sum(events), *((2, heads) if form == "kv" else (1, 1)), width, seed=1)
    at = [torch.tensor([0, *n]).cumsum(0).to(DEVICE) for n in counts]
    ids = [torch.randint(0, 4, (n, 2), generator=torch.Generator().manual_seed(2)).to(DEVICE) for n in map(sum, counts)]
    head_channel = torch.tensor([0, 1, 0, 1], dtype=torch.int32, device=DEVICE)
    scale = torch.tensor([0.5, 1.0, 2.0, 3.0], device=DEVICE)

    def gradients(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, kv)]
        if matched:
            leaves.append(scale.to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_())
        if fused:
            packing = Packing(at[0], at[1], max(targets), max(events))
            match = MatchBits(match_bits(*ids, packing), head_channel) if matched else None
            weight = leaves[2] if matched else None
            if form == "wide":
                out, match_weight = wide_target_attention.WideTargetAttention.apply(
                    leaves[0], leaves[1].flatten(1), weight, match, packing, 0.2
                )
            else:
                out, match_weight = target_attention.TargetAttention.apply(
                    leaves[0], leaves[1], weight, None, match, packing, 0.2
                )
        else:
            same = IdMatch(ComparedIds(*ids), head_channel, leaves[2]) if matched else None
            out, match_weight = cross_attention(
                *leaves[:2], Requests(*at), same, backend="reference", softmax_scale=0.2
            )
        loss = (out * draw(*out.shape, seed=3).to(out.dtype)).sum()
        if matched:
            loss = loss + (match_weight * draw(*match_weight.shape, seed=4).to(match_weight.dtype)).sum()
        loss.backward()
        return [out.detach(), *([match_weight.detach()] if matched else []), *(leaf.grad for leaf in leaves)]  # type: ignore

    exact, ours = gradients(torch.float64, False), gradients(DTYPE, True)
    agree(ours, exact)
    assert all(torch.equal(a, b) for a, b in zip(ours, gradients(DTYPE, True), strict=True))
    unseen = torch.tensor([n == 0 for m, n in zip(targets, events, strict=True) for _ in range(m)])
    assert (ours[0].cpu()[unseen] == 0).all()


def test_gradient_through_the_norm_is_that_of_its_input() -> None:
    from longreel.model.kernels.target_attention import TargetAttention

    y = draw(70, 32).double()
    spread = (y.var(-1, unbiased=False) + 1e-5).rsqrt()
    x = ((y - y.mean(-1, keepdim=True)) * spread[:, None]).to(DTYPE)
    q, at = draw(5, 4, 32, seed=1), [torch.tensor([0, n], device=DEVICE) for n in (5, 70)]
    leaf = y.clone().requires_grad_()
    normed = F.layer_norm(leaf, (32,))[:, None, None]
    exact, _ = cross_attention(q.double(), normed, Requests(*at), backend="reference", softmax_scale=0.2)
    weight = draw(5, 4, 32, seed=2)
    (exact * weight.double()).sum().backward()
    kv = x[:, None, None].clone().requires_grad_()
    out, _ = TargetAttention.apply(q, kv, None, spread.float(), None, Packing(at[0], at[1], 5, 70), 0.2)
    (out * weight).sum().backward()
    agree([kv.grad[:, 0, 0]], [leaf.grad])  # type: ignore[index, list-item]
