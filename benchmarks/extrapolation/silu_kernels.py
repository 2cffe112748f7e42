"""Three kernels for causal SiLU attention on a GPU; each computes the scores again, so none is written.

A program owns one block of rows of one head of one request and streams the rows that it needs past it: `_read` and
`_grad_queries` own queries and stream earlier keys, `_grad_keys` owns keys and streams later queries. So every sum has
one owner and one order: the same bits twice. Only tiles on the diagonal are masked. The grid is one axis, the only one
that may pass 65,535; the blocks of a head lie next to each other, so that what they stream is in the cache, the longest
first, so that the GPU does not wait for one of them.

With s = q k^T / sqrt(Dh) and h = s / 2, SiLU(s) = h + h tanh(h): one special function a score.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from longreel.model.data.batch import segment_ids

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # the interpreter has no inline assembly


@triton.jit
def _tanh(x, EXACT: tl.constexpr):
    """tanh; where half precision follows, by one instruction (relative error 2^-11)."""
    if EXACT:
        return 2 / (1 + tl.exp2(-2.8853900817779268 * x)) - 1
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _rows(x, first, length, N: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Rows first .. first + N - 1 of one head of one request -> [N, D], zeros past its length and width."""
    row, column = first + tl.arange(0, N)[:, None], tl.arange(0, D)[None, :]
    mask = row < length
    if WIDTH < D:
        mask = mask & (column < WIDTH)
    return tl.load(x + row * WIDTH + column, mask=mask, other=0.0)


