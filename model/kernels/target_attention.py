"""Attention of targets over packed histories on a GPU: flash attention with few rows, long keys, equal ids in scores.

Rows. A request's m targets times the N/G heads that share one of the G key groups are the rows of one matrix, so that
tensor cores see full tiles: with ordinary keys (G = N) there are m rows a head, with absorbed keys (G = 1, the encoded
history itself) there are m N. Row r of group g is target r // (N/G), head g N/G + r % (N/G).

Requests are the first axis of every grid, the only one that may pass 65,535.

Deterministic. Long histories are split over programs; partial results are combined in the order of the splits. Key
gradients are owned by key blocks, query gradients by (rows, split). Nothing is added atomically.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from longreel.model.kernels.id_match_bits import MatchBits, equal_ids, row_bits, words_of_tile
from longreel.model.kernels.packing import SIZES, Packing
from longreel.model.kernels.request_bounds import request_bounds

# Rows behind each request's dS, so that whole tiles are stored and read: the keys of a tile.
KEY_TILE_PADDING = tl.constexpr(128)


@triton.jit
def _attn_fwd_tile(
    q,
    k_desc,
    v_desc,
    h0,
    n,
    end,
    group,
    bits,
    num_events,
    words,
    bit,
    word,
    channel,
    first_word,
    bias,
    factor,
    row_max,
    total,
    match_sum,
    acc,
    HPG: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    WORDS: tl.constexpr,
    SHARED: tl.constexpr,
    BN: tl.constexpr,
    TAIL: tl.constexpr,
):
    """One tile of keys, n .. n + BN - 1, into the running softmax; TAIL: those from `end` on are no keys of it."""
    k = k_desc.load([h0.to(tl.int32) + n, group * D])
    s = tl.dot(q, k.T)
    n_ok = n + tl.arange(0, BN) < end
    if TAIL:
        s += tl.where(n_ok, 0.0, -float("inf"))[None, :]
    if C > 0:
        event = h0 + n + tl.arange(0, BN)
        eq = equal_ids(
            bits, num_events, words, event, n_ok, bit, word, channel, first_word, C, WORDS, HPG == 1, False
        )  # fmt: skip
        s += tl.where(eq, bias[:, None], 0.0)
    new_max = tl.maximum(row_max, tl.max(s, 1) * factor)
    p = tl.exp2(s * factor - new_max[:, None])  # one multiply-add an element: the scale is inside
    rescale = tl.exp2(row_max - new_max)
    total = total * rescale + tl.sum(p, 1)
    if C > 0:
        match_sum = match_sum * rescale + tl.sum(tl.where(eq, p, 0.0), 1)
    acc = acc * rescale[:, None]
    if SHARED:
        acc = tl.dot(p.to(k.dtype), k, acc)
    else:
        acc = tl.dot(p.to(k.dtype), v_desc.load([h0.to(tl.int32) + n, group * D]), acc)
    return new_max, total, match_sum, acc


@triton.jit(do_not_specialize=SIZES)
def _attn_fwd(
    q_desc,
    k_desc,
    v_desc,
    target_offsets,
    history_offsets,
    bits,
    head_channel,
    scale,
    out,
    lse,
    match_weight,
    part,
    part_lse,
    part_match,
    softmax_scale,
    split_keys,
    num_rows,
    num_events,
    words,
    N: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    WORDS: tl.constexpr,
    SHARED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One block of rows over one split of the keys -> values, log2-sum-exp, and weight on equal ids."""
    HPG: tl.constexpr = N // G
    b, group, split = tl.program_id(0), tl.program_id(1) % G, tl.program_id(2)
    first_row = tl.program_id(1) // G * BM
    t0, rows, h0, length = request_bounds(target_offsets, history_offsets, b, HPG)
    begin = split * split_keys
    if (first_row >= rows) | ((begin >= length) & (split > 0)):
        return
    end = tl.minimum(begin + split_keys, length)
    offs_m = first_row + tl.arange(0, BM)
    row_ok = offs_m < rows
    head = group * HPG + offs_m % HPG
    if C > 0:
        if HPG == 1:
            channel = tl.load(head_channel + group)
        else:
            channel = tl.load(head_channel + head)
        bit, word = row_bits(offs_m // HPG, row_ok)
        first_word = first_row // HPG // 32
        bias = tl.load(scale + head).to(tl.float32) / softmax_scale
    else:
        channel, bit, word, first_word, bias = 0, 0, 0, 0, 0  # no tile looks at them
    q = q_desc.load([(t0 * HPG).to(tl.int32) + first_row, group * D])
    row_max = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    match_sum = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    factor = softmax_scale * 1.4426950408889634
    full_end = end - (end - begin) % BN
    for n in tl.range(begin, full_end, BN, num_stages=STAGES):
        row_max, total, match_sum, acc = _attn_fwd_tile(
            q, k_desc, v_desc, h0, n, end, group, bits, num_events, words, bit, word, channel, first_word, bias,
            factor, row_max, total, match_sum, acc, N // G, D, C, WORDS, SHARED, BN, False,
        )  # fmt: skip
    if full_end < end:
        row_max, total, match_sum, acc = _attn_fwd_tile(
            q, k_desc, v_desc, h0, full_end, end, group, bits, num_events, words, bit, word, channel, first_word, bias,
            factor, row_max, total, match_sum, acc, N // G, D, C, WORDS, SHARED, BN, True,
        )  # fmt: skip
    inverse = tl.where(total > 0, 1 / total, 0.0)
    acc = acc * inverse[:, None]
    match_sum = match_sum * inverse
    lse_log2 = tl.where(total > 0, row_max + tl.log2(total), 0.0)
    where = ((t0 * HPG + offs_m) * G + group).to(tl.int64)
    offs_d = tl.arange(0, D)
    if length <= split_keys:
        tl.store(out + where[:, None] * D + offs_d, acc.to(out.dtype.element_ty), mask=row_ok[:, None])
        tl.store(lse + where, lse_log2, mask=row_ok)
        if C > 0:
            tl.store(match_weight + where, match_sum, mask=row_ok)
    else:
        where += split.to(tl.int64) * num_rows
        tl.store(part + where[:, None] * D + offs_d, acc, mask=row_ok[:, None])
        tl.store(part_lse + where, lse_log2, mask=row_ok)
        if C > 0:
            tl.store(part_match + where, match_sum, mask=row_ok)


@triton.jit(do_not_specialize=SIZES)
def _combine_splits(
    target_offsets,
    history_offsets,
    part,
    part_lse,
    part_match,
    out,
    lse,
    match_weight,
    split_keys,
    num_rows,
    N: tl.constexpr,
    D: tl.constexpr,
    SUM: tl.constexpr,
    MATCH: tl.constexpr,
    BR: tl.constexpr,
):
    """Splits of each row -> the row, always in the order of the splits: a softmax average, or (SUM) a plain sum."""
    b = tl.program_id(0)
    t0 = tl.load(target_offsets + b)
    rows = (tl.load(target_offsets + b + 1) - t0).to(tl.int32) * N
    length = (tl.load(history_offsets + b + 1) - tl.load(history_offsets + b)).to(tl.int32)
    offs_r, offs_d = tl.program_id(1) * BR + tl.arange(0, BR), tl.arange(0, D)
    if (length <= split_keys) | (tl.program_id(1) * BR >= rows):
        return
    ok = offs_r < rows
    where = (t0 * N + offs_r).to(tl.int64)
    splits = tl.cdiv(length, split_keys)
    acc, match_sum = tl.zeros([BR, D], tl.float32), tl.zeros([BR], tl.float32)
    if SUM:
        for s in range(splits):
            at = where + s * num_rows
            acc += tl.load(part + at[:, None] * D + offs_d, mask=ok[:, None], other=0.0)
            if MATCH:
                match_sum += tl.load(part_match + at, mask=ok, other=0.0)
    else:
        row_max = tl.full([BR], -float("inf"), tl.float32)
        for s in range(splits):
            row_max = tl.maximum(row_max, tl.load(part_lse + where + s * num_rows, mask=ok, other=0.0))
        total = tl.zeros([BR], tl.float32)
        for s in range(splits):
            at = where + s * num_rows
            weight = tl.exp2(tl.load(part_lse + at, mask=ok, other=0.0) - row_max)
            total += weight
            acc += weight[:, None] * tl.load(part + at[:, None] * D + offs_d, mask=ok[:, None], other=0.0)
            if MATCH:
                match_sum += weight * tl.load(part_match + at, mask=ok, other=0.0)
        acc = acc / total[:, None]
        match_sum = match_sum / total
        tl.store(lse + where, row_max + tl.log2(total), mask=ok)
    tl.store(out + where[:, None] * D + offs_d, acc.to(out.dtype.element_ty), mask=ok[:, None])
    if MATCH:
        tl.store(match_weight + where, match_sum, mask=ok)


@triton.jit(do_not_specialize=SIZES)
def _attn_bwd_kv(
    q_desc,
    k_desc,
    v_desc,
    do_desc,
    target_offsets,
    history_offsets,
    bits,
    head_channel,
    scale,
    lse,
    delta,
    d_match,
    rstd,
    d_kv,
    ds_desc,
    softmax_scale,
    max_rows,
    num_events,
    words,
    N: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    WORDS: tl.constexpr,
    SHARED: tl.constexpr,
    NORM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One block of keys over all rows -> dK and dV (or d of the shared keys), and dS for the query gradients.

    dS: [H + B KEY_TILE_PADDING, G max_rows], a request's rows starting at its first event + b KEY_TILE_PADDING;
    zero past its end.

    NORM: the shared keys are x^ = (y - mean) rstd, and what is written is the gradient of y.
    """
    HPG: tl.constexpr = N // G
    b, group, first = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BN
    t0, rows, h0, length = request_bounds(target_offsets, history_offsets, b, HPG)
    if first >= length:
        return
    offs_m, offs_n = tl.arange(0, BM), tl.arange(0, BN)
    n_ok = first + offs_n < length
    events = (h0 + first + offs_n).to(tl.int64)
    k = k_desc.load([h0.to(tl.int32) + first, group * D])
    acc_k = tl.zeros([BN, D], tl.float32)
    if not SHARED:
        v = v_desc.load([h0.to(tl.int32) + first, group * D])
        acc_v = tl.zeros([BN, D], tl.float32)
    factor = softmax_scale * 1.4426950408889634
    norm_dot = tl.zeros([BN], tl.float32)  # sum over the width of d x^ times x^, without holding both
    for r in tl.range(0, rows, BM, num_stages=STAGES):
        row = (t0 * HPG).to(tl.int32) + r
        row_ok = r + offs_m < rows
        where = (t0 * HPG + r + offs_m) * G + group
        row_lse = tl.load(lse + where, mask=row_ok, other=float("inf"))  # rows of another request weigh 0
        row_delta = tl.load(delta + where, mask=row_ok, other=0.0)
        q = q_desc.load([row, group * D])
        do = do_desc.load([row, group * D])
        qk = tl.dot(k, q.T)
        if SHARED:
            do_k = tl.dot(k, do.T)
        else:
            do_k = tl.dot(v, do.T)
        s, dp = qk * factor, do_k
        if C > 0:
            head = group * HPG + (r + offs_m) % HPG
            if HPG == 1:
                channel = tl.load(head_channel + group)
            else:
                channel = tl.load(head_channel + head)
            bit, word = row_bits((r + offs_m) // HPG, row_ok)
            bias = tl.load(scale + head).to(tl.float32) * 1.4426950408889634
            eq = equal_ids(
                bits, num_events, words, events, n_ok, bit, word, channel, r // HPG // 32, C, WORDS, HPG == 1, True
            )
            s += tl.where(eq, bias[None, :], 0.0)
            dp += tl.where(eq, tl.load(d_match + where, mask=row_ok, other=0.0)[None, :], 0.0)
        p = tl.where(n_ok[:, None], tl.exp2(s - row_lse[None, :]), 0.0)
        ds = (p * (dp - row_delta[None, :]) * softmax_scale).to(k.dtype)
        acc_k = tl.dot(ds, q, acc_k)
        if SHARED:
            acc_k = tl.dot(p.to(k.dtype), do, acc_k)
            if NORM:
                norm_dot += tl.sum(ds.to(tl.float32) * qk + p * do_k, 1)
        else:
            acc_v = tl.dot(p.to(k.dtype), do, acc_v)
        ds_desc.store([h0.to(tl.int32) + b * KEY_TILE_PADDING + first, group * max_rows + r], ds)
    if NORM:
        x = k_desc.load([h0.to(tl.int32) + first, group * D]).to(tl.float32)  # again: registers are short
        acc_k = acc_k - (tl.sum(acc_k, 1) / D)[:, None] - x * (norm_dot / D)[:, None]
        acc_k = acc_k * tl.load(rstd + events, mask=n_ok, other=0.0)[:, None]
    at = (events * (G * D if SHARED else 2 * G * D) + group * D)[:, None] + tl.arange(0, D)
    tl.store(d_kv + at, acc_k.to(d_kv.dtype.element_ty), mask=n_ok[:, None])
    if not SHARED:
        tl.store(d_kv + G * D + at, acc_v.to(d_kv.dtype.element_ty), mask=n_ok[:, None])


@triton.jit(do_not_specialize=SIZES)
def _attn_bwd_q(
    k_desc,
    target_offsets,
    history_offsets,
    bits,
    head_channel,
    ds_desc,
    match_weight,
    dq,
    ds_match,
    part,
    part_match,
    split_keys,
    num_rows,
    max_rows,
    num_events,
    words,
    N: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    WORDS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One block of rows over one split of the keys: dQ = dS K, and the sum of dS over equal ids.

    A row's dS add up to 0, so the sum is that of dS ([ids equal] - match_weight), in which rounding hardly shows.
    """
    HPG: tl.constexpr = N // G
    b, group, split = tl.program_id(0), tl.program_id(1) % G, tl.program_id(2)
    first_row = tl.program_id(1) // G * BM
    t0, rows, h0, length = request_bounds(target_offsets, history_offsets, b, HPG)
    begin = split * split_keys
    if (first_row >= rows) | ((begin >= length) & (split > 0)):
        return
    end = tl.minimum(begin + split_keys, length)
    offs_m, offs_n = first_row + tl.arange(0, BM), tl.arange(0, BN)
    row_ok = offs_m < rows
    if C > 0:
        if HPG == 1:
            channel = tl.load(head_channel + group)
        else:
            channel = tl.load(head_channel + group * HPG + offs_m % HPG)
        bit, word = row_bits(offs_m // HPG, row_ok)
        first_word = first_row // HPG // 32
        share = tl.load(match_weight + (t0 * HPG + offs_m) * G + group, mask=row_ok, other=0.0)
    acc, match_sum = tl.zeros([BM, D], tl.float32), tl.zeros([BM], tl.float32)
    for n in tl.range(begin, end, BN, num_stages=STAGES):
        k = k_desc.load([h0.to(tl.int32) + n, group * D])
        n_ok = n + offs_n < end
        ds = ds_desc.load([h0.to(tl.int32) + b * KEY_TILE_PADDING + n, group * max_rows + first_row])
        acc = tl.dot(ds.T, k, acc)
        if C > 0:
            eq = equal_ids(
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
                HPG == 1,
                False,
            )
            match_sum += tl.sum(ds.T.to(tl.float32) * (tl.where(eq, 1.0, 0.0) - share[:, None]), 1)
    where = ((t0 * HPG + offs_m) * G + group).to(tl.int64)
    offs_d = tl.arange(0, D)
    if length <= split_keys:
        tl.store(dq + where[:, None] * D + offs_d, acc.to(dq.dtype.element_ty), mask=row_ok[:, None])
        if C > 0:
            tl.store(ds_match + where, match_sum, mask=row_ok)
    else:
        where += split.to(tl.int64) * num_rows
        tl.store(part + where[:, None] * D + offs_d, acc, mask=row_ok[:, None])
        if C > 0:
            tl.store(part_match + where, match_sum, mask=row_ok)


@dataclass(frozen=True)
class Tiles:
    """How a kernel is cut: rows and keys of a tile, warps, and loads in flight."""

    rows: int
    keys: int
    warps: int
    stages: int


def _power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def fwd_tiles(width: int, rows: int) -> Tiles:
    """Tiles of `_attn_fwd` for keys of this width and this many rows a group."""
    if width > 128:
        return Tiles(64, 32, 4, 3) if rows > 64 else Tiles(max(16, _power_of_2(rows)), 64, 4, 2)
    if rows > 64:
        return Tiles(128 if width == 64 else 64, 64, 4, 3)
    return Tiles(max(16, _power_of_2(rows)), 128, 4, 3)


def bwd_kv_tiles(width: int, rows: int, matched: bool = False) -> Tiles:
    """Tiles of `_attn_bwd_kv`. Without loads in flight: two programs share a multiprocessor and hide each other's.

    With ids, 64 rows of a wide tile need more registers than there are.
    """
    return Tiles(min(32 if matched and width > 128 else 64, max(16, _power_of_2(rows))), 64, 4, 1)


def bwd_q_tiles(width: int, rows: int) -> Tiles:  # noqa: ARG001  # benchmarks.stca.tune replaces all three alike
    """Tiles of `_attn_bwd_q`; its keys must divide those of `_attn_bwd_kv`, behind which dS is zero."""
    rows = max(16, _power_of_2(rows))
    return Tiles(min(128, rows), 64, 8 if rows >= 128 else 4, 3)


PROGRAMS = 528  # what a launch aims at: four for each of an H100's or H200's 132 multiprocessors


def split_size(events: int, max_history: int, programs_per_key: int) -> int:
    """Keys of one split: long enough to be worth a partial result, short enough to fill the card."""
    events_per_split = triton.cdiv(events * programs_per_key, PROGRAMS)
    return int(min(max(512, triton.cdiv(events_per_split, 128) * 128), triton.cdiv(max(1, max_history), 128) * 128))


def _rows_desc(x: Tensor, groups: int, block: int) -> TensorDescriptor:
    """[T, N, D] contiguous -> its rows as [T N/G, G D], in blocks [block, D]."""
    targets, heads, width = x.shape
    assert groups in (1, heads)
    shape = [targets * heads // groups, groups * width]
    return TensorDescriptor(x, shape, [shape[1], 1], [block, width])


def _keys_desc(kv: Tensor, part: int, block: int) -> TensorDescriptor:
    """Keys (part 0) or values (part -1) of contiguous [H, P, G, D] -> [H, G D] in blocks [block, D]."""
    events, parts, groups, width = kv.shape
    return TensorDescriptor(kv[:, part], [events, groups * width], [parts * groups * width, 1], [block, width])


def _ds_desc(ds: Tensor, tiles: Tiles) -> TensorDescriptor:
    """dS [H + B KEY_TILE_PADDING, G max_rows] in blocks [keys, rows]."""
    return TensorDescriptor(ds, list(ds.shape), [ds.shape[1], 1], [tiles.keys, tiles.rows])


class TargetAttention(torch.autograd.Function):
    """Packed cross attention. See `longreel.model.nn.attention.cross_attention` for the meaning of the arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        kv: Tensor,
        scale: Tensor | None,
        rstd: Tensor | None,
        ids: MatchBits | None,
        packing: Packing,
        softmax_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """q [T, N, D], kv [H, 2, N, D] or shared [H, 1, 1, D] -> values [T, N, D], match_weight [T, N] float32."""
        q, kv = q.contiguous(), kv.contiguous()
        (T, N, D), (H, P, G, _), B = q.shape, kv.shape, packing.history_offsets.shape[0] - 1
        channels, words = (0, 0) if ids is None else (ids.channels, ids.words)
        tiles = fwd_tiles(D, packing.max_targets * N // G)
        blocks = triton.cdiv(packing.max_targets * N // G, tiles.rows)
        split = split_size(H, packing.max_history, blocks * G)
        splits = triton.cdiv(packing.max_history, split)
        out = torch.empty_like(q)
        lse = q.new_empty(T, N, dtype=torch.float32)
        match_weight = torch.empty_like(lse) if channels else lse.new_zeros(T, N)
        partials = splits if splits > 1 else 0
        part = q.new_empty(partials, T, N, D, dtype=torch.float32)
        part_lse, part_match = lse.new_empty(partials, T, N), lse.new_empty(partials if channels else 0, T, N)
        bits, head_channel = (ids.bits, ids.head_channel) if ids is not None else (lse, lse)
        _attn_fwd[(B, blocks * G, splits)](
            _rows_desc(q, G, tiles.rows), _keys_desc(kv, 0, tiles.keys), _keys_desc(kv, -1, tiles.keys),
            packing.target_offsets, packing.history_offsets, bits, head_channel, lse if scale is None else scale,
            out, lse, match_weight, part, part_lse, part_match, softmax_scale, split, T * N, H, words,
            N=N, G=G, D=D, C=channels, WORDS=words_of_tile(tiles.rows, N // G), SHARED=P == 1,
            BM=tiles.rows, BN=tiles.keys, STAGES=tiles.stages, num_warps=tiles.warps,
        )  # fmt: skip
        if partials:
            rows = 8
            _combine_splits[(B, triton.cdiv(packing.max_targets * N, rows))](
                packing.target_offsets, packing.history_offsets, part, part_lse, part_match, out, lse, match_weight,
                split, T * N, N=N, D=D, SUM=False, MATCH=channels > 0, BR=rows, num_warps=4,
            )  # fmt: skip
        ctx.save_for_backward(q, kv, scale, rstd, out, lse, match_weight)
        ctx.ids, ctx.packing, ctx.softmax_scale = ids, packing, softmax_scale
        return out, match_weight

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_match_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of q, kv and scale; that of shared kv goes through the norm where rstd was given."""
        q, kv, scale, rstd, out, lse, match_weight = ctx.saved_tensors
        ids, packing = ctx.ids, ctx.packing
        (_, N, D), (H, P, G, _), B = q.shape, kv.shape, packing.history_offsets.shape[0] - 1
        channels, words = (0, 0) if ids is None else (ids.channels, ids.words)
        d_out = d_out.to(q.dtype).contiguous()
        d_match_weight = (
            torch.zeros_like(match_weight) if d_match_weight is None else d_match_weight.float().contiguous()
        )
        delta = (d_out.float() * out.float()).sum(-1) + d_match_weight * match_weight
        tiles = bwd_kv_tiles(D, packing.max_targets * N // G, matched=channels > 0)
        max_rows = triton.cdiv(packing.max_targets * N // G, tiles.rows) * tiles.rows
        d_kv, ds = torch.empty_like(kv), kv.new_empty(H + B * KEY_TILE_PADDING.value, G * max_rows)
        bits, head_channel = (ids.bits, ids.head_channel) if ids is not None else (lse, lse)
        _attn_bwd_kv[(B, G, triton.cdiv(packing.max_history, tiles.keys))](
            _rows_desc(q, G, tiles.rows), _keys_desc(kv, 0, tiles.keys), _keys_desc(kv, -1, tiles.keys),
            _rows_desc(d_out, G, tiles.rows), packing.target_offsets, packing.history_offsets, bits, head_channel,
            lse if scale is None else scale, lse, delta, d_match_weight, lse if rstd is None else rstd, d_kv,
            _ds_desc(ds, tiles),
            ctx.softmax_scale, max_rows, H, words,
            N=N, G=G, D=D, C=channels, WORDS=words_of_tile(tiles.rows, N // G), SHARED=P == 1, NORM=rstd is not None,
            BM=tiles.rows, BN=tiles.keys, STAGES=tiles.stages, num_warps=tiles.warps,
        )  # fmt: skip
        dq, ds_match = _query_gradients(q, kv, ids, packing, ds, match_weight)
        d_scale = None if scale is None else (ds_match.sum(0) / ctx.softmax_scale).to(scale.dtype)
        return dq, d_kv, d_scale, None, None, None, None


def _query_gradients(
    q: Tensor, kv: Tensor, ids: MatchBits | None, packing: Packing, ds: Tensor, match_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """dS [H + B KEY_TILE_PADDING, G rows] -> dQ [T, N, D], and the sum of dS over equal ids [T, N]."""
    (T, N, D), (H, _, G, _), B = q.shape, kv.shape, packing.history_offsets.shape[0] - 1
    channels, words = (0, 0) if ids is None else (ids.channels, ids.words)
    max_rows = ds.shape[1] // G
    tiles = bwd_q_tiles(D, max_rows)
    blocks = triton.cdiv(packing.max_targets * N // G, tiles.rows)
    split = split_size(H, packing.max_history, blocks * G)
    splits = triton.cdiv(packing.max_history, split)
    dq = torch.empty_like(q)
    ds_match = q.new_empty(T, N, dtype=torch.float32)
    partials = splits if splits > 1 else 0
    part = q.new_empty(partials, T, N, D, dtype=torch.float32)
    part_match = ds_match.new_empty(partials if channels else 0, T, N)
    bits, head_channel = (ids.bits, ids.head_channel) if ids is not None else (ds_match, ds_match)
    _attn_bwd_q[(B, blocks * G, splits)](
        _keys_desc(kv, 0, tiles.keys), packing.target_offsets, packing.history_offsets, bits, head_channel,
        _ds_desc(ds, tiles), match_weight, dq, ds_match, part, part_match, split, T * N, max_rows, H, words,
        N=N, G=G, D=D, C=channels, WORDS=words_of_tile(tiles.rows, N // G),
        BM=tiles.rows, BN=tiles.keys, STAGES=tiles.stages, num_warps=tiles.warps,
    )  # fmt: skip
    if partials:
        rows = 8
        _combine_splits[(B, triton.cdiv(packing.max_targets * N, rows))](
            packing.target_offsets, packing.history_offsets, part, ds_match, part_match, dq, ds_match, ds_match, split,
            T * N, N=N, D=D, SUM=True, MATCH=channels > 0, BR=rows, num_warps=4,
        )  # fmt: skip
    return dq, ds_match
