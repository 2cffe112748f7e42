"""How do targets read histories? One call over packed tensors, with interchangeable backends.

`segments` takes one request at a time and is the oracle; `padded` pads runs of similar length and works anywhere;
`packed` is one fused kernel on CUDA in half precision. All give the same values and gradients up to rounding.
What they read may be keys and values, or the encoded events themselves ("absorbed": no key or value is ever written);
`choose_form` says which is cheaper.
"""

import functools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.contracts.errors import LongreelError
from longreel.model.kernels import can_run, has_triton
from longreel.model.kernels.packing import Packing

log = logging.getLogger(__name__)

BACKENDS = ("auto", "segments", "padded", "packed", "absorbed")
RUN_EVENTS = 1_024  # requests are padded together up to this many events: a longer history goes alone, uncopied
HALVES = (torch.bfloat16, torch.float16)


Out = tuple[Tensor, Tensor | None]  # values, and where ids are matched the weight that fell on equal ones


class ComparedIds:
    """target [T, C] and event [H, C] int64, where no target's id equals an event's unless both are known."""

    def __init__(self, target: Tensor, event: Tensor) -> None:
        self.target, self.event = target, event
        self._bits: Tensor | None = None

    def bits(self, packing: Packing) -> Tensor:
        """Which are equal, for the fused kernels (kernels/id_match_bits.py); found at the first layer that asks."""
        if self._bits is None:
            from longreel.model.kernels.id_match_bits import find_equal

            self._bits = find_equal(self.target, self.event, packing)
        return self._bits


@dataclass(frozen=True)
class Match:
    """Equal ids in the score: head n adds scale[n] where target and event have the same id in channel which[n].

    which [N] int32; scale [N].
    """

    ids: ComparedIds
    which: Tensor
    scale: Tensor


