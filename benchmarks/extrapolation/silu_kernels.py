"""HSTU's attention in Triton: no score is ever in memory. Each sum has one order, so that a training repeats itself.

A program takes a block of queries, or of keys for the gradients of keys and values, of one request and head, and walks
over the other side; only the block on the diagonal is masked. The longest requests' last blocks start first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, STEP = 128, 64  # events of a program, and of a step of its walk


@triton.jit
def _place(offsets, b, place, first, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK: tl.constexpr):
    """Of a block of events: their places in the request, their offsets in q, k and v, and which are there."""
    start = tl.load(offsets + b)
    length = (tl.load(offsets + b + 1) - start).to(tl.int32)
    at = first + tl.arange(0, BLOCK)
    d = tl.arange(0, DP)
    where = ((start + at) * H)[:, None] * D + d[None, :]
    return at, where + place * D, (at < length)[:, None] & (d < D)[None, :]


@triton.jit
def _product(a, b, EXACT: tl.constexpr):
    if EXACT:
        return tl.dot(a, b, input_precision="ieee")
    return tl.dot(a, b)


@triton.jit
def _weights(q, k, rows, events, scale, MASKED: tl.constexpr, EXACT: tl.constexpr):
    """SiLU of scaled scores [rows, events] and its derivative; nothing of events after the row's own."""
    s = _product(q, tl.trans(k), EXACT) * scale
    gate = tl.sigmoid(s)
    weight, slope = s * gate, gate * (1 + s * (1 - gate)) * scale
    if MASKED:
        seen = events[None, :] <= rows[:, None]
        weight, slope = tl.where(seen, weight, 0.0), tl.where(seen, slope, 0.0)
    return weight, slope


@triton.jit
def _read(q, k, v, offsets, out, scale, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr,
          BN: tl.constexpr, EXACT: tl.constexpr):  # fmt: skip
    """out = sum of SiLU(q k) v over a row's past and itself, over their number."""
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    length = (tl.load(offsets + b + 1) - tl.load(offsets + b)).to(tl.int32)
    if first >= length:
        return
    rows, where, there = _place(offsets, b, h, first, H, D, DP, BM)
    query = tl.load(q + where, mask=there, other=0.0)
    total = tl.zeros([BM, DP], tl.float32)
    for n in range(0, first, BN):
        events, at, ok = _place(offsets, b, h, n, H, D, DP, BN)
        weight, _ = _weights(query, tl.load(k + at, mask=ok, other=0.0), rows, events, scale, False, EXACT)
        value = tl.load(v + at, mask=ok, other=0.0)
        total += _product(weight.to(value.dtype), value, EXACT)
    for n in range(first, min(first + BM, length), BN):
        events, at, ok = _place(offsets, b, h, n, H, D, DP, BN)
        weight, _ = _weights(query, tl.load(k + at, mask=ok, other=0.0), rows, events, scale, True, EXACT)
        value = tl.load(v + at, mask=ok, other=0.0)
        total += _product(weight.to(value.dtype), value, EXACT)
    tl.store(out + where, (total / (rows + 1)[:, None]).to(out.dtype.element_ty), mask=there)


@triton.jit
def _grad_queries(q, k, v, offsets, grad, dq, scale, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
                  BM: tl.constexpr, BN: tl.constexpr, EXACT: tl.constexpr):  # fmt: skip
    """`grad` is that of the sums, divided by their numbers already."""
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    length = (tl.load(offsets + b + 1) - tl.load(offsets + b)).to(tl.int32)
    if first >= length:
        return
    rows, where, there = _place(offsets, b, h, first, H, D, DP, BM)
    query, g = tl.load(q + where, mask=there, other=0.0), tl.load(grad + where, mask=there, other=0.0)
    total = tl.zeros([BM, DP], tl.float32)
    for n in range(0, first, BN):
        events, at, ok = _place(offsets, b, h, n, H, D, DP, BN)
        key = tl.load(k + at, mask=ok, other=0.0)
        _, slope = _weights(query, key, rows, events, scale, False, EXACT)
        ds = _product(g, tl.trans(tl.load(v + at, mask=ok, other=0.0)), EXACT) * slope
        total += _product(ds.to(key.dtype), key, EXACT)
    for n in range(first, min(first + BM, length), BN):
        events, at, ok = _place(offsets, b, h, n, H, D, DP, BN)
        key = tl.load(k + at, mask=ok, other=0.0)
        _, slope = _weights(query, key, rows, events, scale, True, EXACT)
        ds = _product(g, tl.trans(tl.load(v + at, mask=ok, other=0.0)), EXACT) * slope
        total += _product(ds.to(key.dtype), key, EXACT)
    tl.store(dq + where, total.to(dq.dtype.element_ty), mask=there)


