"""The yardstick: a causal Transformer over history and candidates, of the same sizes, with flash attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.stca.cases import EXPANSION, LAYERS
from longreel.model.nn.layer import SwiGLU


class Block(nn.Module):
    """x + Attention(LN(x)), then x + SwiGLU(LN(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.glu = SwiGLU(width, width, EXPANSION)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]; no position sees a later one."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.glu(self.norms[1](x))


class Transformer(nn.Module):
    """Events, then candidates, through M blocks; the candidates' outputs."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(LAYERS))

    def forward(self, x: Tensor, candidates: int) -> Tensor:
        """[B, L + m, D] -> [B, m, D]."""
        for block in self.blocks:
            x = block(x)
        return x[:, -candidates:]


def flops(length: int, candidates: int, width: int) -> float:
    """Of one request, forward: 8 d^2 + 6 r d^2 a position and 2 S d a position for the causal half of S^2."""
    size = length + candidates
    return float(LAYERS * size * ((8 + 6 * EXPANSION) * width**2 + 2 * size * width))


def batch(requests: int, length: int, candidates: int, width: int) -> Tensor:
    """Random input."""
    return torch.randn(requests, length + candidates, width, device="cuda", dtype=torch.bfloat16)