def cross_attention(
    q: Tensor,
    kv: Tensor,
    target_offsets: Tensor,
    history_offsets: Tensor,
    match: Match | None = None,
    *,
    sink: Tensor | None = None,
    backend: str = "auto",
    softmax_scale: float | None = None,
    rstd: Tensor | None = None,
    max_targets: int | None = None,
    max_history: int | None = None,
) -> Out:
    """softmax(q k^T softmax_scale + match) v within each request: its targets read its history, never each other's.

    Args:
        q: [T, N, D]. kv: [H, 2, N, D] keys and values, or [H, 1, 1, D] events that are both, for every head.
        target_offsets: [B+1] int64. history_offsets: [B+1] int64.
        match: equal ids that heads can see.
        sink: [N], a score beside those of the events, on which nothing is read (model/nn/sink.py); not for packed.
        backend: auto | segments | padded | packed; auto takes packed where it can run, else padded.
        softmax_scale: 1 / sqrt(D) if not given.
        rstd: [H] float32, for packed and shared kv = (y - mean) rstd: kv's gradient is then handed back as that of y.
        max_targets, max_history: largest counts of a request, where known (saves asking the device).

    Returns:
        Values [T, N, D], and with a match the attention weight [T, N] that fell on equal ids; both exactly zero for
        the targets of a request without history.

    Raises:
        LongreelError: no such backend, or it cannot run on these tensors.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if softmax_scale is None else softmax_scale
    if backend == "auto":
        backend = "padded" if why_not_packed(q, compute_dtype(q), q.shape[-1]) else "packed"
    if backend not in ("segments", "padded", "packed"):
        raise LongreelError(f"unknown attention backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    if q.shape[0] == 0 or kv.shape[0] == 0:
        zeros = torch.zeros_like(q) + 0 * (q.sum() + kv.sum())
        return zeros, None if match is None else zeros[..., 0] + 0 * match.scale
    if backend == "packed":
        if sink is not None:
            raise LongreelError("attention backend packed: a sink is read absorbed only; take auto, absorbed or padded")
        if reason := why_not_packed(q, compute_dtype(q), q.shape[-1]):
            raise LongreelError(f"attention backend packed: {reason}; take auto or padded")
        most_targets = int(target_offsets.diff().max()) if max_targets is None else max_targets
        most_events = int(history_offsets.diff().max()) if max_history is None else max_history
        read: Out = _packed(q, kv, target_offsets, history_offsets, match, scale, rstd, most_targets, most_events)
        return read
    if rstd is not None:
        raise LongreelError(f"attention backend {backend} hands back no gradient through a norm; leave rstd out")
    targets, events = target_offsets.diff().tolist(), history_offsets.diff().tolist()
    return (_segments if backend == "segments" else _padded)(q, kv, match, sink, scale, targets, events)


TILE_WIDTH = 256  # up to here a tile of a kernel holds whole rows

# What a card does, roughly: enough to choose a form by. Units: FLOP/s of plain matrix products, of attention, bytes/s.
MATRIX_RATE, ATTENTION_RATE, MEMORY_RATE = 600e12, 300e12, 4e12
MAX_WIDTH = 2_048  # of what the kernels read


def choose_form(targets: float, events: float, width: int, heads: int) -> str:
    """kv | absorbed: which is cheaper for requests of so many targets over so many events.

    Per event, K and V cost 4 d^2 to form, their bytes (written and read), and 4 m d to attend to; absorbed costs
    4 m h d to attend, and 4 d^2 per target to go into the events' space and back.
    """
    written = 4 * width**2 / MATRIX_RATE + 8 * width / MEMORY_RATE + 4 * targets * width / ATTENTION_RATE
    absorbed = 4 * targets * heads * width / ATTENTION_RATE + 2 * width / MEMORY_RATE
    return "absorbed" if absorbed * events + targets * 4 * width**2 / MATRIX_RATE < written * events else "kv"


def plan_attention(
    backend: str, x: Tensor, targets: float, events: float, heads: int, sink: bool = False
) -> tuple[str, str]:
    """(form, backend of `cross_attention`) for events x [H, D] and requests of so many targets and events on average.

    `absorbed` asks for that form on whatever backend can run; `packed` for keys and values in the fused kernel, or the
    events where it cannot read those.

    Raises:
        LongreelError: no such backend.
    """
    if backend not in BACKENDS:
        raise LongreelError(f"unknown attention backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    width = x.shape[-1]
    fused = {
        form: not (sink and form == "kv")
        and not why_not_packed(x, compute_dtype(x), width if form == "absorbed" else width // heads)
        for form in ("kv", "absorbed")
    }
    if backend == "absorbed":
        form = "absorbed"
    elif backend == "auto" and fused["kv"] and fused["absorbed"]:
        form = choose_form(targets, events, width, heads)
    elif backend in ("auto", "packed") and fused["absorbed"] and not fused["kv"]:
        form = "absorbed"  # heads too narrow for the kernel, or a sink
    else:
        form = "kv"
    engine = backend if backend in ("segments", "padded", "packed") else "packed" if fused[form] else "padded"
    _say_once(form, engine, backend, width, heads, x.device.type)
    return form, engine


@functools.cache
def _say_once(form: str, engine: str, asked: str, width: int, heads: int, device: str) -> None:
    log.info("attention: %s on %s (asked for %s; d=%d, h=%d, %s)", form, engine, asked, width, heads, device)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that matrix products of x run in: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def why_not_packed(x: Tensor, dtype: torch.dtype, width: int) -> str:
    """Why the fused kernel cannot read rows of this width on this tensor's device; empty where it can."""
    if not x.is_cuda or dtype not in HALVES:
        return f"expected half precision on CUDA, got {dtype} on {x.device.type}"
    if not has_triton():
        return "expected Triton, which is not installed (PyTorch's CUDA builds bring it)"
    if not (can_run(x) and 16 <= width <= MAX_WIDTH and width & (width - 1) == 0):
        return f"expected heads of a power of two from 16 to {MAX_WIDTH:,} wide, got {width}"
    return ""


def _equal(match: Match, targets: slice, events: slice) -> Tensor:
    """[N, m, L] bool: same id in the head's channel?"""
    wanted = match.ids.target[targets][:, match.which].T
    return wanted[:, :, None] == match.ids.event[events][:, match.which].T[:, None, :]