@triton.jit
def _grad_keys(q, k, v, offsets, grad, dk, dv, scale, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
               BM: tl.constexpr, BN: tl.constexpr, EXACT: tl.constexpr):  # fmt: skip
    """A block of BM keys and the queries from its first on: the first of them on the diagonal."""
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    first = tl.program_id(0) * BM
    length = (tl.load(offsets + b + 1) - tl.load(offsets + b)).to(tl.int32)
    if first >= length:
        return
    events, where, there = _place(offsets, b, h, first, H, D, DP, BM)
    key, value = tl.load(k + where, mask=there, other=0.0), tl.load(v + where, mask=there, other=0.0)
    keys, values = tl.zeros([BM, DP], tl.float32), tl.zeros([BM, DP], tl.float32)
    for n in range(first, min(first + BM, length), BN):
        rows, at, ok = _place(offsets, b, h, n, H, D, DP, BN)
        query, g = tl.load(q + at, mask=ok, other=0.0), tl.load(grad + at, mask=ok, other=0.0)
        weight, slope = _weights(query, key, rows, events, scale, True, EXACT)
        values += _product(tl.trans(weight.to(g.dtype)), g, EXACT)
        ds = _product(g, tl.trans(value), EXACT) * slope
        keys += _product(tl.trans(ds.to(query.dtype)), query, EXACT)
    for n in range(first + BM, length, BN):
        rows, at, ok = _place(offsets, b, h, n, H, D, DP, BN)
        query, g = tl.load(q + at, mask=ok, other=0.0), tl.load(grad + at, mask=ok, other=0.0)
        weight, slope = _weights(query, key, rows, events, scale, False, EXACT)
        values += _product(tl.trans(weight.to(g.dtype)), g, EXACT)
        ds = _product(g, tl.trans(value), EXACT) * slope
        keys += _product(tl.trans(ds.to(query.dtype)), query, EXACT)
    tl.store(dk + where, keys.to(dk.dtype.element_ty), mask=there)
    tl.store(dv + where, values.to(dv.dtype.element_ty), mask=there)


class SiluAttention(torch.autograd.Function):
    """See `silu_attention.silu_attention`; q, k, v [N, H, D] contiguous, offsets [B+1], on one device."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int) -> Tensor:  # type: ignore[no-untyped-def]
        """[N, H, D]."""
        out = torch.zeros_like(q)
        ctx.save_for_backward(q, k, v, offsets)
        ctx.longest = longest
        _launch(_read, q, k, v, offsets, longest, out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def, override]
        """Of q, k and v."""
        q, k, v, offsets = ctx.saved_tensors
        starts = torch.repeat_interleave(offsets[:-1], offsets.diff(), output_size=len(q))
        number = torch.arange(len(q), device=q.device) - starts + 1
        grad = (gradient / number[:, None, None]).to(q.dtype).contiguous()
        dq, dk, dv = (torch.zeros_like(each) for each in (q, k, v))
        _launch(_grad_queries, q, k, v, offsets, ctx.longest, grad, dq)
        _launch(_grad_keys, q, k, v, offsets, ctx.longest, grad, dk, dv)
        return dq, dk, dv, None, None


def _launch(kernel, q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, *rest: Tensor) -> None:  # type: ignore[no-untyped-def]
    _, heads, width = q.shape
    grid = (triton.cdiv(longest, ROWS), (len(offsets) - 1) * heads)
    if grid[0] and grid[1]:
        kernel[grid](
            q, k, v, offsets, *rest, width**-0.5,
            H=heads, D=width, DP=max(16, triton.next_power_of_2(width)), BM=ROWS, BN=STEP,
            EXACT=q.dtype == torch.float32, num_warps=4,
        )  # fmt: skip
