"""STCA is what docs/method.md says: an independent float64 re-implementation, one target and one event at a time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from longreel.contracts.config import Config, ModelConfig
from longreel.contracts.log_schema import UNKNOWN
from longreel.model.nn.attention import Requests
from longreel.model.nn.id_match import INITIAL_SCALES, IdMatchBias, compared_ids
from longreel.model.nn.stca import STCA

TARGETS, EVENTS = [2, 1, 3], [5, 0, 3]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (x - x.mean()) / (((x - x.mean()) ** 2).mean() + 1e-5) ** 0.5 * weight + bias


def swiglu(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
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
            scores = [(wq @ q)[part] @ (wkv[:d] @ event)[part] / head**0.5 for event in encoded]
            if ids is not None:
                kind = 0 if j < (heads + 1) // 2 else 1
                equal = [float(ids[0][kind] == ids[1][e, kind]) for e in range(len(x))]
                scores = [s + state["id_match.scale"][i, j] * e for s, e in zip(scores, equal, strict=True)]
            total = sum((torch.exp(s) for s in scores), torch.zeros((), dtype=x.dtype))
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
            q = swiglu(state[f"fusions.{i}.0.weight"] @ torch.cat([*outputs, x_t]), state, f"fusions.{i}.1")
            q = layer_norm(q, state[f"fusions.{i}.2.weight"], state[f"fusions.{i}.2.bias"])
    return swiglu(state["collect.weight"] @ torch.cat([*outputs, x_t]), state, "collect_glu")


def assert_equals_the_equations(sizes: ModelConfig, match_fields: int, backend: str) -> None:
    stca = STCA(sizes, match_fields).double()
    with torch.no_grad():
        for parameter in stca.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in stca.state_dict().items()}
    target = torch.randn(sum(TARGETS), sizes.width, dtype=torch.float64)
    history = torch.randn(sum(EVENTS), sizes.width, dtype=torch.float64, requires_grad=True)
    history_again = history.detach().clone().requires_grad_()
    ids = None
    if match_fields:
        drawn = torch.randint(0, 4, (sum(TARGETS) + sum(EVENTS), 2))
        ids = (drawn[: sum(TARGETS)], drawn[sum(TARGETS) :])
    to, ho = (torch.tensor([0, *counts]).cumsum(0) for counts in (TARGETS, EVENTS))

    z = stca(target, history, Requests(to, ho), ids, backend)
    expected = []
    for b, m in enumerate(TARGETS):
        for t in range(int(to[b]), int(to[b]) + m):
            window = slice(int(ho[b]), int(ho[b + 1]))
            pair = (ids[0][t], ids[1][window]) if ids else None
            expected.append(reference(state, sizes, target[t], history_again[window], pair))
    z_expected = torch.stack(expected)
    torch.testing.assert_close(z, z_expected, rtol=1e-10, atol=1e-12)

    weight = torch.randn_like(z)
    (z * weight).sum().backward()
    (z_expected * weight).sum().backward()
    torch.testing.assert_close(history.grad, history_again.grad, rtol=1e-8, atol=1e-10)
    for name, parameter in stca.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "reference", "absorbed"])
@pytest.mark.parametrize("match_fields", [0, 2], ids=["", "matched"])
@pytest.mark.parametrize("layers", [1, 3])
def test_stca_equals_the_equations_in_values_and_gradients(
    config: Config, layers: int, match_fields: int, backend: str
) -> None:
    assert_equals_the_equations(replace(config.model, layers=layers), match_fields, backend)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the varlen backend needs CUDA")
@pytest.mark.parametrize("width", [64, 512])
@pytest.mark.parametrize("backend", ["varlen", "absorbed"])
def test_fused_kernels_equal_float64_to_bf16_rounding(config: Config, backend: str, width: int) -> None:
    sizes = replace(config.model, width=width, heads=4)
    target, history = (torch.randn(sum(n), width, device="cuda") for n in (TARGETS, EVENTS))
    ids = tuple(torch.randint(0, 4, (sum(n), 2), device="cuda") for n in (TARGETS, EVENTS))
    requests = Requests(*(torch.tensor([0, *counts], device="cuda").cumsum(0) for counts in (TARGETS, EVENTS)))
    exact, fused = STCA(sizes, 2).double().cuda(), STCA(sizes, 2).cuda()
    fused.load_state_dict(exact.state_dict())
    expected = exact(target.double(), history.double(), requests, ids, backend="reference")
    with torch.autocast("cuda", torch.bfloat16):
        z = fused(target, history, requests, ids, backend=backend)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (z * weight).sum().backward()
    assert (z - expected).norm() <= 0.02 * expected.norm()
    for (name, p), q in zip(exact.named_parameters(), fused.named_parameters(), strict=True):
        assert (q[1].grad - p.grad).norm() <= 0.05 * p.grad.norm(), name


def test_unknown_ids_match_nothing_and_heads_are_split_among_the_fields(config: Config) -> None:
    target = {"item_id": torch.tensor([5, UNKNOWN]), "tag": torch.tensor([UNKNOWN, 7], dtype=torch.int32)}
    history = {"item_id": torch.tensor([5, UNKNOWN, 6]), "tag": torch.tensor([7, UNKNOWN, 7], dtype=torch.int32)}
    target_ids, event_ids = compared_ids(target, history, ("item_id", "tag"))
    equal = target_ids[:, None] == event_ids
    assert equal[..., 0].tolist() == [[True, False, False], [False, False, False]]
    assert equal[..., 1].tolist() == [[False, False, False], [True, False, True]]
    bias = IdMatchBias(replace(config.model, width=40, heads=5), 2)
    assert bias.head_channel.tolist() == [0, 0, 0, 1, 1]
    sharp, gentle = INITIAL_SCALES
    assert bias.scale[0].tolist() == [sharp, gentle, sharp, sharp, gentle]


def test_folded_weights_follow_their_parameters(config: Config) -> None:
    stca = STCA(config.model, 0).double()
    target, history = torch.randn(3, 16, dtype=torch.float64), torch.randn(7, 16, dtype=torch.float64)
    requests = Requests(torch.tensor([0, 3]), torch.tensor([0, 7]))
    with torch.inference_mode():
        before = stca(target, history, requests)
        assert torch.equal(before, stca(target, history, requests))
    with torch.no_grad():
        stca.layers[0].key_value.weight.mul_(2)
        stca.layers[1].encode_norm.bias.add_(1)
        after = stca(target, history, requests)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, stca(target, history, requests).detach())
