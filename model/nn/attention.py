"""Attention of targets over packed histories: the call, and the plan that chooses its form and backend.

Two forms. `kv`: keys and values are written for every event. `absorbed`: targets attend to the encoded events
themselves, and their queries and outputs pass through W_K and W_V instead; no key or value is ever written.
`choose_form` says which is cheaper. Backends: attention_backends.py.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from longreel.contracts.errors import LongreelError
from longreel.model.data.batch import segment_ids
from longreel.model.kernels import can_run, has_triton
from longreel.model.kernels.packing import Packing
from longreel.model.kernels.side_stream import SideStream
from longreel.model.nn.attention_backends import (
    TILE_WIDTH,
    AttentionOutput,
    IdMatch,
    compute_dtype,
    padded_attention,
    reference_attention,
    varlen_attention,
)

log = logging.getLogger(__name__)

BACKENDS = ("auto", "reference", "padded", "varlen", "absorbed")
HALVES = (torch.bfloat16, torch.float16)
MAX_WIDTH = 2_048  # of a row that the varlen kernels take

# What a card does, roughly: enough to choose a form by. Units: FLOP/s of plain matrix products, of attention, bytes/s.
MATRIX_RATE, ATTENTION_RATE, MEMORY_RATE = 600e12, 300e12, 4e12


@dataclass(frozen=True)
class Requests:
    """Where packed requests begin: offsets [B+1] int64 each; and the largest counts of a request, where known."""

    target_offsets: Tensor
    history_offsets: Tensor
    max_targets: int | None = None
    max_history: int | None = None

    def packing(self) -> Packing:
        """The same for the kernels. A count that is not known is read from the device, which waits for it."""
        most_targets, most_events = (
            int(offsets.diff().max()) if count is None else count
            for offsets, count in ((self.target_offsets, self.max_targets), (self.history_offsets, self.max_history))
        )
        return Packing(self.target_offsets, self.history_offsets, most_targets, most_events)


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A layer's attention weights with its LayerNorm folded in, used on the targets' side in the absorbed form.

    weight: W_K over W_V [2 D, D] times the norm's weight. constant: what the norm's bias adds to keys and values [2 D].
    """

    weight: Tensor
    constant: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """How every layer of one forward pass attends, decided before the first layer."""

    form: str  # kv | absorbed
    backend: str  # reference | padded | varlen
    norm_gradient: bool  # the kernel hands back the gradient of LayerNorm's input instead of its output's
    requests: Requests
    softmax_scale: float
    has_history: Tensor  # [T], 1 where the target's request has events
    matches: Sequence[IdMatch | None]  # of every layer
    folded: Sequence[Folded | None]  # of every layer; None in the kv form
    side_stream: SideStream  # for the targets' small kernels, beside the history's encoding

    def attend(self, layer: int, q: Tensor, kv: Tensor, rstd: Tensor | None) -> AttentionOutput:
        """Layer's q [T, N, D] and kv [H, P, G, D], rstd [H] -> values [T, N, D], weight on equal ids [T, N]."""
        self.side_stream.join()
        values, match_weight = cross_attention(
            q,
            kv,
            self.requests,
            self.matches[layer],
            backend=self.backend,
            softmax_scale=self.softmax_scale,
            rstd=rstd,
        )
        self.side_stream.hold(q, values, match_weight)
        return values, match_weight


