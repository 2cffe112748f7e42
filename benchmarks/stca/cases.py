"""Measured cases: the model's sizes, its batches, and the arithmetic and bytes that each case must cost."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from longreel.contracts.config import ModelConfig
from longreel.model.nn.attention import Requests
from longreel.model.nn.stca import STCA

LAYERS, EXPANSION = 4, 2
WINDOW_MIN, WINDOW_MAX, WINDOW_MEAN, ALPHA = 64, 10_240, 2_099, 0.2  # Beta(0.2, 0.8): the mean follows from a and b


MATCHED = 2  # ids that attention compares, where it does


def config(width: int, heads: int) -> ModelConfig:
    """The measured model: M = 4, r = 2."""
    return ModelConfig(width=width, heads=heads, layers=LAYERS, expansion=EXPANSION)


@dataclass(frozen=True)
class Case:
    """Packed requests of so many events and targets each, on a device."""

    events: list[int]
    targets: list[int]
    width: int
    heads: int
    device: str = "cuda"
    id_match: bool = False
    seed: int = 0

    @property
    def num_events(self) -> int:
        """H."""
        return sum(self.events)

    @property
    def num_targets(self) -> int:
        """T."""
        return sum(self.targets)

    def forward_flops(self) -> float:
        """Multiplications and additions of the algorithm: K and V once per request, whatever form then runs.

        An event costs 6 r d^2 (SwiGLU) + 4 d^2 (K, V) + 4 m d (attention) a layer; a target its SwiGLUs, W_Q, W_O, W_C.
        """
        d2, glu = self.width**2, 6 * EXPANSION * self.width**2
        events = self.num_events * LAYERS * (glu + 4 * d2)
        pairs = sum(m * length for m, length in zip(self.targets, self.events, strict=True))
        fusions = sum(2 * (i + 2) * d2 + glu for i in range(LAYERS - 1))
        target = glu + LAYERS * 4 * d2 + fusions + 2 * (LAYERS + 1) * d2 + glu
        return float(events + LAYERS * 4 * pairs * self.width + self.num_targets * target)

    def model(self) -> STCA:
        """STCA with float32 master weights, the same for a seed."""
        torch.manual_seed(self.seed)
        return STCA(config(self.width, self.heads), MATCHED * self.id_match).to(self.device)

    def inputs(self, grad: bool, dtype: torch.dtype = torch.bfloat16) -> dict[str, object]:
        """Arguments of STCA's forward."""
        generator = torch.Generator(device=self.device).manual_seed(self.seed + 1)

        def draw(rows: int) -> Tensor:
            values = torch.randn(rows, self.width, generator=generator, device=self.device)
            return values.to(dtype).requires_grad_(grad)

        offsets = [torch.tensor([0, *n], device=self.device).cumsum(0) for n in (self.targets, self.events)]
        ids = None
        if self.id_match:
            ids = tuple(
                torch.randint(0, 200, (rows, MATCHED), generator=generator, device=self.device)
                for rows in (self.num_targets, self.num_events)
            )
        return {
            "target": draw(self.num_targets),
            "history": draw(self.num_events),
            "requests": Requests(offsets[0], offsets[1], max(self.targets), max(self.events)),
            "ids": ids,
        }


def beta_windows(requests: int, seed: int = 0) -> list[int]:
    """Lengths as training draws them: multiples of 8, mean about 2,099."""
    drawn = np.random.default_rng(seed).beta(ALPHA, 1 - ALPHA, requests)
    return [int(8 * round(length / 8)) for length in WINDOW_MIN + drawn * (WINDOW_MAX - WINDOW_MIN)]


def training(width: int, heads: int, requests: int, m: int = 16, id_match: bool = False) -> Case:
    """A packed training batch with Beta windows."""
    return Case(beta_windows(requests), [m] * requests, width, heads, id_match=id_match)


def scoring(
    width: int, heads: int, requests: int = 4, length: int = 10_240, m: int = 128, id_match: bool = False
) -> Case:
    """Requests to score."""
    return Case([length] * requests, [m] * requests, width, heads, id_match=id_match)
