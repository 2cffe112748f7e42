"""HSTU's attention: an event sums the values of the events before it, weighted by SiLU instead of softmax."""

import math
import os
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.model.kernels import has_triton

FUSED = (torch.bfloat16, torch.float16, torch.float32)


def silu_attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, max_length: int) -> Tensor:
    """out[i] = sum_{j <= i} SiLU(q_i . k_j / sqrt(Dh)) v_j / (the number of events up to i), j of i's own request.

    q, k, v [H, N, Dh] of one type, Dh a power of two up to 64; request b has the events offsets[b] .. offsets[b+1] - 1
    of the N, at most max_length -> [H, N, Dh]. Fused kernels where they can run (or TRITON_INTERPRET=1), which write no
    score and give the same bits twice; else the plain version, which writes all scores of a request.
    """
    width = q.shape[-1]
    if not q.dtype == k.dtype == v.dtype or width > 64 or width & (width - 1):
        kinds = ", ".join(f"{x.dtype} of width {x.shape[-1]}" for x in (q, k, v))
        raise ValueError(f"silu_attention: expected one type and a width that is a power of two up to 64, got {kinds}")
    runs = q.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    if not (runs and has_triton() and q.dtype in FUSED):
        return plain(q, k, v, offsets)
    from benchmarks.extrapolation.silu_kernels import SiLUAttention

    out: Tensor = SiLUAttention.apply(q, k, v, offsets, max_length)
    return out


def plain(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    """The reference implementation: request by request, in PyTorch."""
    reads = []
    for begin, end in pairwise(offsets.tolist()):
        queries, keys, values = (x[:, begin:end] for x in (q, k, v))
        weights = F.silu(queries @ keys.mT / math.sqrt(q.shape[-1])).tril()
        reads.append(weights @ values / torch.arange(1, end - begin + 1, device=q.device)[:, None])
    return torch.cat(reads, dim=1)
