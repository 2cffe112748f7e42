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
from model.stca import GELUNetwork, SwiGLU

# Where the compiler may choose by timing, a busy device chooses otherwise, and sums are added up in another order.
SETTINGS: dict[str, dict[str, Any]] = {"inductor": {"deterministic": True}}
PER_TOKEN = ("fuse_history", "fuse_target")  # of the embeddings


def wants_compile(config: TrainingConfig, device: torch.device) -> bool:
    """auto compiles on CUDA; on a CPU the first call costs more than a small run gains."""
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")


def compile_blocks(ranker: Ranker, backend: str = "inductor") -> None:
    """Compile the ranker's per-token parts in place; names of parameters stay."""
    how: dict[str, Any] = {"dynamic": True, "backend": backend, "options": SETTINGS.get(backend)}
    compiled: Callable[..., Any] = partial(torch.compile, **how)
    for name in PER_TOKEN:
        setattr(ranker.embeddings, name, compiled(getattr(ranker.embeddings, name)))
    stca = ranker.stca
    encoders = [layer.encode for layer in stca.layers]  # which the fused encoder on CUDA does not call
    for block in (*encoders, *stca.fusions, stca.first_query, stca.collect_glu, ranker.mixer):
        block.compile(**how)


def recompute_layers(ranker: Ranker) -> None:
    """Drop what a layer's SwiGLU over the history keeps, the widest of the activations, and run it again backward.

    The fused encoder on CUDA decides that by itself (model/kernels/encode.py) and is left alone.
    """
    for layer in ranker.stca.layers:
        encode = layer.encode
        assert isinstance(encode, SwiGLU | GELUNetwork)
        encode.forward = partial(checkpoint, encode.forward, use_reentrant=False)  # type: ignore[method-assign]
