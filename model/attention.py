"""How do targets read histories? One call over packed tensors, with interchangeable backends.

`segments` takes one request at a time and is the oracle; `padded` pads runs of similar length and works anywhere;
`varlen` runs packed on CUDA in bf16. All give the same values and gradients up to rounding.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.errors import LongreelError

BACKENDS = ("auto", "segments", "padded", "varlen")
RUN_EVENTS = 1_024  # requests are padded together up to this many events: a longer history goes alone, uncopied


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    target_offsets: Tensor,
    history_offsets: Tensor,
    backend: str = "auto",
    max_targets: int | None = None,
    max_history: int | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v within each request: its targets read its history, never each other's.

    Args:
        q: [T, N, Dh]. k: [H, N, Dh]. v: [H, N, Dv].
        target_offsets: [B+1] int64. history_offsets: [B+1] int64.
        backend: one of BACKENDS; auto takes varlen for half precision on CUDA, else padded.
        max_targets, max_history: largest counts of a request, where known (saves asking the device).

    Returns:
        [T, N, Dv]; exactly zero for the targets of a request without history.

    Raises:
        LongreelError: no such backend, or it cannot run on these tensors.
    """
    half = q.dtype in (torch.bfloat16, torch.float16)
    if backend == "auto":
        backend = "varlen" if q.is_cuda and half else "padded"
    if backend == "varlen":
        if not (q.is_cuda and half):
            raise LongreelError(f"attention backend varlen expects half precision on CUDA, got {q.dtype} on {q.device}")
        return _varlen(q, k, v, target_offsets, history_offsets, max_targets, max_history)
    if backend not in ("segments", "padded"):
        raise LongreelError(f"unknown attention backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    if q.shape[0] == 0 or k.shape[0] == 0:
        return q.new_zeros(*q.shape[:2], v.shape[-1]) + 0 * (q.sum() + k.sum() + v.sum())
    targets, events = target_offsets.diff().tolist(), history_offsets.diff().tolist()
    return (_segments if backend == "segments" else _padded)(q, k, v, targets, events)


def _attend(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """q [..., m, Dh], k [..., L, Dh], v [..., L, Dv], valid [..., 1, L] bool or None -> [..., m, Dv]."""
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    if valid is not None:
        scores = scores.masked_fill(~valid, -math.inf)
    return scores.softmax(-1) @ v


def _segments(q: Tensor, k: Tensor, v: Tensor, targets: list[int], events: list[int]) -> Tensor:
    outs = []
    for one_q, one_k, one_v in zip(q.split(targets), k.split(events), v.split(events), strict=True):
        if one_k.shape[0] == 0:
            outs.append(q.new_zeros(*one_q.shape[:2], v.shape[-1]))
        else:
            outs.append(_attend(*(x.transpose(0, 1) for x in (one_q, one_k, one_v))).transpose(0, 1))
    return torch.cat(outs)


def _runs(events: list[int]) -> Iterator[tuple[int, int]]:
    """Consecutive requests [first, last) that are padded together; fewest where batches come sorted by length."""
    first, longest = 0, 0
    for b, length in enumerate(events):
        fits = max(longest, length) * (b - first + 1) <= RUN_EVENTS
        if b > first and not (fits and (length == 0) == (longest == 0)):
            yield first, b
            first, longest = b, 0
        longest = max(longest, length)
    yield first, len(events)


def _padded(q: Tensor, k: Tensor, v: Tensor, targets: list[int], events: list[int]) -> Tensor:
    runs = list(_runs(events))
    run_targets, run_events = ([sum(counts[a:b]) for a, b in runs] for counts in (targets, events))
    outs = []
    parts = zip(runs, q.split(run_targets), k.split(run_events), v.split(run_events), strict=True)
    for (a, b), run_q, run_k, run_v in parts:
        if run_k.shape[0] == 0 or run_q.shape[0] == 0:
            outs.append(q.new_zeros(*run_q.shape[:2], v.shape[-1]))
            continue
        keys, valid = _pad(run_k, events[a:b])
        values, _ = _pad(run_v, events[a:b])
        queries, asked = _pad(run_q, targets[a:b])
        mask = None if valid is None else valid[:, None, None, :]
        out = _attend(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask).transpose(1, 2)
        outs.append(out.flatten(0, 1) if asked is None else out[asked])
    return torch.cat(outs)


def _pad(packed: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor | None]:
    """[sum lengths, N, Dh] -> [b, longest, N, Dh], and [b, longest] bool where elements are real (None: everywhere)."""
    longest = max(lengths)
    if min(lengths) == longest:
        return packed.view(len(lengths), longest, *packed.shape[1:]), None
    counts = torch.tensor(lengths, device=packed.device)
    valid = torch.arange(longest, device=packed.device) < counts[:, None]
    where = valid.flatten().nonzero().squeeze(1)
    padded = packed.new_zeros(len(lengths) * longest, *packed.shape[1:]).index_copy(0, where, packed)
    return padded.view(len(lengths), longest, *packed.shape[1:]), valid


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, to: Tensor, ho: Tensor, max_targets: int | None, max_history: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if q.shape[0] == 0 or k.shape[0] == 0:
        return q.new_zeros(*q.shape[:2], v.shape[-1]) + 0 * (q.sum() + k.sum() + v.sum())
    longest_q = max_targets if max_targets is not None else int(to.diff().max())
    longest_k = max_history if max_history is not None else int(ho.diff().max())
    width, value_width = q.shape[-1], v.shape[-1]
    if value_width < width:  # the kernel wants one head width
        v = F.pad(v, (0, width - value_width))
    read = varlen_attn(q, k, v, to.int(), ho.int(), longest_q, longest_k)
    assert isinstance(read, Tensor)  # a pair only where softmax statistics are asked for
    out = read[..., :value_width]
    seen = torch.repeat_interleave(ho.diff() > 0, to.diff(), output_size=q.shape[0])
    return torch.where(seen[:, None, None], out, torch.zeros_like(out))