def _attend(
    q: Tensor,
    kv: Tensor,
    scale: float,
    valid: Tensor | None,
    match: Match | None,
    sink: Tensor | None,
    equal: Tensor | None,
) -> Out:
    """q [..., m, N, D], kv [..., L, P, G, D], valid [..., 1, 1, L] or None, equal [..., N, m, L] or None."""
    k, v = (kv[..., part, :, :].transpose(-3, -2) for part in (0, -1))
    scores = (q.transpose(-3, -2) * scale) @ k.transpose(-1, -2)
    if match is not None and equal is not None:
        scores = scores + match.scale[:, None, None] * equal
    if valid is not None:
        scores = scores.masked_fill(~valid, -math.inf)
    if sink is not None:
        nothing = sink.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, nothing], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    values = (weights.to(v.dtype) @ v).transpose(-3, -2)
    return values, None if equal is None else (weights * equal).sum(-1).transpose(-1, -2)


def _empty(q: Tensor, match: Match | None) -> Out:
    return torch.zeros_like(q), None if match is None else q.new_zeros(q.shape[:2])


def _join(outs: list[Out]) -> Out:
    values, hits = zip(*outs, strict=True)
    return torch.cat(values), None if hits[0] is None else torch.cat([h for h in hits if h is not None])


def _segments(
    q: Tensor,
    kv: Tensor,
    match: Match | None,
    sink: Tensor | None,
    scale: float,
    targets: list[int],
    events: list[int],
) -> Out:
    outs, t, e = [], 0, 0
    for m, length in zip(targets, events, strict=True):
        mine, seen = slice(t, t + m), slice(e, e + length)
        equal = None if match is None else _equal(match, mine, seen)
        read = _empty(q[mine], match)
        outs.append(read if length == 0 else _attend(q[mine], kv[seen], scale, None, match, sink, equal))
        t, e = t + m, e + length
    return _join(outs)


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


def _padded(
    q: Tensor,
    kv: Tensor,
    match: Match | None,
    sink: Tensor | None,
    scale: float,
    targets: list[int],
    events: list[int],
) -> Out:
    outs: list[Out] = []
    t = e = 0
    for a, b in _runs(events):
        mine, seen = slice(t, t + sum(targets[a:b])), slice(e, e + sum(events[a:b]))
        t, e = mine.stop, seen.stop
        if seen.start == e or mine.start == t:
            outs.append(_empty(q[mine], match))
            continue
        keys_values, valid = _pad(kv[seen], events[a:b])
        queries, asked = _pad(q[mine], targets[a:b])
        equal = None
        if match is not None:
            wanted = _pad(match.ids.target[mine], targets[a:b])[0][..., match.which].transpose(-1, -2)
            found = _pad(match.ids.event[seen], events[a:b])[0][..., match.which].transpose(-1, -2)
            equal = wanted[..., :, None] == found[..., None, :]
        mask = None if valid is None else valid[:, None, None, :]
        values, hits = _attend(queries, keys_values, scale, mask, match, sink, equal)
        if asked is None:
            outs.append((values.flatten(0, 1), None if hits is None else hits.flatten(0, 1)))
        else:
            outs.append((values[asked], None if hits is None else hits[asked]))
    return _join(outs)


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


@torch.compiler.disable
def _packed(
    q: Tensor,
    kv: Tensor,
    target_offsets: Tensor,
    history_offsets: Tensor,
    match: Match | None,
    scale: float,
    rstd: Tensor | None,
    max_targets: int,
    max_history: int,
) -> Out:
    from longreel.model.kernels.id_match_bits import EqualIds
    from longreel.model.kernels.target_attention import Read
    from longreel.model.kernels.wide_target_attention import ReadWide

    dtype = compute_dtype(q)
    packing = Packing(target_offsets, history_offsets, max_targets, max_history)
    ids = None
    if match is not None:
        ids = EqualIds(match.ids.bits(packing), match.which)
    weight = None if match is None else match.scale
    if kv.shape[-1] <= TILE_WIDTH:
        values, hits = Read.apply(q.to(dtype), kv.to(dtype), weight, rstd, ids, packing, scale)
    elif rstd is None and kv.shape[1:3] == (1, 1):
        values, hits = ReadWide.apply(q.to(dtype), kv.flatten(1).to(dtype), weight, ids, packing, scale)
    else:
        raise LongreelError(f"attention backend packed: rows over {TILE_WIDTH} wide only where events are shared")
    return values, None if match is None else hits
