"""Ablations: the model without one of its parts, and training windows to compare the method's with.

A part leaves the model in the ranker that `ranker_without` builds, which `train` takes as `make_ranker`:

SwiGLU           a GELU network with as many weights, wherever SwiGLU stands
query fusion     every layer's query is made from the target alone
norm on fusion   fused queries without their LayerNorm
time delta       events do not say how long ago they were
position         events do not say how many came after them
RankMixer        a GELU network with one hidden layer and as many weights, on the same vectors

Windows have a shape and hold a part of the history; `train` takes what `windows_of` gives as `make_windows`:

beta     the method's (model/data/windows.py)
uniform  even over the widest range around the mean that lies within window_min .. window_max
fixed    always the mean
full     always window_max

newest   the method's: a window holds the newest events
random   one stretch of the history, anywhere in it
oldest   the beginning of the history
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from longreel.contracts.config import ModelConfig, TrainingConfig
from longreel.contracts.log_schema import LogSchema
from longreel.model.data.batch import RequestBatch
from longreel.model.data.encodings import Encodings
from longreel.model.data.lookup import BatchRows
from longreel.model.data.windows import (
    Floats,
    Ints,
    MakeWindows,
    WindowDistribution,
    WindowSampler,
    beta_windows,
    multiples_between,
    uniform,
)
from longreel.model.nn.attention import AttentionPlan
from longreel.model.nn.embeddings import AGE, POSITION, Embeddings
from longreel.model.nn.history_encoder import Encoded, encode_plainly
from longreel.model.nn.layer import SwiGLU
from longreel.model.nn.ranker import Ranker
from longreel.model.nn.stca import STCA


class GELUNetwork(nn.Sequential):
    """GELU(x W_u) W_o with as many weights as SwiGLU, without its gate; no biases."""

    def __init__(self, config: ModelConfig) -> None:
        hidden = 3 * config.expansion * config.width // 2
        up, down = nn.Linear(config.width, hidden, bias=False), nn.Linear(hidden, config.width, bias=False)
        super().__init__(up, nn.GELU(), down)


class STCAWithoutSwiGLU(STCA):
    """STCA with GELU networks, which no fused kernel computes."""

    def __init__(self, config: ModelConfig, match_fields: int) -> None:
        super().__init__(config, match_fields)
        for parent in list(self.modules()):
            for name, child in parent.named_children():
                if isinstance(child, SwiGLU):
                    parent.register_module(name, GELUNetwork(config))

    def encode(self, history: Tensor, plan: AttentionPlan) -> Iterator[Encoded]:
        """As STCA's."""
        return encode_plainly(self.all_layers(), history, plan.form)


class OfTarget(nn.Linear):
    """W_C [D, D] on the target alone, the last of the vectors side by side."""

    def forward(self, x: Tensor) -> Tensor:
        """[T, (i + 1) D] -> [T, D]."""
        return super().forward(x[..., -self.in_features :])


class EmbeddingsWithout(Embeddings):
    """Embeddings whose events lack one context feature."""

    def __init__(self, feature: str, config: ModelConfig, log_schema: LogSchema, encodings: Encodings) -> None:
        super().__init__(config, log_schema, encodings)
        self.column = list(self.context_sizes).index(feature)

    def find_rows(self, batch: RequestBatch) -> BatchRows:
        """As Embeddings', with a column less."""
        rows = super().find_rows(batch)
        columns = [column for column in range(rows.history_context.shape[1]) if column != self.column]
        return replace(rows, history_context=rows.history_context[:, columns])


