"""STCA is what docs/method.md says: an independent float64 re-implementation, one target and one event at a time."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from longreel.contracts.config import Config, ModelConfig
from longreel.contracts.schemas import UNKNOWN
from longreel.model.nn.id_match import INITIAL_SCALES, IdentityMatch, compared_ids
from longreel.model.nn.stca import STCA

TARGETS, EVENTS = [2, 1, 3], [5, 0, 3]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (x - x.mean()) / (((x - x.mean()) ** 2).mean() + 1e-5) ** 0.5 * weight + bias


def swiglu(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """SwiGLU; or where the state has the weights of its stand-in, GELU between two matrices."""
    if f"{name}.0.weight" in state:
        hidden = state[f"{name}.0.weight"] @ x
        return state[f"{name}.2.weight"] @ (hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)
    w = state[f"{name}.up_gate.weight"]
    u, v = w[: len(w) // 2] @ x, w[len(w) // 2 :] @ x
    return state[f"{name}.out.weight"] @ (u * v / (1 + torch.exp(-v)))


def reference(state: dict[str, Tensor], sizes: ModelConfig, x_t: Tensor, x: Tensor, ids: tuple | None) -> Tensor:
    """z of one target x_t [d] over its history x [L, d]; ids ([2], [L, 2]) or None."""
    d, layers, heads = len(x_t), sizes.layers, sizes.heads
    head = d // heads
    q = layer_norm(swiglu(x_t, state, "first_query"), state["first_norm.weight"], state["first_norm.bias"])
    outputs: list[Tensor] = []
    for i in range(layers):
        name = f"layers.{i}"
        encoded = [
            layer_norm(
                swiglu(event, state, f"{name}.encode"),
                state[f"{name}.encode_norm.weight"],
                state[f"{name}.encode_norm.bias"],
            )
            for event in x
        ]
        wq, wkv = state[f"{name}.query.weight"], state[f"{name}.key_value.weight"]
        parts, matches = [], []
        for j in range(heads):
            part = slice(j * head, (j + 1) * head)
            keys = encoded
            if sizes.sink:  # keys are made without the norm's bias, which else falls out of the softmax
                keys = [event - state[f"{name}.encode_norm.bias"] for event in encoded]
            scores = [(wq @ q)[part] @ (wkv[:d] @ key)[part] / head**0.5 for key in keys]
            if ids is not None:
                kind = 0 if j < (heads + 1) // 2 else 1
                equal = [float(ids[0][kind] == ids[1][e, kind]) for e in range(len(x))]
                scores = [s + state["identity.scale"][i, j] * e for s, e in zip(scores, equal, strict=True)]
            nothing = torch.exp(state[f"{name}.sink"][j]) if sizes.sink else torch.zeros((), dtype=x.dtype)
            total = sum((torch.exp(s) for s in scores), nothing)
            read = torch.zeros(head, dtype=x.dtype)
            for s, event in zip(scores, encoded, strict=True):
                read = read + torch.exp(s) / total * (wkv[d:] @ event)[part]
            parts.append(read)
            if ids is not None:
                shares = [torch.exp(s) / total * e for s, e in zip(scores, equal, strict=True)]
                matches.append(sum(shares, torch.zeros((), dtype=x.dtype)))
        flat = torch.cat([*parts, torch.stack(matches)]) if ids is not None else torch.cat(parts)
        outputs.append(state[f"{name}.out.weight"] @ flat)
        if i + 1 < layers:
            asked_from = torch.cat([*outputs, x_t]) if sizes.query_fusion else x_t
            q = swiglu(state[f"fusions.{i}.0.weight"] @ asked_from, state, f"fusions.{i}.1")
            if sizes.query_fusion_norm:
                q = layer_norm(q, state[f"fusions.{i}.2.weight"], state[f"fusions.{i}.2.bias"])
    return swiglu(state["collect.weight"] @ torch.cat([*outputs, x_t]), state, "collect_glu")


def assert_equals_the_equations(sizes: ModelConfig, backend: str) -> None:
    identity = sizes.identity
    stca = STCA(sizes).double()
    with torch.no_grad():
        for parameter in stca.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in stca.state_dict().items()}
    target = torch.randn(sum(TARGETS), sizes.width, dtype=torch.float64)
    history = torch.randn(sum(EVENTS), sizes.width, dtype=torch.float64, requires_grad=True)
    history_again = history.detach().clone().requires_grad_()
    ids = None
    if identity:
        drawn = torch.randint(0, 4, (sum(TARGETS) + sum(EVENTS), 2))
        ids = (drawn[: sum(TARGETS)], drawn[sum(TARGETS) :])
    to, ho = (torch.tensor([0, *counts]).cumsum(0) for counts in (TARGETS, EVENTS))

    z = stca(target, history, to, ho, ids, backend=backend)
    expected = []
    for b, m in enumerate(TARGETS):
        for t in range(int(to[b]), int(to[b]) + m):
            seen = slice(int(ho[b]), int(ho[b + 1]))
            pair = (ids[0][t], ids[1][seen]) if ids else None
            expected.append(reference(state, sizes, target[t], history_again[seen], pair))
    z_expected = torch.stack(expected)
    torch.testing.assert_close(z, z_expected, rtol=1e-10, atol=1e-12)

    weight = torch.randn_like(z)
    (z * weight).sum().backward()
    (z_expected * weight).sum().backward()
    torch.testing.assert_close(history.grad, history_again.grad, rtol=1e-8, atol=1e-10)
    for name, parameter in stca.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "absorbed"])
@pytest.mark.parametrize("identity", [(), ("item_id", "author_id")], ids=["", "matched"])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_stca_equals_the_equations_in_values_and_gradients(
    config: Config, layers: int, norm: bool, identity: tuple[str, ...], backend: str
) -> None:
    sizes = replace(config.model, layers=layers, query_fusion_norm=norm, identity=identity)
    assert_equals_the_equations(sizes, backend)


@pytest.mark.parametrize("backend", ["segments", "padded", "absorbed"])
@pytest.mark.parametrize(
    "switch",
    [{"swiglu": False}, {"query_fusion": False}, {"sink": True}, {"sink": True, "identity": ()}],
    ids=["no SwiGLU", "no query fusion", "sink", "sink, unmatched"],
)
def test_every_switch_equals_its_equations(config: Config, switch: dict[str, Any], backend: str) -> None:
    assert_equals_the_equations(replace(config.model, layers=3, **switch), backend)


@pytest.mark.parametrize("backend", ["padded", "absorbed"])
def test_a_sink_that_takes_everything_leaves_nothing_and_one_out_of_reach_changes_nothing(
    config: Config, backend: str
) -> None:
    plain, sunk = STCA(config.model).double(), STCA(replace(config.model, sink=True)).double()
    sunk.load_state_dict(plain.state_dict(), strict=False)
    target, history = (torch.randn(sum(n), 16, dtype=torch.float64) for n in (TARGETS, EVENTS))
    ids = tuple(torch.randint(0, 4, (sum(n), 2)) for n in (TARGETS, EVENTS))
    at = [torch.tensor([0, *counts]).cumsum(0) for counts in (TARGETS, EVENTS)]
    unread = plain(target, history[:0], at[0], torch.zeros_like(at[1]), (ids[0], ids[1][:0]))
    for score, expected in ((-40.0, plain(target, history, *at, ids)), (40.0, unread)):
        for layer in sunk.layers:
            nn.init.constant_(layer.sink, score)
        torch.testing.assert_close(sunk(target, history, *at, ids, backend=backend), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(plain(target, history, *at, ids), unread)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the packed backend needs CUDA")
@pytest.mark.parametrize("width", [64, 512])
def test_a_sink_in_the_fused_kernels_equals_float64_to_bf16_rounding(config: Config, width: int) -> None:
    sizes = replace(config.model, width=width, heads=4, sink=True)
    target, history = (torch.randn(sum(n), width, device="cuda") for n in (TARGETS, EVENTS))
    ids = tuple(torch.randint(0, 4, (sum(n), 2), device="cuda") for n in (TARGETS, EVENTS))
    at = [torch.tensor([0, *counts], device="cuda").cumsum(0) for counts in (TARGETS, EVENTS)]
    exact = STCA(sizes).double().cuda()
    with torch.no_grad():
        for layer in exact.layers:
            layer.sink.normal_()
    fused = STCA(sizes).cuda()
    fused.load_state_dict(exact.state_dict())
    z = exact(target.double(), history.double(), *at, ids, backend="segments")
    with torch.autocast("cuda", torch.bfloat16):
        ours = fused(target, history, *at, ids, backend="packed")
    weight = torch.randn_like(z)
    (z * weight).sum().backward()
    (ours * weight).sum().backward()
    assert (ours - z).norm() <= 0.02 * z.norm()
    for (name, p), q in zip(exact.named_parameters(), fused.parameters(), strict=True):
        assert (q.grad - p.grad).norm() <= 0.05 * p.grad.norm(), name


def test_unknown_ids_match_nothing_and_heads_are_split_among_the_fields(config: Config) -> None:
    target = {"item_id": torch.tensor([5, UNKNOWN]), "tag": torch.tensor([UNKNOWN, 7], dtype=torch.int32)}
    history = {"item_id": torch.tensor([5, UNKNOWN, 6]), "tag": torch.tensor([7, UNKNOWN, 7], dtype=torch.int32)}
    wanted, found = compared_ids(target, history, ("item_id", "tag"))
    equal = wanted[:, None] == found
    assert equal[..., 0].tolist() == [[True, False, False], [False, False, False]]
    assert equal[..., 1].tolist() == [[False, False, False], [True, False, True]]
    made = IdentityMatch(replace(config.model, width=40, heads=5, identity=("item_id", "tag")))
    assert made.which.tolist() == [0, 0, 0, 1, 1]
    sharp, gentle = INITIAL_SCALES
    assert made.scale[0].tolist() == [sharp, gentle, sharp, sharp, gentle]


def test_folded_weights_follow_their_parameters(config: Config) -> None:
    stca = STCA(replace(config.model, identity=())).double()
    target, history = torch.randn(3, 16, dtype=torch.float64), torch.randn(7, 16, dtype=torch.float64)
    at = torch.tensor([0, 3]), torch.tensor([0, 7])
    with torch.inference_mode():
        before = stca(target, history, *at)
        assert torch.equal(before, stca(target, history, *at))
    with torch.no_grad():
        stca.layers[0].key_value.weight.mul_(2)
        stca.layers[1].encode_norm.bias.add_(1)
        after = stca(target, history, *at)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, stca(target, history, *at).detach())
