"""How is a target matched with a long history? Stacked Target-to-history Cross Attention (arXiv 2511.06077).

Cost is linear in the history: targets attend to events, events never to each other. Equations: docs/method.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contracts.config import ModelConfig
from model.attention import cross_attention
from model.identity import IdentityMatch


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


class Layer(nn.Module):
    """One layer's history encoder and its attention weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.encode = SwiGLU(d, d, config.expansion)
        self.encode_norm = nn.LayerNorm(d)
        self.query = nn.Linear(d, d, bias=False)
        self.key_value = nn.Linear(d, 2 * d, bias=False)  # W_K and W_V side by side
        matches = config.heads if config.identity_width else 0  # how much of each head fell on equal ids
        self.out = nn.Linear(d + matches, d, bias=False)  # W_O

    def project(self, query: Tensor, history: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """query [T, D], raw history X [H, D] -> q [T, N, Dh], k and v [H, N, Dh]."""
        events = self.encode_norm(self.encode(history))
        k, v = self.key_value(events).chunk(2, dim=-1)
        q = self.query(query)
        return q.unflatten(-1, (self.heads, -1)), k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))


class QueryFusion(nn.Sequential):
    """LN(SwiGLU([o(1) .. o(i), x_t] W_C)): the next query; LN is a switch, since readers of the paper differ."""

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        d = config.width
        norm = nn.LayerNorm(d) if config.query_fusion_norm else nn.Identity()
        super().__init__(nn.Linear((outputs + 1) * d, d, bias=False), SwiGLU(d, d, config.expansion), norm)


class STCA(nn.Module):
    """M layers. Layer i reads LN(SwiGLU_i(X)), always from the raw history X; the query of layer i + 1 is fused from
    all earlier outputs and the target; there is no residual path and no LayerNorm on the result z.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, r = config.width, config.expansion
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.first_query = SwiGLU(d, d, r)
        self.first_norm = nn.LayerNorm(d)
        self.fusions = nn.ModuleList(QueryFusion(config, i + 1) for i in range(config.layers - 1))
        self.collect = nn.Linear((config.layers + 1) * d, d, bias=False)  # W_Z
        self.collect_glu = SwiGLU(d, d, r)
        self.identity = IdentityMatch(config) if config.identity_width else None

    def forward(
        self,
        target: Tensor,
        history: Tensor,
        target_offsets: Tensor,
        history_offsets: Tensor,
        codes: tuple[Tensor, Tensor] | None = None,
        max_targets: int | None = None,
        max_history: int | None = None,
        backend: str = "auto",
    ) -> Tensor:
        """target x_t [T, D], history X [H, D], offsets [B+1] each, codes of (targets, events) where identities are
        matched -> z [T, D].
        """
        query: Tensor = self.first_norm(self.first_query(target))
        outputs: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            q, k, v = layer.project(query, history)
            if self.identity is not None and codes is not None:
                q, k, v = self.identity.extend(i, q, k, v, *codes)
            read = cross_attention(
                q, k, v, target_offsets, history_offsets, backend, max_targets=max_targets, max_history=max_history
            )
            if self.identity is not None and codes is not None:
                outputs.append(layer.out(self.identity.read(read, codes[0])))
            else:
                outputs.append(layer.out(read.flatten(1)))
            if i < len(self.fusions):
                query = self.fusions[i](torch.cat([*outputs, target], dim=-1))
        z: Tensor = self.collect_glu(self.collect(torch.cat([*outputs, target], dim=-1)))
        return z