class PlainMLP(nn.Sequential):
    """Two layers with GELU on the vectors side by side, with as many weights as RankMixer's matrices have."""

    def __init__(self, config: ModelConfig, inputs: int) -> None:
        tokens, d = config.mixer_tokens, config.width
        weights = inputs * tokens * d * d + config.mixer_layers * tokens * 2 * config.expansion * d * d
        hidden = round(weights / ((inputs + 1) * d))
        super().__init__(nn.Linear(inputs * d, hidden), nn.GELU(), nn.Linear(hidden, d))

    def forward(self, *vectors: Tensor) -> Tensor:
        """Vectors [T, D] each -> [T, D]."""
        out: Tensor = super().forward(torch.cat(vectors, dim=-1))
        return out


def _drop_swiglu(ranker: Ranker) -> None:
    ranker.stca = STCAWithoutSwiGLU(ranker.config, len(ranker.log_schema.match_fields))


def _drop_query_fusion(ranker: Ranker) -> None:
    for fusion in ranker.stca.fusions:
        fusion.register_module("0", OfTarget(ranker.config.width, ranker.config.width, bias=False))


def _drop_fusion_norm(ranker: Ranker) -> None:
    for fusion in ranker.stca.fusions:
        fusion.register_module("2", nn.Identity())


def _drop_context(feature: str, ranker: Ranker) -> None:
    ranker.embeddings = EmbeddingsWithout(feature, ranker.config, ranker.log_schema, ranker.encodings)


def _drop_rankmixer(ranker: Ranker) -> None:
    ranker.mixer = PlainMLP(ranker.config, 3 + ranker.config.match_counts)  # type: ignore[assignment]


PARTS_OF_THE_MODEL: dict[str, Callable[[Ranker], None]] = {
    "SwiGLU": _drop_swiglu,
    "query fusion": _drop_query_fusion,
    "norm on fusion": _drop_fusion_norm,
    "time delta": partial(_drop_context, AGE),
    "position": partial(_drop_context, POSITION),
    "RankMixer": _drop_rankmixer,
}


def ranker_without(
    part: str, config: ModelConfig, tasks: tuple[str, ...], log_schema: LogSchema, encodings: Encodings
) -> Ranker:
    """The product's ranker without a part, one of PARTS_OF_THE_MODEL. Raises KeyError for an unknown one."""
    ranker = Ranker(config, tasks, log_schema, encodings)
    PARTS_OF_THE_MODEL[part](ranker)
    return ranker


def _even(places: Floats) -> Floats:
    return places


def uniform_windows(config: TrainingConfig, mean: float) -> WindowDistribution:
    """Every window between two bounds equally likely."""
    reach = min(mean - config.window_min, config.window_max - mean)
    return multiples_between(mean - reach, mean + reach, _even)


def fixed_windows(config: TrainingConfig, mean: float) -> WindowDistribution:
    """One window, the mean."""
    return multiples_between(mean, mean, _even)


def full_windows(config: TrainingConfig, mean: float) -> WindowDistribution:
    """One window, the longest."""
    return multiples_between(config.window_max, config.window_max, _even)


class OldestPart(WindowSampler):
    """Windows that hold the beginning of a history."""

    def skip(self, epoch: int, index: Ints, visible: Ints, windows: Ints) -> Ints:
        """All newer events: [B]."""
        return np.asarray(np.maximum(visible - windows, 0))


class RandomPart(WindowSampler):
    """Windows that hold one stretch of a history, anywhere in it."""

    def skip(self, epoch: int, index: Ints, visible: Ints, windows: Ints) -> Ints:
        """A random number of newer events: [B]."""
        spare = np.maximum(visible - windows, 0)
        return np.asarray(uniform(self.seed + 1, epoch, index) * (spare + 1), np.int64)


SHAPES = {"beta": beta_windows, "uniform": uniform_windows, "fixed": fixed_windows, "full": full_windows}
PARTS = {"newest": WindowSampler, "random": RandomPart, "oldest": OldestPart}


def windows_of(shape: str = "beta", part: str = "newest") -> MakeWindows:
    """What draws such windows, for `longreel.model.training.train.train`. Raises KeyError for an unknown name."""
    return partial(PARTS[part], distribution=SHAPES[shape])
