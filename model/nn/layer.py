"""One layer of STCA: its history encoder, its attention weights, and what it hands on."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig
from longreel.model.nn.attention import Folded

T = TypeVar("T")


class SwiGLU(nn.Module):
    """((x W_u) * Swish(x W_v)) W_o, with W_u and W_v [d_in, r D] and W_o [r D, D]; no biases."""

    def __init__(self, width_in: int, width: int, expansion: int) -> None:
        super().__init__()
        self.up_gate = nn.Linear(width_in, 2 * expansion * width, bias=False)  # W_u and W_v side by side
        self.out = nn.Linear(expansion * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_in] -> [..., D]."""
        up, gate = self.up_gate(x).chunk(2, dim=-1)
        out: Tensor = self.out(up * F.silu(gate))
        return out


def feed_forward(config: ModelConfig) -> SwiGLU:
    """The network D -> D that encodes events, forms queries and gathers outputs."""
    return SwiGLU(config.width, config.width, config.expansion)


class Layer(nn.Module):
    """One layer's history encoder and its attention weights.

    The encoded history x^ is LayerNorm's output before its own weight and bias. Both are folded into small matrices:
    the weight into W_K and W_V, the bias into a constant of V, added once per target (in a score it cancels out).
    """

    def __init__(self, config: ModelConfig, matches_ids: bool) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.encode = feed_forward(config)
        self.encode_norm = nn.LayerNorm(d)
        self.query = nn.Linear(d, d, bias=False)
        self.key_value = nn.Linear(d, 2 * d, bias=False)  # W_K and W_V side by side
        match_weights = config.heads if matches_ids else 0  # how much of each head fell on equal ids
        self.out = nn.Linear(d + match_weights, d, bias=False)  # W_O
        self._cache: dict[object, tuple[object, Any]] = {}

    def queries(self, x: Tensor, folded: Folded | None) -> Tensor:
        """x [T, D] -> q [T, N, Dh]; with folded weights taken through W_K into the events' space, [T, N, D]."""
        q: Tensor = self.query(x).unflatten(-1, (self.heads, -1))
        if folded is None:
            return q
        w_k = folded.weight.unflatten(0, (2, self.heads, -1))[0]
        return torch.einsum("tnd,ndc->tnc", q, w_k)

    def keys_values(self, events: Tensor, form: str) -> Tensor:
        """What attention reads of x^ [H, D]: keys and values [H, 2, N, Dh], or (absorbed) the events [H, 1, 1, D]."""
        if form == "absorbed":
            return events[:, None, None]
        folded = self.folded()
        kv: Tensor = F.linear(events, folded.weight, folded.constant).unflatten(-1, (2, self.heads, -1))
        return kv

    def gather(self, values: Tensor, match_weight: Tensor | None, has_history: Tensor, folded: Folded | None) -> Tensor:
        """Attention's output -> o [T, D].

        Args:
            values: [T, N, Dh], or [T, N, D] in the events' space where weights are folded.
            match_weight: the weight on equal ids [T, N].
            has_history: [T], 1 where there are events.
        """
        if folded is not None:
            w_v = folded.weight.unflatten(0, (2, self.heads, -1))[1]
            constant = folded.constant[len(folded.constant) // 2 :].unflatten(0, (self.heads, -1))
            values = torch.einsum("tnc,ndc->tnd", values, w_v)
            values = values + has_history[:, None, None] * constant
        flat = values.flatten(1)
        if match_weight is not None:
            flat = torch.cat([flat, match_weight.to(flat.dtype)], dim=-1)
        out: Tensor = self.out(flat)
        return out

    def folded(self) -> Folded:
        """W_K over W_V with the norm's weight in it, and what its bias adds to keys and values."""
        return self._cached("folded", self._fold)

    def fused_weights(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What the kernel from events to keys and values takes: SwiGLU's weights, W_K over W_V, and their constant."""
        from longreel.model.kernels.swiglu_layernorm import interleaved

        def convert() -> tuple[Tensor, ...]:
            up_gate, out = self.encode.up_gate.weight.to(dtype), self.encode.out.weight.to(dtype)
            folded = self.folded()
            return interleaved(up_gate, out.shape[1]), out, folded.weight.to(dtype), folded.constant

        return self._cached(dtype, convert)

    def _fold(self) -> Folded:
        weight, scale, shift = self.key_value.weight, self.encode_norm.weight, self.encode_norm.bias
        constant = (weight[len(weight) // 2 :] * shift).sum(-1)
        return Folded(weight=weight * scale, constant=torch.cat([torch.zeros_like(constant), constant]))

    def _cached(self, name: object, compute: Callable[[], T]) -> T:
        """What `compute` makes of parameters: each time where gradients are needed, else once until one changes."""
        if torch.is_grad_enabled() or (parameters := list(self.parameters()))[0].is_inference():
            return compute()
        key = [(p._version, p.data_ptr(), p.dtype) for p in parameters]
        if name not in self._cache or self._cache[name][0] != key:
            self._cache[name] = (key, compute())
        value: T = self._cache[name][1]
        return value
