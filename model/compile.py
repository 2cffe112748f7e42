"""Which parts of the model are compiled, and which recomputed? Those that treat every token alike.

They see one dimension that changes from batch to batch, the number of events or targets, which is compiled as
unknown: no batch shape compiles anything again (tests/model/test_compile.py counts). Attention stays out: it has
kernels of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from contracts.config import TrainingConfig
from model.ranker import Ranker

# (module, method) by what the module is called in the ranker; a name that is not there is left alone.
PER_TOKEN = ("fuse_history", "fuse_target")
PER_LAYER = ("project",)


def wants_compile(config: TrainingConfig, device: torch.device) -> bool:
    """auto compiles on CUDA; on a CPU the first call costs more than a small run gains."""
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")


def compile_blocks(ranker: Ranker, backend: str = "inductor") -> None:
    """Compile the ranker's per-token parts in place; names of parameters stay."""
    compiled: Callable[..., Any] = partial(torch.compile, dynamic=True, backend=backend)
    for name in PER_TOKEN:
        setattr(ranker.embeddings, name, compiled(getattr(ranker.embeddings, name)))
    for layer in ranker.stca.layers:
        for name in PER_LAYER:
            setattr(layer, name, compiled(getattr(layer, name)))
    for block in (*ranker.stca.fusions, ranker.stca.first_query, ranker.stca.collect_glu, ranker.mixer):
        block.compile(dynamic=True, backend=backend)


def recompute_layers(ranker: Ranker) -> None:
    """Keep a layer's inputs instead of its activations: its history side runs again in the backward pass.

    An event then costs about its raw vector, K and V per layer, at a third more arithmetic.
    """
    for layer in ranker.stca.layers:
        for name in PER_LAYER:
            setattr(layer, name, partial(checkpoint, getattr(layer, name), use_reentrant=False))
