"""torch.compile and activation checkpointing of the model's per-token parts.

They have one dimension that changes from batch to batch, the number of events or targets, which is compiled as dynamic:
no batch shape compiles anything again (tests/model/test_compile.py counts). Attention is left out: it has its own
kernels.

We compile on a fixed synthetic batch: the generated code, and so the order of sums, depends on the first shapes and is
cached across runs; a training would otherwise depend on what was trained before it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from longreel.contracts.config import TrainingConfig
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.device_loader import RowLookup
from longreel.model.training.golden import Sizes, make_requests

# A choice by timing would depend on how busy the device is, and so would the order of sums.
SETTINGS: dict[str, Any] = {"deterministic": True}
PER_TOKEN = ("fuse_history", "fuse_target")  # of the embeddings
FIRST_SIZES: Sizes = (64, 2_048, 128)  # some 65,000 events and 4,000 targets, as a batch on a GPU has


def wants_compile(config: TrainingConfig, device: torch.device) -> bool:
    """auto compiles on CUDA; on a CPU the first call costs more than a small run gains."""
    return config.compile == "on" or (config.compile == "auto" and device.type == "cuda")


def compile_blocks(ranker: Ranker, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the ranker's per-token parts in place; names of parameters stay."""
    options: dict[str, Any] = {
        "dynamic": True,
        "backend": backend,
        "options": SETTINGS if backend == "inductor" else None,
    }
    compiled: Callable[..., Any] = partial(torch.compile, **options)
    for name in PER_TOKEN:
        setattr(ranker.embeddings, name, compiled(getattr(ranker.embeddings, name)))
    stca = ranker.stca
    encoders = [layer.encode for layer in stca.layers]  # which the fused encoder on CUDA does not call
    for block in (*encoders, *stca.fusions, stca.first_query, stca.collect_glu, ranker.mixer):
        block.compile(**options)


def compile_now(ranker: Ranker, rows: SampleRows, device: torch.device) -> None:
    """Compile for the first batch, forward and backward: synthetic requests (golden.py)."""
    batch = RowLookup(ranker.embeddings, device)(make_requests(rows, 0, FIRST_SIZES).to(device))
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = ranker(batch)
    torch.autograd.grad(logits.float().square().mean(), list(ranker.parameters()), allow_unused=True)


def checkpoint_activations(ranker: Ranker) -> None:
    """Recompute a layer's SwiGLU over the history, the widest of the activations, in the backward pass.

    The fused encoder on CUDA decides that by itself (model/kernels/swiglu_layernorm.py) and is left as it is.
    """
    for layer in ranker.stca.all_layers():
        encode = layer.encode
        encode.forward = partial(checkpoint, encode.forward, use_reentrant=False)  # type: ignore[method-assign]
