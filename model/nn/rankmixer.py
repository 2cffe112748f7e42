"""RankMixer's token mixing (arXiv 2507.15551) of the sequence, the user and the candidate."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig


class PerTokenFFN(nn.Module):
    """A two-layer GELU network with separate weights for every token position."""

    def __init__(self, tokens: int, width: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * width
        self.up = nn.Parameter(torch.empty(tokens, width, hidden).uniform_(-1, 1) / width**0.5)
        self.up_bias = nn.Parameter(torch.zeros(tokens, 1, hidden))
        self.down = nn.Parameter(torch.empty(tokens, hidden, width).uniform_(-1, 1) / hidden**0.5)
        self.down_bias = nn.Parameter(torch.zeros(tokens, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """[T, S, D] -> [T, S, D] for S token positions."""
        by_token = x.transpose(0, 1)
        hidden = F.gelu(by_token @ self.up + self.up_bias)
        return (hidden @ self.down + self.down_bias).transpose(0, 1)


def mix_tokens(x: Tensor) -> Tensor:
    """TokenMix: head k of every token becomes new token k; no parameters. [T, S, D] -> [T, S, D], S divides D."""
    rows, tokens, width = x.shape
    return x.view(rows, tokens, tokens, width // tokens).transpose(1, 2).reshape(rows, tokens, width)


class MixerLayer(nn.Module):
    """S = LN(TokenMix(X) + X), then LN(PerTokenFFN(S) + S)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mix_norm = nn.LayerNorm(config.width)
        self.ffn = PerTokenFFN(config.mixer_tokens, config.width, config.expansion)
        self.ffn_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[T, S, D] -> [T, S, D]."""
        mixed = self.mix_norm(mix_tokens(x) + x)
        out: Tensor = self.ffn_norm(self.ffn(mixed) + mixed)
        return out


class RankMixer(nn.Module):
    """Projects the given vectors to S tokens, mixes them, and pools by the mean."""

    def __init__(self, config: ModelConfig, inputs: int) -> None:
        super().__init__()
        self.tokens = config.mixer_tokens
        self.tokenize = nn.Linear(inputs * config.width, self.tokens * config.width)
        self.layers = nn.ModuleList(MixerLayer(config) for _ in range(config.mixer_layers))

    def forward(self, *vectors: Tensor) -> Tensor:
        """Vectors [T, D] each -> [T, D]."""
        x = self.tokenize(torch.cat(vectors, dim=-1)).unflatten(-1, (self.tokens, -1))
        for layer in self.layers:
            x = layer(x)
        pooled: Tensor = x.mean(dim=1)
        return pooled