def plan_attention(
    backend: str,
    target: Tensor,
    history: Tensor,
    requests: Requests,
    matches: Sequence[IdMatch | None],
    *,
    heads: int,
    fold: Callable[[], Sequence[Folded]],
) -> AttentionPlan:
    """The plan for targets [T, D] over histories [H, D]; `fold` gives every layer's folded weights.

    Raises:
        LongreelError: no such backend.
    """
    number, width = max(1, requests.history_offsets.shape[0] - 1), history.shape[-1]
    targets, events = target.shape[0] / number, history.shape[0] / number
    form, chosen = choose_form_and_backend(backend, history, targets, events, heads)
    has_history = (requests.history_offsets.diff() > 0)[segment_ids(requests.target_offsets, target.shape[0])]
    return AttentionPlan(
        form=form,
        backend=chosen,
        norm_gradient=form == "absorbed" and chosen == "varlen" and width <= TILE_WIDTH,
        requests=requests,
        softmax_scale=(width // heads) ** -0.5,
        has_history=has_history.to(target.dtype),
        matches=matches,
        folded=fold() if form == "absorbed" else [None] * len(matches),
        side_stream=SideStream(history, enabled=chosen == "varlen"),
    )


def choose_form_and_backend(backend: str, x: Tensor, targets: float, events: float, heads: int) -> tuple[str, str]:
    """(form, backend of `cross_attention`) for events x [H, D] and requests of so many targets and events on average.

    `absorbed` asks for that form on whatever backend can run; `varlen` for keys and values in the fused kernel, or the
    events where it cannot take those.

    Raises:
        LongreelError: no such backend.
    """
    if backend not in BACKENDS:
        raise LongreelError(f"unknown attention backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    width = x.shape[-1]
    row_widths = {"kv": width // heads, "absorbed": width}
    fused = {form: not varlen_obstacle(x, compute_dtype(x), row_widths[form]) for form in row_widths}
    if backend == "absorbed":
        form = "absorbed"
    elif backend == "auto" and fused["kv"] and fused["absorbed"]:
        form = choose_form(targets, events, width, heads)
    elif backend in ("auto", "varlen") and fused["absorbed"] and not fused["kv"]:
        form = "absorbed"  # heads too narrow for the kernel
    else:
        form = "kv"
    fastest = "varlen" if fused[form] else "padded"
    chosen = backend if backend in ("reference", "padded", "varlen") else fastest
    _log_once(form, chosen, backend, width, heads, x.device.type)
    return form, chosen


def choose_form(targets: float, events: float, width: int, heads: int) -> str:
    """kv | absorbed: which is cheaper for requests of so many targets over so many events.

    Per event, K and V cost 4 d^2 to form, their bytes (written and read), and 4 m d to attend to; absorbed costs
    4 m h d to attend, and 4 d^2 per target to go into the events' space and back.
    """
    written = 4 * width**2 / MATRIX_RATE + 8 * width / MEMORY_RATE + 4 * targets * width / ATTENTION_RATE
    absorbed = 4 * targets * heads * width / ATTENTION_RATE + 2 * width / MEMORY_RATE
    return "absorbed" if absorbed * events + targets * 4 * width**2 / MATRIX_RATE < written * events else "kv"


@functools.cache
def _log_once(form: str, backend: str, requested: str, width: int, heads: int, device: str) -> None:
    log.info(
        "attention: form %s, backend %s (asked for %s; d=%d, h=%d, %s)", form, backend, requested, width, heads, device
    )


def cross_attention(
    q: Tensor,
    kv: Tensor,
    requests: Requests,
    match: IdMatch | None = None,
    *,
    backend: str = "auto",
    softmax_scale: float | None = None,
    rstd: Tensor | None = None,
) -> AttentionOutput:
    """softmax(q k^T softmax_scale + match) v within each request: its targets read its history, never each other's.

    Args:
        q: [T, N, D]. kv: [H, 2, N, D] keys and values, or [H, 1, 1, D] events that are both, for every head.
        match: equal ids that heads can see.
        backend: auto | reference | padded | varlen; auto takes varlen where it can run, else padded.
        softmax_scale: 1 / sqrt(D) if not given.
        rstd: [H] float32, for varlen and shared kv = (y - mean) rstd: kv's gradient is then handed back as that of y.

    Returns:
        Values [T, N, D], and with a match the attention weight [T, N] that fell on equal ids; both exactly zero for
        the targets of a request without history.

    Raises:
        LongreelError: no such backend, or it cannot run on these tensors.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if softmax_scale is None else softmax_scale
    if backend == "auto":
        backend = "padded" if varlen_obstacle(q, compute_dtype(q), q.shape[-1]) else "varlen"
    if backend not in ("reference", "padded", "varlen"):
        raise LongreelError(f"unknown attention backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    if q.shape[0] == 0 or kv.shape[0] == 0:
        zeros = torch.zeros_like(q) + 0 * (q.sum() + kv.sum())
        return zeros, None if match is None else zeros[..., 0] + 0 * match.scale
    if backend == "varlen":
        if obstacle := varlen_obstacle(q, compute_dtype(q), q.shape[-1]):
            raise LongreelError(f"attention backend varlen: {obstacle}; take auto or padded")
        output: AttentionOutput = varlen_attention(q, kv, match, scale, requests.packing(), rstd)
        return output
    if rstd is not None:
        raise LongreelError(f"attention backend {backend} hands back no gradient through a norm; leave rstd out")
    targets, events = (offsets.diff().tolist() for offsets in (requests.target_offsets, requests.history_offsets))
    attention = reference_attention if backend == "reference" else padded_attention
    return attention(q, kv, match, scale, targets, events)


def varlen_obstacle(x: Tensor, dtype: torch.dtype, width: int) -> str:
    """Why the fused kernel cannot take rows of this width on this tensor's device; empty where it can."""
    if not x.is_cuda or dtype not in HALVES:
        return f"expected half precision on CUDA, got {dtype} on {x.device.type}"
    if not has_triton():
        return "expected Triton, which is not installed (PyTorch's CUDA builds bring it)"
    if not (can_run(x) and 16 <= width <= MAX_WIDTH and width & (width - 1) == 0):
        return f"expected heads of a power of two from 16 to {MAX_WIDTH:,} wide, got {width}"
    return ""
