"""The encoded history on a GPU: all layers' LN(SwiGLU(X)) with the elementwise work inside the matrix products.

Forward, narrow: a layer is one kernel, in inference with its keys and values, so that h, y and x^ are never written.
Forward, wide: h = (X Wu) silu(X Wv) in one kernel that writes only h (and u and v for the backward pass), then y = h Wo
and its LayerNorm (no affine part: it is folded into the attention's small matrices).
Backward: u and v are either recomputed from X in the kernel that also forms dh = dy Wo^T (narrow models, bound by
bytes), or kept from the forward pass (wide models, bound by arithmetic). dX and the weights' gradients are plain
matrix products over all layers at once. Rows go in chunks, so that temporary memory does not grow with the batch.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from longreel.model.kernels.packing import SIZES

EPS = 1e-5
FUSED_WIDTH = 256  # up to here one tile holds a whole row: a layer is one kernel, and u and v are recomputed
FAST = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")  # the interpreter has no inline assembly
CHUNK_BYTES = 4 << 30  # of temporary gradients
MAX_CHUNK = 65_535 * 8 // 1_024 * 1_024  # rows: a grid's second axis ends at 65,535 blocks, the smallest of 8 rows


@triton.jit
def _sigmoid(x):
    """1 / (1 + e^-x); on a card by one tanh (absolute error under 2^-12), where exp and division would take two."""
    if FAST:
        half = 0.5 * x
        t = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [half], tl.float32, is_pure=True, pack=1)
        return 0.5 * t + 0.5
    return 1 / (1 + tl.exp2(-1.4426950408889634 * x))


@triton.jit
def _in_registers(x):
    """x as it is, so that the matrix product takes it from registers and shared memory serves the other operand."""
    if FAST:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], x.dtype, is_pure=True, pack=2)
    return x


@triton.jit
def _swiglu(
    x_desc,
    w_desc,
    h_desc,
    ug_desc,
    K: tl.constexpr,
    F: tl.constexpr,
    KEEP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """h[:, layer F + c] = (X Wu) silu(X Wv); u and v are written too where they are to be kept.

    w: [layers 2 F, K], Wu and Wv of a layer one after the other.
    """
    col = tl.program_id(0) * BN  # columns first: programs of one row block share X in the cache
    row = tl.program_id(1) * BM
    layer = col // F
    up_row = layer * 2 * F + col % F
    u = tl.zeros([BM, BN], tl.float32)
    g = tl.zeros([BM, BN], tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        x = x_desc.load([row, k])
        wu = w_desc.load([up_row, k])
        u = tl.dot(x, wu.T, u)
        wg = w_desc.load([up_row + F, k])
        g = tl.dot(x, wg.T, g)
    if KEEP:
        ug_desc.store([row, up_row], u.to(ug_desc.dtype))
        ug_desc.store([row, up_row + F], g.to(ug_desc.dtype))
    h_desc.store([row, col], (u * g * _sigmoid(g)).to(h_desc.dtype))


@triton.jit
def _deinterleave(acc, BM: tl.constexpr, BN: tl.constexpr):
    """[BM, 2 BN] with eight columns of u and eight of v by turns -> u, v [BM, BN]: each thread has its own already."""
    u, g = tl.split(acc.reshape(BM, BN // 8, 2, 8).permute(0, 1, 3, 2))
    return u.reshape(BM, BN), g.reshape(BM, BN)


@triton.jit(do_not_specialize=SIZES)
def _encode_rows(
    x_desc,
    w_desc,
    wo_desc,
    wkv_desc,
    bias,
    kv_desc,
    out,
    rstd,
    rows,
    row_stride,
    eps,
    D: tl.constexpr,
    F: tl.constexpr,
    KV: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BKV: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A whole layer: out[layer] = (y - mean) rstd of y = h Wo, and rstd; or (KV) x^ W_KV + bias and nothing else.

    A block of rows of X and its y stay in registers; every weight of the layer streams by, BN columns of h at a time.
    The product that adds one step's h to y is issued behind the next step's first product, so that the elementwise
    work between runs beside it.
    w: [layers 2 F, D], `interleaved`; wo: [layers D, F]; out: [layers, row_stride, D]; wkv: [2 D, D]; kv: [rows, 2 D].
    """
    layer, row = tl.program_id(0), tl.program_id(1) * BM
    x = _in_registers(x_desc.load([row, 0]))
    y = tl.zeros([BM, D], tl.float32)
    u, g = _deinterleave(tl.dot(x, w_desc.load([layer * 2 * F, 0]).T), BM, BN)
    h = u * g * _sigmoid(g)
    for j in tl.range(BN, F, BN, num_stages=STAGES):
        both = tl.dot(x, w_desc.load([layer * 2 * F + 2 * j, 0]).T)
        y = tl.dot(h.to(x.dtype), wo_desc.load([layer * D, j - BN]).T, y)
        u, g = _deinterleave(both, BM, BN)
        h = u * g * _sigmoid(g)
    y = tl.dot(h.to(x.dtype), wo_desc.load([layer * D, F - BN]).T, y)
    y = y - (tl.sum(y, 1) / D)[:, None]
    r = 1 / tl.sqrt_rn(tl.sum(y * y, 1) / D + eps)
    normed = (y * r[:, None]).to(x.dtype)
    if KV:
        for j in tl.range(0, 2 * D, BKV, num_stages=STAGES):
            kv = tl.dot(normed, wkv_desc.load([j, 0]).T)
            kv += tl.load(bias + j + tl.arange(0, BKV)).to(tl.float32)[None, :]
            kv_desc.store([row, j], kv.to(kv_desc.dtype))
    else:
        offs_m, offs_d = row + tl.arange(0, BM), tl.arange(0, D)
        at = layer.to(tl.int64) * row_stride + offs_m
        tl.store(out + at[:, None] * D + offs_d, normed, mask=(offs_m < rows)[:, None])
        tl.store(rstd + at, r, mask=offs_m < rows)


