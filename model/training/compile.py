"""Which parts of the model are compiled, and which recomputed? Those that treat every token alike.

They see one dimension that changes from batch to batch, the number of events or targets, which is compiled as
unknown: no batch shape compiles anything again (tests/model/test_compile.py counts). Attention stays out: it has
kernels of its own.

The compiler looks at the first sizes that it meets to decide how sums are split, and other processes find what it made
for them: a training would depend on what was trained before it. So the first batch is always of the same sizes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from longreel.contracts.config import TrainingConfig
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.nn.stca import GELUNetwork, SwiGLU
from longreel.model.training.device_loader import RowFinders
from longreel.model.training.golden import Sizes, made_up

# Where the compiler may choose by timing, a busy device chooses otherwise, and sums are added up in another order.
SETTINGS: dict[str, Any] = {"deterministic": True}
PER_TOKEN = ("fuse_history", "fuse_target")  # of the embeddings
FIRST: Sizes = (64, 2_048, 128)  # some 65,000 events and 4,000 targets, as a batch on a GPU has


def wants_compile(config: TrainingConfig, device: torch.device) -> bool:
    """auto compiles on CUDA; on a CPU the first call costs more than a small run gains."""
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")


def compile_blocks(ranker: Ranker, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the ranker's per-token parts in place; names of parameters stay."""
    how: dict[str, Any] = {"dynamic": True, "backend": backend, "options": SETTINGS if backend == "inductor" else None}
    compiled: Callable[..., Any] = partial(torch.compile, **how)
    for name in PER_TOKEN:
        setattr(ranker.embeddings, name, compiled(getattr(ranker.embeddings, name)))
    stca = ranker.stca
    encoders = [layer.encode for layer in stca.layers]  # which the fused encoder on CUDA does not call
    for block in (*encoders, *stca.fusions, stca.first_query, stca.collect_glu, ranker.mixer):
        block.compile(**how)


def compile_now(ranker: Ranker, rows: SampleRows, device: torch.device) -> None:
    """Let the compiled parts meet their first batch, forward and backward: golden requests (golden.py)."""
    batch = RowFinders(ranker.embeddings, device)(made_up(rows, 0, FIRST).to(device))
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = ranker(batch)
    torch.autograd.grad(logits.float().square().mean(), list(ranker.parameters()), allow_unused=True)


def recompute_layers(ranker: Ranker) -> None:
    """Drop what a layer's SwiGLU over the history keeps, the widest of the activations, and run it again backward.

    The fused encoder on CUDA decides that by itself (model/kernels/swiglu_layernorm.py) and is left alone.
    """
    for layer in ranker.stca.layers:
        encode = layer.encode
        assert isinstance(encode, SwiGLU | GELUNetwork)
        encode.forward = partial(checkpoint, encode.forward, use_reentrant=False)  # type: ignore[method-assign]