@triton.jit
def _write(x, acc, first, length, N: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """The other way."""
    row, column = first + tl.arange(0, N)[:, None], tl.arange(0, D)[None, :]
    tl.store(x + row * WIDTH + column, acc.to(x.dtype.element_ty), mask=(row < length) & (column < WIDTH))


@triton.jit
def _halves(a, b, half_scale, EXACT: tl.constexpr):
    """h = a b^T half_scale, half of each score, and its tanh."""
    h = tl.dot(a, b.T, input_precision="ieee") * half_scale
    return h, _tanh(h, EXACT)


@triton.jit
def _slope(h, t):
    """SiLU'(2 h), t = tanh(h)."""
    return (0.5 + 0.5 * t) * (1 + h - h * t)


@triton.jit
def _request(offsets, events, blocks, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """This program's head of a request: where its rows begin, how many there are, and the number of its block."""
    request, head = tl.program_id(0) // blocks // HEADS, tl.program_id(0) // blocks % HEADS
    start = tl.load(offsets + request)
    length = (tl.load(offsets + request + 1) - start).to(tl.int32)
    return (head.to(tl.int64) * events + start) * WIDTH, length, tl.program_id(0) % blocks


@triton.jit
def _read_tile(
    q, k, v, acc, row, n, length, half_scale,
    WIDTH: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """What keys n .. n + STEP - 1 give to the queries."""
    h, t = _halves(q, _rows(k, n, length, STEP, WIDTH, D), half_scale, EXACT)
    weight = h + h * t
    if MASKED:
        weight = tl.where(n + tl.arange(0, STEP)[None, :] <= row[:, None], weight, 0.0)
    return tl.dot(weight.to(q.dtype), _rows(v, n, length, STEP, WIDTH, D), acc, input_precision="ieee")


@triton.jit(do_not_specialize=["events", "blocks"])
def _read(
    q, k, v, offsets, out, events, blocks, half_scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
    STAGES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """A block of queries -> what they read."""
    at, length, block = _request(offsets, events, blocks, HEADS, WIDTH)
    first = (blocks - 1 - block) * OWN
    if first >= length:
        return
    k, v, row = k + at, v + at, first + tl.arange(0, OWN)
    mine = _rows(q + at, first, length, OWN, WIDTH, D)
    acc = tl.zeros([OWN, D], tl.float32)
    for n in tl.range(0, first, STEP, num_stages=STAGES):
        acc = _read_tile(mine, k, v, acc, row, n, length, half_scale, WIDTH, D, STEP, EXACT, False)
    for n in tl.range(first, tl.minimum(first + OWN, length), STEP, num_stages=1):
        acc = _read_tile(mine, k, v, acc, row, n, length, half_scale, WIDTH, D, STEP, EXACT, True)
    _write(out + at, acc / (row + 1)[:, None], first, length, OWN, WIDTH, D)


@triton.jit
def _grad_queries_tile(
    q, d_out, k, v, acc, row, n, length, half_scale,
    WIDTH: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """What keys n .. n + STEP - 1 give to dQ."""
    keys = _rows(k, n, length, STEP, WIDTH, D)
    h, t = _halves(q, keys, half_scale, EXACT)
    ds = tl.dot(d_out, _rows(v, n, length, STEP, WIDTH, D).T, input_precision="ieee") * _slope(h, t)
    if MASKED:
        ds = tl.where(n + tl.arange(0, STEP)[None, :] <= row[:, None], ds, 0.0)
    return tl.dot(ds.to(q.dtype), keys, acc, input_precision="ieee")


@triton.jit(do_not_specialize=["events", "blocks"])
def _grad_queries(
    q, k, v, d_out, offsets, dq, events, blocks, half_scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
    STAGES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """A block of queries, and the gradient of their sums -> dQ."""
    at, length, block = _request(offsets, events, blocks, HEADS, WIDTH)
    first = (blocks - 1 - block) * OWN
    if first >= length:
        return
    k, v, row = k + at, v + at, first + tl.arange(0, OWN)
    mine, given = _rows(q + at, first, length, OWN, WIDTH, D), _rows(d_out + at, first, length, OWN, WIDTH, D)
    acc = tl.zeros([OWN, D], tl.float32)
    for n in tl.range(0, first, STEP, num_stages=STAGES):
        acc = _grad_queries_tile(mine, given, k, v, acc, row, n, length, half_scale, WIDTH, D, STEP, EXACT, False)
    for n in tl.range(first, tl.minimum(first + OWN, length), STEP, num_stages=1):
        acc = _grad_queries_tile(mine, given, k, v, acc, row, n, length, half_scale, WIDTH, D, STEP, EXACT, True)
    _write(dq + at, acc * (2 * half_scale), first, length, OWN, WIDTH, D)


@triton.jit
def _grad_keys_tile(
    k, v, q, d_out, acc_k, acc_v, row, m, length, half_scale,
    WIDTH: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr, EXACT: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """What queries m .. m + STEP - 1 give to dK and dV; those past the request's end are zero and give nothing."""
    queries, given = _rows(q, m, length, STEP, WIDTH, D), _rows(d_out, m, length, STEP, WIDTH, D)
    h, t = _halves(k, queries, half_scale, EXACT)  # [keys, queries]
    weight, ds = h + h * t, tl.dot(v, given.T, input_precision="ieee") * _slope(h, t)
    if MASKED:
        reads = row[:, None] <= m + tl.arange(0, STEP)[None, :]
        weight, ds = tl.where(reads, weight, 0.0), tl.where(reads, ds, 0.0)
    acc_v = tl.dot(weight.to(k.dtype), given, acc_v, input_precision="ieee")
    return tl.dot(ds.to(k.dtype), queries, acc_k, input_precision="ieee"), acc_v


@triton.jit(do_not_specialize=["events", "blocks"])
def _grad_keys(
    q, k, v, d_out, offsets, dk, dv, events, blocks, half_scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
    STAGES: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """A block of keys and values -> dK, dV. The first are read most often, so they come first."""
    at, length, block = _request(offsets, events, blocks, HEADS, WIDTH)
    first = block * OWN
    if first >= length:
        return
    q, d_out, row = q + at, d_out + at, first + tl.arange(0, OWN)
    keys, values = _rows(k + at, first, length, OWN, WIDTH, D), _rows(v + at, first, length, OWN, WIDTH, D)
    acc_k, acc_v = tl.zeros([OWN, D], tl.float32), tl.zeros([OWN, D], tl.float32)
    for m in tl.range(first, tl.minimum(first + OWN, length), STEP, num_stages=1):
        acc_k, acc_v = _grad_keys_tile(
            keys, values, q, d_out, acc_k, acc_v, row, m, length, half_scale, WIDTH, D, STEP, EXACT, True
        )
    for m in tl.range(first + OWN, length, STEP, num_stages=STAGES):
        acc_k, acc_v = _grad_keys_tile(
            keys, values, q, d_out, acc_k, acc_v, row, m, length, half_scale, WIDTH, D, STEP, EXACT, False
        )
    _write(dk + at, acc_k * (2 * half_scale), first, length, OWN, WIDTH, D)
    _write(dv + at, acc_v, first, length, OWN, WIDTH, D)


@dataclass(frozen=True)
class Tiles:
    """How a kernel is cut: rows that a program owns, a multiple of those of a tile that it streams; tiles in flight."""

    own: int
    step: int
    stages: int


def tiles(exact: bool, backward: bool) -> Tiles:
    """At a width of 16 the registers of a Hopper multiprocessor hold four programs of four warps or more.

    Single precision (exact) is not computed by tensor cores: its tiles are smaller.
    """
    if exact:
        return Tiles(32, 32, 1)
    return Tiles(64, 64, 3) if backward else Tiles(128, 32, 3)


def launch(
    kernel: Any, inputs: tuple[Tensor, ...], offsets: Tensor, outputs: tuple[Tensor, ...], max_length: int
) -> None:
    """Run a kernel over all requests, heads and blocks. Tensors [H, N, Dh] contiguous, offsets [B+1] int64."""
    heads, events, width = inputs[0].shape
    exact = inputs[0].dtype == torch.float32
    cut = tiles(exact, backward=kernel is not _read)
    blocks = triton.cdiv(max_length, cut.own)
    kernel[((offsets.shape[0] - 1) * heads * blocks,)](
        *inputs, offsets, *outputs, events, blocks, 0.5 / width**0.5, HEADS=heads, WIDTH=width, D=max(16, width),
        OWN=cut.own, STEP=cut.step, STAGES=cut.stages, EXACT=exact or INTERPRETED, num_warps=4,
    )  # fmt: skip


class SiLUAttention(torch.autograd.Function):
    """See `benchmarks.extrapolation.silu_attention.silu_attention`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, max_length: int) -> Tensor:  # type: ignore[override]
        """[H, N, Dh] each -> [H, N, Dh]."""
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        if max_length:
            launch(_read, (q, k, v), offsets, (out,), max_length)
        ctx.save_for_backward(q, k, v, offsets)
        ctx.max_length = max_length
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of q, k and v."""
        q, k, v, offsets = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        if ctx.max_length:
            events = q.shape[1]
            read = torch.arange(1, events + 1, device=q.device) - offsets[segment_ids(offsets, events)]
            d_sum = (d_out.float() / read[:, None]).to(q.dtype).contiguous()
            launch(_grad_queries, (q, k, v, d_sum), offsets, (dq,), ctx.max_length)
            launch(_grad_keys, (q, k, v, d_sum), offsets, (dk, dv), ctx.max_length)
        return dq, dk, dv, None, None
