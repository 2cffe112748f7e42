"""The prologue of the kernels over packed requests: where a request's rows and events lie."""

import triton
import triton.language as tl


@triton.jit
def request_bounds(target_offsets, history_offsets, request, ROWS_A_TARGET: tl.constexpr):
    """First target, number of rows (targets times ROWS_A_TARGET), first event and number of events of a request."""
    t0 = tl.load(target_offsets + request)
    rows = (tl.load(target_offsets + request + 1) - t0).to(tl.int32) * ROWS_A_TARGET
    h0 = tl.load(history_offsets + request)
    length = (tl.load(history_offsets + request + 1) - h0).to(tl.int32)
    return t0, rows, h0, length