@triton.jit(do_not_specialize=SIZES)
def _norm(y_ptr, out, rstd, rows, eps, D: tl.constexpr, W: tl.constexpr, BM: tl.constexpr):
    """(y - mean) rstd of whole rows: [rows, D]."""
    offs_m, offs_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, W)
    at = offs_m.to(tl.int64)[:, None] * D + offs_d
    ok = (offs_m < rows)[:, None] & (offs_d < D)
    y = tl.load(y_ptr + at, mask=ok, other=0.0).to(tl.float32)
    y = tl.where(ok, y - (tl.sum(y, 1) / D)[:, None], 0.0)
    r = 1 / tl.sqrt_rn(tl.sum(y * y, 1) / D + eps)
    tl.store(out + at, (y * r[:, None]).to(out.dtype.element_ty), mask=ok)
    tl.store(rstd + offs_m, r, mask=offs_m < rows)


@triton.jit(do_not_specialize=SIZES)
def _norm_grad(dx_ptr, x_ptr, rstd, dy, rows, D: tl.constexpr, W: tl.constexpr, BM: tl.constexpr):
    """Gradient of y from that of x^ = (y - mean) rstd: rstd (dx - mean(dx) - x^ mean(dx x^))."""
    offs_m, offs_d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, W)
    at = offs_m.to(tl.int64)[:, None] * D + offs_d
    ok = (offs_m < rows)[:, None] & (offs_d < D)
    dx = tl.load(dx_ptr + at, mask=ok, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    dx = dx - (tl.sum(dx, 1) / D)[:, None] - x * (tl.sum(dx * x, 1) / D)[:, None]
    dx = dx * tl.load(rstd + offs_m, mask=offs_m < rows, other=0.0)[:, None]
    tl.store(dy + at, dx.to(dy.dtype.element_ty), mask=ok)


@triton.jit
def _swiglu_parts(u, g, dh):
    """h, du and dg of h = u silu(g)."""
    s = _sigmoid(g)
    silu = g * s
    return u * silu, dh * silu, dh * u * (s + silu * (1 - s))


@triton.jit
def _swiglu_grad_rows(
    x_desc,
    dy_desc,
    w_desc,
    wo_desc,
    h_desc,
    dug_desc,
    COLS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    DYREG: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One layer's h, du, dg from X and dy, with u, v and dh = dy Wo formed on the way.

    w: [2 F, D], `interleaved`; wo: [D, F].

    A block of whole rows of X and dy stays on the multiprocessor; COLS columns of weights stream by.
    """
    row, first = tl.program_id(1) * BM, tl.program_id(0) * COLS
    x = _in_registers(x_desc.load([row, 0]))
    dy = dy_desc.load([row, 0])
    if DYREG:
        dy = _in_registers(dy)
    for col in tl.range(first, first + COLS, BN, num_stages=STAGES):
        u, g = _deinterleave(tl.dot(x, w_desc.load([2 * col, 0]).T), BM, BN)
        dh = tl.dot(dy, wo_desc.load([0, col]))
        h, du, dg = _swiglu_parts(u, g, dh)
        h_desc.store([row, col], h.to(h_desc.dtype))
        both = tl.join(du.to(dug_desc.dtype), dg.to(dug_desc.dtype)).permute(0, 2, 1)
        dug_desc.store([row, 0, col], both)  # [BM, 2, BN]: one store in flight of each shape


@triton.jit(do_not_specialize=SIZES)
def _swiglu_grad_kept(
    ug, dh_ptr, h_ptr, dug, rows, ug_stride, dug_stride, F: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """The same where u and v were kept, elementwise: ug and dug are [rows, 2 F] with strides, dh and h [rows, F]."""
    offs_m, offs_n = tl.program_id(1) * BM + tl.arange(0, BM), tl.program_id(0) * BN + tl.arange(0, BN)
    ok = (offs_m < rows)[:, None] & (offs_n < F)[None, :]
    m = offs_m.to(tl.int64)[:, None]
    u = tl.load(ug + m * ug_stride + offs_n, mask=ok, other=0.0).to(tl.float32)
    g = tl.load(ug + m * ug_stride + F + offs_n, mask=ok, other=0.0).to(tl.float32)
    dh = tl.load(dh_ptr + m * F + offs_n, mask=ok, other=0.0).to(tl.float32)
    h, du, dg = _swiglu_parts(u, g, dh)
    tl.store(h_ptr + m * F + offs_n, h.to(h_ptr.dtype.element_ty), mask=ok)
    tl.store(dug + m * dug_stride + offs_n, du.to(dug.dtype.element_ty), mask=ok)
    tl.store(dug + m * dug_stride + F + offs_n, dg.to(dug.dtype.element_ty), mask=ok)


def _desc(x: Tensor, rows: int, cols: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), [x.stride(0), 1], [rows, cols])


SWIGLU = {"BM": 128, "BN": 128, "BK": 64, "STAGES": 3, "num_warps": 8}
ENCODE_ROWS = {"BM": 64, "BN": 16, "BKV": 32, "STAGES": 3, "num_warps": 4}
SWIGLU_GRAD_ROWS = {"BM": 64, "BN": 16, "DYREG": True, "STAGES": 3, "num_warps": 4}
PROGRAMS = 528  # what a launch aims at: four for each of an H100's or H200's 132 multiprocessors


def _fit(size: int, block: int) -> int:
    """The largest power of two that divides `size`, at most `block`."""
    return min(block, size & -size)


def _columns(total: int, block: int, row_blocks: int) -> int:
    """Columns of one program: all of them, or fewer where row blocks alone would not fill the card."""
    columns = total
    while total // columns * row_blocks < PROGRAMS and columns % (4 * block) == 0:
        columns //= 2
    return columns


def is_narrow(width: int) -> bool:
    """Whether one tile holds a whole row."""
    return width <= FUSED_WIDTH and width & (width - 1) == 0


def interleaved(w: Tensor, hidden: int) -> Tensor:
    """Wu over Wv of each layer [layers 2 F, D] -> the same rows, eight of Wu and eight of Wv by turns.

    One product then gives both, and u and v of a column to the same thread.
    """
    return w.view(-1, 2, hidden // 8, 8, w.shape[1]).transpose(1, 2).reshape(w.shape)


def swiglu(x: Tensor, w: Tensor, hidden: int, kept: Tensor | None = None) -> Tensor:
    """x [R, D], w [layers 2 F, D] -> h [R, layers F]; `kept` [R, layers 2 F] takes u and v where given."""
    (rows, width), h = x.shape, x.new_empty(x.shape[0], w.shape[0] // 2)
    cut = SWIGLU | {"BK": _fit(width, SWIGLU["BK"]), "BN": _fit(hidden, SWIGLU["BN"])}
    bm, bn, bk = cut["BM"], cut["BN"], cut["BK"]
    keep = _desc(h if kept is None else kept, bm, bn)
    _swiglu[(h.shape[1] // bn, triton.cdiv(rows, bm))](
        _desc(x, bm, bk), _desc(w, bn, bk), _desc(h, bm, bn), keep, K=width, F=hidden, KEEP=kept is not None, **cut
    )
    return h


def out_norm(h: Tensor, w: Tensor, out: Tensor, rstd: Tensor, start: int) -> None:
    """h [R, layers F], w [layers D, F] -> rows from `start` on of out [layers, H, D] and rstd [layers, H]."""
    (layers, _, width), hidden, rows = out.shape, w.shape[1], h.shape[0]
    for i in range(layers):
        y = h[:, i * hidden : (i + 1) * hidden] @ w[i * width : (i + 1) * width].T
        tile = triton.next_power_of_2(width)
        bm = max(1, 4096 // tile)
        _norm[(triton.cdiv(rows, bm),)](y, out[i, start:], rstd[i, start:], rows, EPS, D=width, W=tile, BM=bm)


def encode_rows(x: Tensor, w: Tensor, wo: Tensor, out: Tensor, rstd: Tensor, start: int) -> None:
    """x [R, D], w [layers 2 F, D] `interleaved`, wo [layers D, F] -> rows from `start` of out [layers, H, D], rstd."""
    (layers, events, width), hidden, rows = out.shape, wo.shape[1], x.shape[0]
    cut = _encode_tile(width, hidden)
    bm, bn = cut["BM"], cut["BN"]
    wo_desc = _desc(wo, width, bn)
    _encode_rows[(layers, triton.cdiv(rows, bm))](
        _desc(x, bm, width), _desc(w, 2 * bn, width), wo_desc, wo_desc, rstd, wo_desc, out[0, start:], rstd[0, start:],
        rows, events, EPS, D=width, F=hidden, KV=False, **cut,
    )  # fmt: skip


def encode_keys_values(x: Tensor, w: Tensor, wo: Tensor, w_kv: Tensor, bias: Tensor) -> Tensor:
    """One layer's x^ W_KV^T + bias [R, 2 D], without x^ itself. w [2 F, D] `interleaved`, wo [D, F], w_kv [2 D, D]."""
    (rows, width), hidden = x.shape, wo.shape[1]
    cut = _encode_tile(width, hidden)
    bm, bn, bkv, kv = cut["BM"], cut["BN"], cut["BKV"], x.new_empty(rows, 2 * width)
    _encode_rows[(1, triton.cdiv(rows, bm))](
        _desc(x, bm, width), _desc(w, 2 * bn, width), _desc(wo, width, bn), _desc(w_kv, bkv, width), bias,
        _desc(kv, bm, bkv), kv, kv, rows, rows, EPS, D=width, F=hidden, KV=True, **cut,
    )  # fmt: skip
    return kv


def _encode_tile(width: int, hidden: int) -> dict[str, int]:
    return ENCODE_ROWS | {"BN": _fit(hidden, ENCODE_ROWS["BN"]), "BKV": _fit(2 * width, ENCODE_ROWS["BKV"])}


def norm_grad(dx: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    """Gradients of x^ [R, D], x^ itself and rstd [R] -> gradients of y [R, D]."""
    (rows, width), dy = x.shape, torch.empty_like(x)
    tile = triton.next_power_of_2(width)
    bm = max(1, 4096 // tile)
    _norm_grad[(triton.cdiv(rows, bm),)](dx.contiguous(), x, rstd, dy, rows, D=width, W=tile, BM=bm)
    return dy


def swiglu_grad(x: Tensor, dy: Tensor, w: Tensor, wo: Tensor, h: Tensor, dug: Tensor) -> None:
    """One layer: x, dy [R, D], w [2 F, D] `interleaved`, wo [D, F] -> h [R, F] and dug [R, 2 F] are filled."""
    (rows, width), hidden = x.shape, wo.shape[1]
    cut = SWIGLU_GRAD_ROWS | {"BN": _fit(hidden, SWIGLU_GRAD_ROWS["BN"])}
    bm, bn, blocks = cut["BM"], cut["BN"], triton.cdiv(rows, cut["BM"])
    columns = _columns(hidden, bn, blocks)
    _swiglu_grad_rows[(hidden // columns, blocks)](
        _desc(x, bm, width), _desc(dy, bm, width), _desc(w, 2 * bn, width), _desc(wo, width, bn), _desc(h, bm, bn),
        TensorDescriptor(dug, [rows, 2, hidden], [dug.stride(0), hidden, 1], [bm, 2, bn]),
        COLS=columns, **cut,
    )  # fmt: skip


def swiglu_grad_kept(ug: Tensor, dh: Tensor, h: Tensor, dug: Tensor) -> None:
    """One layer: kept ug [R, 2 F] and dh [R, F] -> h [R, F] and dug [R, 2 F] are filled."""
    rows, hidden = dh.shape
    bm, bn = 8, _fit(hidden, 512)
    grid = (hidden // bn, triton.cdiv(rows, bm))
    _swiglu_grad_kept[grid](ug, dh, h, dug, rows, ug.stride(0), dug.stride(0), F=hidden, BM=bm, BN=bn, num_warps=8)


def weight_grad(d: Tensor, x: Tensor) -> Tensor:
    """d [R, P], x [R, Q] -> d^T x [P, Q] in float32, summed in float32."""
    if d.is_cuda:
        return torch.mm(d.T, x, out_dtype=torch.float32)
    return d.T.float() @ x.float()


class EncodeHistory(torch.autograd.Function):
    """x^(i) = (y - mean) rstd of y = SwiGLU_i(X), for every layer i, in half precision with float32 master weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm_gradient: bool, *weights: Tensor) -> tuple[Tensor, ...]:
        """X [H, D] half; weights: per layer Wu over Wv [2 F, D], then per layer Wo [D, F].

        Returns x^(1) .. x^(M) [H, D], then rstd(1) .. rstd(M) [H] float32, which take no gradient. Where
        `norm_gradient`, the gradient that comes back for x^ is taken as already that of y.
        """
        layers = len(weights) // 2
        x = x.contiguous()
        w = torch.cat([weight.to(x.dtype) for weight in weights[:layers]])
        wo = torch.cat([weight.to(x.dtype) for weight in weights[layers:]])
        events, width = x.shape
        out, rstd = x.new_empty(layers, events, width), x.new_empty(layers, events, dtype=torch.float32)
        kept = None if is_narrow(width) else x.new_empty(events, w.shape[0])
        _encode(x, w, wo, kept, out, rstd)
        ctx.save_for_backward(x, w, wo, kept, out, rstd)
        ctx.norm_gradient, ctx.weight_dtype = norm_gradient, weights[0].dtype
        ctx.mark_non_differentiable(*(r := rstd.unbind(0)))
        return (*out.unbind(0), *r)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of X and of every weight, summed in float32."""
        x, w, wo, kept, out, rstd = ctx.saved_tensors
        (layers, events, width), hidden = out.shape, wo.shape[1]
        dys = [
            torch.zeros_like(x) if g is None else g if ctx.norm_gradient else norm_grad(g, out[i], rstd[i])
            for i, g in enumerate(grads[:layers])
        ]
        dx = torch.empty_like(x)
        dw = x.new_zeros(w.shape, dtype=torch.float32)
        dwo = x.new_zeros(wo.shape, dtype=torch.float32)
        w_interleaved = interleaved(w, hidden) if kept is None else w
        chunk = _chunk(events, w)
        dug_all = x.new_empty(min(chunk, events), layers * 2 * hidden)
        h_all = x.new_empty(layers, min(chunk, events), hidden)
        for start in range(0, events, chunk):
            rows = slice(start, min(events, start + chunk))
            count = rows.stop - rows.start
            dug, part_x = dug_all[:count], x[rows]
            for i in range(layers):
                two, one = slice(i * 2 * hidden, (i + 1) * 2 * hidden), slice(i * width, (i + 1) * width)
                dy, h = dys[i][rows], h_all[i, :count]
                if kept is None:
                    swiglu_grad(part_x, dy, w_interleaved[two], wo[one], h, dug[:, two])
                else:
                    swiglu_grad_kept(kept[rows, two], dy @ wo[one], h, dug[:, two])
                dwo[one] += weight_grad(dy, h)
            torch.mm(dug, w, out=dx[rows])
            dw += weight_grad(dug, part_x)
        dw, dwo = dw.to(ctx.weight_dtype), dwo.to(ctx.weight_dtype)
        return dx, None, *dw.chunk(layers), *dwo.chunk(layers)


def encode_layer(x: Tensor, w: Tensor, wo: Tensor) -> Tensor:
    """x^ [H, D] of one layer, for inference: nothing is kept. X [H, D] half, w [2 F, D], wo [D, F]."""
    x, w, wo = x.contiguous(), w.to(x.dtype), wo.to(x.dtype)
    out, rstd = x.new_empty(1, *x.shape), x.new_empty(1, x.shape[0], dtype=torch.float32)
    _encode(x, w, wo, None, out, rstd)
    return out[0]


def _encode(x: Tensor, w: Tensor, wo: Tensor, kept: Tensor | None, out: Tensor, rstd: Tensor) -> None:
    hidden, narrow = wo.shape[1], is_narrow(x.shape[1])
    w, chunk = (interleaved(w, hidden), MAX_CHUNK) if narrow else (w, _chunk(x.shape[0], w))
    for start in range(0, x.shape[0], chunk):
        rows = slice(start, min(x.shape[0], start + chunk))
        if narrow:
            encode_rows(x[rows], w, wo, out, rstd, start)
        else:
            out_norm(swiglu(x[rows], w, hidden, None if kept is None else kept[rows]), wo, out, rstd, start)


def _chunk(events: int, w: Tensor) -> int:
    """Rows that go together: their gradients of u and v, of all layers, fill about CHUNK_BYTES."""
    fitting = CHUNK_BYTES // (w.shape[0] * w.element_size()) // 1_024 * 1_024
    return min(events, MAX_CHUNK, max(4_096, fitting))
