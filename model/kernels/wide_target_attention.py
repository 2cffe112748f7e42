"""The same attention over events too wide for one tile: its weights written out, in plain products.

For shared keys and values x^ [H, D] with D over 256, queries [T, N, D] (absorbed attention of wide models). Weights are
m N numbers an event, where K and V would be 2 D: at m = 16, N = 16, D = 1024 an eighth, and no K or V is formed.
Weights are kept as 2^(s - block_max), the largest score of the row in the event's block, so that they can be written
before the row's sum is known; `factor` = 2^(block_max - lse) makes them softmax. No sums in an order that varies.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from longreel.model.kernels.id_match_bits import MatchBits, equal_ids, row_bits, words_of_tile
from longreel.model.kernels.packing import SIZES, Packing
from longreel.model.kernels.request_bounds import request_bounds
from longreel.model.kernels.target_attention import KEY_TILE_PADDING, _combine_splits, split_size

BLOCK = KEY_TILE_PADDING.value  # events that share one `block_max`, and what each request's weights are padded by
SLICE, SOFTMAX_SLICE = 256, 128  # columns of an output tile; narrower where a second tile waits for its factor


@triton.jit(do_not_specialize=SIZES)
def _wide_weights(
    q_desc,
    x_desc,
    w_desc,
    p_desc,
    ds_desc,
    target_offsets,
    history_offsets,
    bits,
    head_channel,
    scale,
    block_max,
    sums,
    match_sum,
    lse,
    delta,
    d_match,
    softmax_scale,
    num_rows,
    num_events,
    words,
    N: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    WORDS: tl.constexpr,
    GRAD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A tile of x^ q^T [BN events, BM rows]: forward, weights (w), their block_max, sum and part on equal ids.

    GRAD: q is dO and w holds the forward's weights; written are p, their softmax, and dS.
    """
    b, block = tl.program_id(0), tl.program_id(2)
    first_row, first = tl.program_id(1) * BM, block * BN
    t0, rows, h0, length = request_bounds(target_offsets, history_offsets, b, N)
    if (first >= length) | (first_row >= rows):
        return
    acc = tl.zeros([BN, BM], tl.float32)
    event, row = h0.to(tl.int32) + first, (t0 * N).to(tl.int32) + first_row
    for k in tl.range(0, D, BK, num_stages=STAGES):
        acc = tl.dot(x_desc.load([event, k]), q_desc.load([row, k]).T, acc)
    offs_m, offs_n = first_row + tl.arange(0, BM), tl.arange(0, BN)
    row_ok, n_ok = offs_m < rows, first + offs_n < length
    where = t0 * N + offs_m
    if C > 0:
        channel = tl.load(head_channel + offs_m % N)
        bit, word = row_bits(offs_m // N, row_ok)
        equal = equal_ids(
            bits,
            num_events,
            words,
            h0 + first + offs_n,
            n_ok,
            bit,
            word,
            channel,
            first_row // N // 32,
            C,
            WORDS,
            False,
            True,
        )
    at = block * num_rows + where
    if GRAD:
        factor = tl.exp2(tl.load(block_max + at, mask=row_ok, other=0.0) - tl.load(lse + where, mask=row_ok, other=0.0))
        factor = tl.where(row_ok, factor, 0.0)
        p = w_desc.load([event + b * BN, first_row]).to(tl.float32) * factor[None, :]
        if C > 0:
            acc += tl.where(equal, tl.load(d_match + where, mask=row_ok, other=0.0)[None, :], 0.0)
        ds = p * (acc - tl.load(delta + where, mask=row_ok, other=0.0)[None, :]) * softmax_scale
        ds = tl.where(row_ok[None, :] & n_ok[:, None], ds, 0.0)
        p = tl.where(row_ok[None, :] & n_ok[:, None], p, 0.0)
        p_desc.store([event + b * BN, first_row], p.to(p_desc.dtype))
        ds_desc.store([event + b * BN, first_row], ds.to(ds_desc.dtype))
    else:
        s = acc * (softmax_scale * 1.4426950408889634)
        if C > 0:
            s += tl.where(equal, tl.load(scale + offs_m % N).to(tl.float32)[None, :] * 1.4426950408889634, 0.0)
        s = tl.where(n_ok[:, None], s, -float("inf"))
        tile_max = tl.max(s, 0)
        p = tl.exp2(s - tile_max[None, :])
        w_desc.store([event + b * BN, first_row], p.to(w_desc.dtype))
        tl.store(block_max + at, tile_max, mask=row_ok)
        tl.store(sums + at, tl.sum(p, 0), mask=row_ok)
        if C > 0:
            tl.store(match_sum + at, tl.sum(tl.where(equal, p, 0.0), 0), mask=row_ok)


@triton.jit(do_not_specialize=SIZES)
def _wide_weighted_sum(
    x_desc,
    w_desc,
    target_offsets,
    history_offsets,
    bits,
    head_channel,
    block_max,
    lse,
    match_weight,
    out,
    ds_match_out,
    part,
    part_match,
    split_keys,
    num_rows,
    num_events,
    words,
    N: tl.constexpr,
    D: tl.constexpr,
    DT: tl.constexpr,
    C: tl.constexpr,
    WORDS: tl.constexpr,
    SOFTMAX: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """DT columns of w^T x^ for one block of rows over one split of the events.

    SOFTMAX: w are weights before their factor. Otherwise w is dS, and its sum over equal ids is as in `_attn_bwd_q`.
    """
    b, split = tl.program_id(0), tl.program_id(2)
    column, first_row = tl.program_id(1) % (D // DT) * DT, tl.program_id(1) // (D // DT) * BM
    t0, rows, h0, length = request_bounds(target_offsets, history_offsets, b, N)
    begin = split * split_keys
    if (first_row >= rows) | ((begin >= length) & (split > 0)):
        return
    end = tl.minimum(begin + split_keys, length)
    offs_m, offs_n, offs_d = first_row + tl.arange(0, BM), tl.arange(0, BN), column + tl.arange(0, DT)
    row_ok = offs_m < rows
    where = (t0 * N + offs_m).to(tl.int64)
    if C > 0:
        channel = tl.load(head_channel + offs_m % N)
        bit, word = row_bits(offs_m // N, row_ok)
        first_word = first_row // N // 32
        share = tl.load(match_weight + where, mask=row_ok, other=0.0)
    if SOFTMAX:
        row_lse = tl.load(lse + where, mask=row_ok, other=0.0)
    acc, match_sum = tl.zeros([BM, DT], tl.float32), tl.zeros([BM], tl.float32)
    for n in tl.range(begin, end, BN, num_stages=STAGES):
        x = x_desc.load([h0.to(tl.int32) + n, column])
        w = w_desc.load([h0.to(tl.int32) + b * 128 + n, first_row])
        if SOFTMAX:
            factor = tl.exp2(tl.load(block_max + n // 128 * num_rows + where, mask=row_ok, other=0.0) - row_lse)
            acc += tl.dot(w.T, x) * factor[:, None]
        else:
            acc = tl.dot(w.T, x, acc)
            if C > 0:
                n_ok = n + offs_n < end
                equal = equal_ids(
                    bits,
                    num_events,
                    words,
                    h0 + n + offs_n,
                    n_ok,
                    bit,
                    word,
                    channel,
                    first_word,
                    C,
                    WORDS,
                    False,
                    False,
                )
                match_sum += tl.sum(w.T.to(tl.float32) * (tl.where(equal, 1.0, 0.0) - share[:, None]), 1)
    if length <= split_keys:
        tl.store(out + where[:, None] * D + offs_d, acc.to(out.dtype.element_ty), mask=row_ok[:, None])
        if C > 0:
            tl.store(ds_match_out + where, match_sum, mask=row_ok & (column == 0))
    else:
        where += split.to(tl.int64) * num_rows
        tl.store(part + where[:, None] * D + offs_d, acc, mask=row_ok[:, None])
        if C > 0:
            tl.store(part_match + where, match_sum, mask=row_ok & (column == 0))


@triton.jit
def _wide_bwd_events(
    q_desc,
    do_desc,
    p_desc,
    ds_desc,
    target_offsets,
    history_offsets,
    dx,
    N: tl.constexpr,
    D: tl.constexpr,
    DT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """DT columns of dx^ = dS q + P dO for one block of events, over all rows of its request."""
    b, column, first = tl.program_id(0), tl.program_id(1) * DT, tl.program_id(2) * BN
    t0, rows, h0, length = request_bounds(target_offsets, history_offsets, b, N)
    if first >= length:
        return
    acc = tl.zeros([BN, DT], tl.float32)
    at, row = h0.to(tl.int32) + b * 128 + first, (t0 * N).to(tl.int32)
    for r in tl.range(0, rows, BM, num_stages=STAGES):
        acc = tl.dot(ds_desc.load([at, r]), q_desc.load([row + r, column]), acc)
        acc = tl.dot(p_desc.load([at, r]), do_desc.load([row + r, column]), acc)
    offs_n = first + tl.arange(0, BN)
    to = (h0 + offs_n).to(tl.int64)[:, None] * D + column + tl.arange(0, DT)
    tl.store(dx + to, acc.to(dx.dtype.element_ty), mask=(offs_n < length)[:, None])


WEIGHTS = {"BM": 64, "BN": BLOCK, "BK": 64, "STAGES": 3, "num_warps": 4}
WEIGHTED_SUM = {"BM": 128, "BN": 64, "STAGES": 3, "num_warps": 8}
BWD_EVENTS = {"BM": 64, "BN": 128, "STAGES": 2, "num_warps": 8}


def _desc(x: Tensor, rows: int, cols: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), [x.shape[1], 1], [rows, cols])


def _slice(width: int, at_most: int) -> int:
    return min(at_most, width & -width)


class WideTargetAttention(torch.autograd.Function):
    """Packed cross attention over shared wide events; arguments and results as `target_attention.TargetAttention`."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        x: Tensor,
        scale: Tensor | None,
        ids: MatchBits | None,
        packing: Packing,
        softmax_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """q [T, N, D], x^ [H, D] -> values [T, N, D], weight on equal ids [T, N] float32."""
        q, x = q.contiguous(), x.contiguous()
        (T, N, _), H, B = q.shape, x.shape[0], packing.history_offsets.shape[0] - 1
        blocks = triton.cdiv(packing.max_history, BLOCK)
        max_rows = triton.cdiv(packing.max_targets * N, WEIGHTS["BM"]) * WEIGHTS["BM"]
        w = x.new_empty(H + B * BLOCK, max_rows)
        block_max = q.new_full((blocks, T, N), -torch.inf, dtype=torch.float32)
        sums, match_sum = torch.zeros_like(block_max), torch.zeros_like(block_max) if ids is not None else block_max[:0]
        _launch_weights(q, x, w, None, None, ids, packing, scale, softmax_scale, block_max, sums, match_sum)
        row_max = block_max.amax(0)
        factor = torch.exp2(block_max - torch.where(row_max.isfinite(), row_max, 0.0))
        total = (sums * factor).sum(0)
        has_history = total > 0
        lse = torch.where(has_history, row_max + total.log2(), 0.0)
        match_weight = torch.zeros_like(lse)
        if ids is not None:
            match_weight = torch.where(has_history, (match_sum * factor).sum(0) / total, 0.0)
        out, _ = _weighted_sum(x, w, None, packing, N, T, block_max, lse, lse)
        ctx.save_for_backward(q, x, scale, w, block_max, lse, out, match_weight)
        ctx.ids, ctx.packing, ctx.softmax_scale = ids, packing, softmax_scale
        return out, match_weight

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_match_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of q, x^ and scale."""
        q, x, scale, w, block_max, lse, out, match_weight = ctx.saved_tensors
        ids, packing = ctx.ids, ctx.packing
        (T, N, D), B = q.shape, packing.history_offsets.shape[0] - 1
        d_out = d_out.to(q.dtype).contiguous()
        d_match_weight = (
            torch.zeros_like(match_weight) if d_match_weight is None else d_match_weight.float().contiguous()
        )
        delta = (d_out.float() * out.float()).sum(-1) + d_match_weight * match_weight
        p, ds, dx = torch.empty_like(w), torch.empty_like(w), torch.empty_like(x)
        _launch_weights(
            d_out, x, w, p, ds, ids, packing, scale, ctx.softmax_scale, block_max, block_max, block_max, lse, delta,
            d_match_weight,
        )  # fmt: skip
        cut, dt = BWD_EVENTS, _slice(D, SLICE)
        _wide_bwd_events[(B, D // dt, triton.cdiv(packing.max_history, cut["BN"]))](
            _desc(q.view(T * N, D), cut["BM"], dt), _desc(d_out.view(T * N, D), cut["BM"], dt),
            _desc(p, cut["BN"], cut["BM"]), _desc(ds, cut["BN"], cut["BM"]),
            packing.target_offsets, packing.history_offsets, dx, N=N, D=D, DT=dt, **cut,
        )  # fmt: skip
        dq, ds_match = _weighted_sum(x, ds, ids, packing, N, T, None, None, match_weight)
        d_scale = None if scale is None else (ds_match.sum(0) / ctx.softmax_scale).to(scale.dtype)
        return dq, dx, d_scale, None, None, None


def _launch_weights(
    rows: Tensor,
    x: Tensor,
    w: Tensor,
    p: Tensor | None,
    ds: Tensor | None,
    ids: MatchBits | None,
    packing: Packing,
    scale: Tensor | None,
    softmax_scale: float,
    block_max: Tensor,
    sums: Tensor,
    match_sum: Tensor,
    lse: Tensor | None = None,
    delta: Tensor | None = None,
    d_match_weight: Tensor | None = None,
) -> None:
    """Forward where p is None, else the gradient."""
    (T, N, D), B, cut = rows.shape, packing.history_offsets.shape[0] - 1, dict(WEIGHTS)
    cut["BK"] = min(cut["BK"], D & -D)
    bm, bn, bk = cut["BM"], cut["BN"], cut["BK"]
    bits, head_channel = (ids.bits, ids.head_channel) if ids is not None else (block_max, block_max)
    channels, words = (0, 0) if ids is None else (ids.channels, ids.words)
    _wide_weights[(B, w.shape[1] // bm, triton.cdiv(packing.max_history, bn))](
        _desc(rows.view(T * N, D), bm, bk), _desc(x, bn, bk), _desc(w, bn, bm),
        _desc(w if p is None else p, bn, bm), _desc(w if ds is None else ds, bn, bm),
        packing.target_offsets, packing.history_offsets, bits, head_channel, block_max if scale is None else scale,
        block_max, sums, match_sum, block_max if lse is None else lse, block_max if delta is None else delta,
        block_max if d_match_weight is None else d_match_weight,
        softmax_scale, T * N, x.shape[0], words,
        N=N, D=D, C=channels, WORDS=words_of_tile(bm, N), GRAD=p is not None, **cut,
    )  # fmt: skip


def _weighted_sum(
    x: Tensor,
    w: Tensor,
    ids: MatchBits | None,
    packing: Packing,
    N: int,
    T: int,
    block_max: Tensor | None,
    lse: Tensor | None,
    match_weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """w [H + B BLOCK, rows], x^ [H, D] -> w^T x^ [T, N, D], and with ids (w is dS) its sum over equal ids [T, N]."""
    (H, D), B = x.shape, packing.history_offsets.shape[0] - 1
    channels, words = (0, 0) if ids is None else (ids.channels, ids.words)
    cut, dt = WEIGHTED_SUM, _slice(D, SLICE if block_max is None else SOFTMAX_SLICE)
    blocks = triton.cdiv(packing.max_targets * N, cut["BM"]) * (D // dt)
    split = split_size(H, packing.max_history, blocks)
    splits = triton.cdiv(packing.max_history, split)
    partials = splits if splits > 1 else 0
    out, ds_match = x.new_empty(T, N, D), x.new_empty(T, N, dtype=torch.float32)
    part = x.new_empty(partials, T, N, D, dtype=torch.float32)
    part_match = ds_match.new_empty(partials if channels else 0, T, N)
    bits, head_channel = (ids.bits, ids.head_channel) if ids is not None else (ds_match, ds_match)
    _wide_weighted_sum[(B, blocks, splits)](
        _desc(x, cut["BN"], dt), _desc(w, cut["BN"], cut["BM"]), packing.target_offsets, packing.history_offsets,
        bits, head_channel, ds_match if block_max is None else block_max, ds_match if lse is None else lse,
        match_weight, out, ds_match, part, part_match, split, T * N, H, words,
        N=N, D=D, DT=dt, C=channels, WORDS=words_of_tile(cut["BM"], N), SOFTMAX=block_max is not None, **cut,
    )  # fmt: skip
    if partials:
        _combine_splits[(B, triton.cdiv(packing.max_targets * N, 4))](
            packing.target_offsets, packing.history_offsets, part, ds_match, part_match, out, ds_match, ds_match, split,
            T * N, N=N, D=D, SUM=True, MATCH=channels > 0, BR=4, num_warps=4,
        )  # fmt: skip
    return out, ds_match
