"""The encoded history of every layer: LN(SwiGLU_i(X)) as attention reads it, by fused kernels where they can run."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.model.kernels import can_run, uncompiled
from longreel.model.nn.attention import HALVES, AttentionPlan
from longreel.model.nn.attention_backends import compute_dtype
from longreel.model.nn.layer import Layer

Encoded = tuple[Tensor, Tensor | None]  # kv [H, P, G, D]; 1/deviation [H] where the plan has norm_gradient


def encode_history(layers: Sequence[Layer], history: Tensor, plan: AttentionPlan) -> Iterator[Encoded]:
    """X [H, D] -> keys and values, or events, of layer after layer."""
    dtype = compute_dtype(history)
    if not can_fuse(history, dtype, layers[0].encode.out.in_features):
        return encode_plainly(layers, history, plan.form)
    x = history.to(dtype)
    if torch.is_grad_enabled():
        return _encode_for_training(layers, x, plan)
    return _encode_for_inference(layers, x, plan.form)


def encode_plainly(layers: Sequence[Layer], history: Tensor, form: str) -> Iterator[Encoded]:
    """The same in plain PyTorch, with any network for `encode`."""
    for layer in layers:
        yield layer.keys_values(F.layer_norm(layer.encode(history), history.shape[-1:]), form), None


def can_fuse(x: Tensor, dtype: torch.dtype, hidden: int) -> bool:
    """Whether the fused encoder takes X [H, D]: half precision on CUDA with Triton, widths a multiple of 16."""
    return can_run(x) and dtype in HALVES and x.shape[0] > 0 and x.shape[1] % 16 == 0 and hidden % 16 == 0


def _encode_for_training(layers: Sequence[Layer], x: Tensor, plan: AttentionPlan) -> Iterator[Encoded]:
    up_gate, out = [layer.encode.up_gate.weight for layer in layers], [layer.encode.out.weight for layer in layers]
    for layer, (events, rstd) in zip(layers, _fused_encode(x, plan.norm_gradient, up_gate, out), strict=True):
        yield layer.keys_values(events, plan.form), rstd if plan.norm_gradient else None


def _encode_for_inference(layers: Sequence[Layer], x: Tensor, form: str) -> Iterator[Encoded]:
    for layer in layers:
        kv = _fused_keys_values(x, layer) if form == "kv" else None
        if kv is None:
            events = _fused_layer(x, layer.encode.up_gate.weight, layer.encode.out.weight)
            kv = layer.keys_values(events, form)
        yield kv, None


@uncompiled
def _fused_encode(
    x: Tensor, norm_gradient: bool, up_gate: list[Tensor], out: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """x^ [H, D] and 1/deviation [H] of every layer, by the kernels of model/kernels/swiglu_layernorm.py."""
    from longreel.model.kernels.swiglu_layernorm import EncodeHistory

    encoded = EncodeHistory.apply(x, norm_gradient, *up_gate, *out)
    return list(zip(encoded[: len(out)], encoded[len(out) :], strict=True))


@uncompiled
def _fused_layer(x: Tensor, up_gate: Tensor, out: Tensor) -> Tensor:
    """x^ [H, D] of one layer, without gradients."""
    from longreel.model.kernels.swiglu_layernorm import encode_layer

    encoded: Tensor = encode_layer(x, up_gate, out)
    return encoded


@uncompiled
def _fused_keys_values(x: Tensor, layer: Layer) -> Tensor | None:
    """Keys and values [H, 2, N, Dh] of one layer, without gradients and without x^; None for rows too wide for it."""
    from longreel.model.kernels.swiglu_layernorm import encode_keys_values, is_narrow

    if not is_narrow(x.shape[1]):
        return None
    encoded = encode_keys_values(x.contiguous(), *layer.fused_weights(x.dtype))
    kv: Tensor = encoded.unflatten(-1, (2, layer.heads, -1))
    return kv
