"""HSTU's attention among events: fused on CUDA, where its scores would fill the memory; in plain PyTorch elsewhere."""

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels import can_run, has_triton


def silu_attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """out_i = sum over j <= i of the same request of SiLU(q_i . k_j / sqrt(D)) v_j, divided by the number of these j.

    Args:
        q: [N, H, D], as k and v: events of all requests behind one another, heads, width of a head.
        offsets: [B+1], where requests begin and end, on the same device.
        longest: events of the longest request, or more.
    """
    if can_run(q) or (has_triton() and os.environ.get("TRITON_INTERPRET") == "1"):
        from benchmarks.extrapolation.silu_kernels import SiluAttention

        out: Tensor = SiluAttention.apply(q.contiguous(), k.contiguous(), v.contiguous(), offsets, longest)
        return out
    return plain(q, k, v, offsets)


def plain(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    """The same, request by request, with every score written."""
    found = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        query, key, value = (each[start:stop].transpose(0, 1) for each in (q, k, v))
        weights = F.silu(query @ key.transpose(1, 2) / q.shape[-1] ** 0.5).tril()
        number = torch.arange(1, stop - start + 1, device=q.device)
        found.append((weights @ value).transpose(0, 1) / number[:, None, None])
    return torch.cat(found).to(q.dtype) if found else torch.zeros_like(q)
