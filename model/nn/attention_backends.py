"""Attention backends: `reference`, `padded` and `varlen`, the same softmax(q k^T) v within each request.

`reference` takes one request at a time. `padded` pads runs of requests of similar length and works anywhere. `varlen`
is a fused kernel on CUDA in half precision. All give the same values and gradients up to rounding.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.contracts.errors import LongreelError
from longreel.model.kernels import uncompiled
from longreel.model.kernels.packing import Packing

RUN_EVENTS = 1_024  # requests are padded together up to this many events: a longer history goes alone, uncopied
TILE_WIDTH = 256  # up to here a tile of a kernel holds whole rows

AttentionOutput = tuple[Tensor, Tensor | None]  # values [T, N, D], and with an id match its weight [T, N]


class ComparedIds:
    """target [T, C] and event [H, C] int64, where no target's id equals an event's unless both are known."""

    def __init__(self, target: Tensor, event: Tensor) -> None:
        self.target, self.event = target, event
        self._bits: Tensor | None = None

    def bits(self, packing: Packing) -> Tensor:
        """Bits of equal ids for the fused kernels (kernels/id_match_bits.py); computed once, by the first layer."""
        if self._bits is None:
            from longreel.model.kernels.id_match_bits import match_bits

            self._bits = match_bits(self.target, self.event, packing)
        return self._bits


@dataclass(frozen=True)
class IdMatch:
    """Equal ids in the score: head n adds scale[n] where target and event have the same id in channel head_channel[n].

    head_channel [N] int32; scale [N].
    """

    ids: ComparedIds
    head_channel: Tensor
    scale: Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that matrix products of x run in: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def reference_attention(
    q: Tensor, kv: Tensor, match: IdMatch | None, scale: float, targets: list[int], events: list[int]
) -> AttentionOutput:
    """q [T, N, D], kv [H, P, G, D], and the counts of each request: one request at a time."""
    outputs, t, e = [], 0, 0
    for m, length in zip(targets, events, strict=True):
        rows, window = slice(t, t + m), slice(e, e + length)
        equal = None if match is None else _equal_ids(match, rows, window)
        output = _zeros(q[rows], match) if length == 0 else _attend(q[rows], kv[window], scale, None, match, equal)
        outputs.append(output)
        t, e = t + m, e + length
    return _concatenate(outputs)


def padded_attention(
    q: Tensor, kv: Tensor, match: IdMatch | None, scale: float, targets: list[int], events: list[int]
) -> AttentionOutput:
    """q [T, N, D], kv [H, P, G, D], and the counts of each request: runs of requests, padded to their longest."""
    outputs: list[AttentionOutput] = []
    t = e = 0
    for a, b in _runs(events):
        rows, window = slice(t, t + sum(targets[a:b])), slice(e, e + sum(events[a:b]))
        t, e = rows.stop, window.stop
        if window.start == e or rows.start == t:
            outputs.append(_zeros(q[rows], match))
            continue
        keys_values, valid = _pad(kv[window], events[a:b])
        queries, is_target = _pad(q[rows], targets[a:b])
        equal = None
        if match is not None:
            target_ids = _pad(match.ids.target[rows], targets[a:b])[0][..., match.head_channel].transpose(-1, -2)
            event_ids = _pad(match.ids.event[window], events[a:b])[0][..., match.head_channel].transpose(-1, -2)
            equal = target_ids[..., :, None] == event_ids[..., None, :]
        mask = None if valid is None else valid[:, None, None, :]
        values, match_weight = _attend(queries, keys_values, scale, mask, match, equal)
        if is_target is None:
            outputs.append((values.flatten(0, 1), None if match_weight is None else match_weight.flatten(0, 1)))
        else:
            outputs.append((values[is_target], None if match_weight is None else match_weight[is_target]))
    return _concatenate(outputs)


@uncompiled
def varlen_attention(
    q: Tensor, kv: Tensor, match: IdMatch | None, scale: float, packing: Packing, rstd: Tensor | None
) -> AttentionOutput:
    """q [T, N, D], kv [H, P, G, D] and where its requests begin: the fused kernels of model/kernels."""
    from longreel.model.kernels.id_match_bits import MatchBits
    from longreel.model.kernels.target_attention import TargetAttention
    from longreel.model.kernels.wide_target_attention import WideTargetAttention

    dtype = compute_dtype(q)
    bits = None if match is None else MatchBits(match.ids.bits(packing), match.head_channel)
    bias = None if match is None else match.scale
    if kv.shape[-1] <= TILE_WIDTH:
        values, match_weight = TargetAttention.apply(q.to(dtype), kv.to(dtype), bias, rstd, bits, packing, scale)
    elif rstd is None and kv.shape[1:3] == (1, 1):
        events = kv.flatten(1).to(dtype)
        values, match_weight = WideTargetAttention.apply(q.to(dtype), events, bias, bits, packing, scale)
    else:
        raise LongreelError(f"attention backend varlen: rows over {TILE_WIDTH} wide only where events are shared")
    return values, None if match is None else match_weight


def _equal_ids(match: IdMatch, rows: slice, window: slice) -> Tensor:
    """[N, m, L] bool: same id in the head's field?"""
    target_ids = match.ids.target[rows][:, match.head_channel].T
    return target_ids[:, :, None] == match.ids.event[window][:, match.head_channel].T[:, None, :]


def _attend(
    q: Tensor, kv: Tensor, scale: float, valid: Tensor | None, match: IdMatch | None, equal: Tensor | None
) -> AttentionOutput:
    """q [..., m, N, D], kv [..., L, P, G, D], valid [..., 1, 1, L] or None, equal [..., N, m, L] or None."""
    k, v = (kv[..., part, :, :].transpose(-3, -2) for part in (0, -1))
    scores = (q.transpose(-3, -2) * scale) @ k.transpose(-1, -2)
    if match is not None and equal is not None:
        scores = scores + match.scale[:, None, None] * equal
    if valid is not None:
        scores = scores.masked_fill(~valid, -math.inf)
    weights = scores.softmax(-1)
    values = (weights.to(v.dtype) @ v).transpose(-3, -2)
    return values, None if equal is None else (weights * equal).sum(-1).transpose(-1, -2)


def _zeros(q: Tensor, match: IdMatch | None) -> AttentionOutput:
    return torch.zeros_like(q), None if match is None else q.new_zeros(q.shape[:2])


def _concatenate(outputs: list[AttentionOutput]) -> AttentionOutput:
    values, weights = zip(*outputs, strict=True)
    return torch.cat(values), None if weights[0] is None else torch.cat([w for w in weights if w is not None])


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


def _pad(packed: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor | None]:
    """[sum lengths, ...] -> [b, longest, ...], and [b, longest] bool where elements are real (None: everywhere)."""
    longest = max(lengths)
    if min(lengths) == longest:
        return packed.view(len(lengths), longest, *packed.shape[1:]), None
    counts = torch.tensor(lengths, device=packed.device)
    valid = torch.arange(longest, device=packed.device) < counts[:, None]
    where = valid.flatten().nonzero().squeeze(1)
    padded = packed.new_zeros(len(lengths) * longest, *packed.shape[1:]).index_copy(0, where, packed)
    return padded.view(len(lengths), longest, *packed.shape[1:]), valid
