"""The fastest tiles on this card: kernel time of every candidate, and the best ones put in place.

    python -m benchmarks.stca --tune

Times are the kernels' own, from the profiler: a launch from Python takes longer than a small kernel runs. The winners
on an H200 are the defaults in model/kernels.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.stca.cases import Case, scoring, training
from benchmarks.stca.timing import by_kernel
from longreel.model.kernels import id_match_bits, swiglu_layernorm, target_attention, wide_target_attention

HALF = torch.bfloat16


def _attention(case: Case, heads: int, groups: int, width: int, matched: bool = False) -> Callable[[], Any]:
    """Forward and backward of `TargetAttention` on random tensors; `matched`: with equal ids in the score."""
    inputs = case.inputs(False)
    packing = inputs["requests"].packing()
    parts = 1 if groups == 1 else 2
    q = torch.randn(case.num_targets, heads, width, device="cuda", dtype=HALF, requires_grad=True)
    kv = torch.randn(case.num_events, parts, groups, width, device="cuda", dtype=HALF, requires_grad=True)
    rstd = torch.rand(case.num_events, device="cuda") if groups == 1 else None
    scale = torch.ones(heads, device="cuda", requires_grad=True) if matched else None
    ids = None
    if matched:
        events, targets = (torch.randint(0, 50, (n, 2), device="cuda") for n in (case.num_events, case.num_targets))
        head_channel = (torch.arange(heads, device="cuda") * 2 // heads).int()
        ids = id_match_bits.MatchBits(id_match_bits.match_bits(targets, events, packing), head_channel)

    def run() -> None:
        out, _ = target_attention.TargetAttention.apply(q, kv, scale, rstd, ids, packing, width**-0.5)
        out.backward(out.detach())

    return run


def _wide(case: Case, heads: int, width: int) -> Callable[[], Any]:
    inputs = case.inputs(False)
    packing = inputs["requests"].packing()
    q = torch.randn(case.num_targets, heads, width, device="cuda", dtype=HALF, requires_grad=True)
    x = torch.randn(case.num_events, width, device="cuda", dtype=HALF, requires_grad=True)

    def run() -> None:
        out, _ = wide_target_attention.WideTargetAttention.apply(q, x, None, None, packing, 0.125)
        out.backward(out.detach())

    return run


def _encoder(width: int, rows: int) -> Callable[[], Any]:
    x = torch.randn(rows, width, device="cuda", dtype=HALF, requires_grad=True)
    weights = [torch.randn(4 * width, width, device="cuda").div_(width**0.5).requires_grad_() for _ in range(4)]
    weights += [torch.randn(width, 2 * width, device="cuda").div_(width**0.5).requires_grad_() for _ in range(4)]

    def run() -> None:
        out = swiglu_layernorm.EncodeHistory.apply(x, False, *weights)[:4]
        torch.autograd.backward(out, [tensor.detach() for tensor in out])

    return run


def _whole_layer(rows: int, kv: bool) -> Callable[[], Any]:
    """One layer at d = 256 without gradients, in one kernel: x^, or keys and values."""
    x, weights = torch.randn(rows, 256, device="cuda", dtype=HALF), torch.randn(1_024, 256, device="cuda", dtype=HALF)
    wo, bias = torch.randn(256, 512, device="cuda", dtype=HALF), torch.zeros(512, device="cuda")
    w_kv, pairs = torch.randn(512, 256, device="cuda", dtype=HALF), swiglu_layernorm.interleaved(weights, 512)
    out, rstd = torch.empty(1, rows, 256, device="cuda", dtype=HALF), torch.empty(1, rows, device="cuda")

    def run() -> None:
        if kv:
            swiglu_layernorm.encode_keys_values(x, pairs, wo, w_kv, bias)
        else:
            swiglu_layernorm.encode_rows(x, pairs, wo, out, rstd, 0)

    return run


CHOSEN: dict[tuple[str, int, bool, bool], target_attention.Tiles] = {}


def _override(kernel: str, original: Callable[..., target_attention.Tiles]) -> Callable[..., target_attention.Tiles]:
    def choose(width: int, rows: int, matched: bool = False) -> target_attention.Tiles:
        chosen = CHOSEN.get((kernel, width, rows > 64, matched))
        return chosen or (original(width, rows, matched) if matched else original(width, rows))

    return choose


def candidates() -> Iterator[tuple[str, str, Callable[[], Callable[[], Any]], list[tuple[Any, Callable[[], None]]]]]:
    """(label, kernel, what runs it, settings with how to put each in place)."""

    def tiles(
        kernel: str, width: int, many: bool, options: list[tuple[int, ...]], matched: bool = False
    ) -> list[tuple[Any, Callable[[], None]]]:
        return [
            (o, partial(CHOSEN.__setitem__, (kernel, width, many, matched), target_attention.Tiles(*o)))
            for o in options
        ]

    absorbed = partial(_attention, training(256, 8, 64), 8, 1, 256)
    yield (
        "absorbed d=256",
        "_attn_fwd",
        absorbed,
        tiles("fwd", 256, True, [(128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 3)]),
    )
    yield (
        "absorbed d=256",
        "_attn_bwd_kv",
        absorbed,
        tiles("kv", 256, True, [(32, 64, 4, 1), (64, 64, 4, 1), (64, 128, 8, 1), (32, 128, 8, 1)]),
    )
    yield (
        "absorbed d=256",
        "_attn_bwd_q",
        absorbed,
        tiles("q", 256, True, [(128, 64, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3)]),
    )
    yield (
        "absorbed d=256, ids",
        "_attn_bwd_kv",
        partial(_attention, training(256, 8, 64), 8, 1, 256, matched=True),
        tiles("kv", 256, True, [(32, 64, 4, 1), (64, 64, 4, 1), (16, 64, 4, 1), (32, 128, 8, 1)], matched=True),
    )
    for width, heads, model in ((32, 8, 256), (64, 16, 1_024)):
        make = partial(_attention, scoring(model, heads), heads, heads, width)
        yield (
            f"K, V m=128 Dh={width}",
            "_attn_fwd",
            make,
            tiles(
                "fwd",
                width,
                True,
                [(128, 128, 8, 2), (128, 64, 8, 3), (64, 128, 4, 2), (64, 64, 4, 3), (128, 64, 4, 3)],
            ),
        )
    few = partial(_attention, training(1_024, 16, 64), 16, 16, 64)
    yield (
        "K, V m=16 Dh=64",
        "_attn_fwd",
        few,
        tiles("fwd", 64, False, [(16, 128, 4, 3), (16, 64, 4, 3), (16, 128, 4, 2)]),
    )
    yield (
        "K, V m=16 Dh=64",
        "_attn_bwd_kv",
        few,
        tiles("kv", 64, False, [(16, 128, 4, 1), (16, 128, 8, 1), (16, 64, 4, 1)]),
    )

    def settings(
        target: dict[str, Any], keys: str, options: list[tuple[int, ...]]
    ) -> list[tuple[Any, Callable[[], None]]]:
        return [(o, partial(target.update, dict(zip(keys.split(), o, strict=True)))) for o in options]

    broad = partial(_wide, training(1_024, 16, 64), 16, 1_024)
    yield (
        "absorbed d=1024",
        "_wide_weights",
        broad,
        settings(
            wide_target_attention.WEIGHTS,
            "BM BN BK STAGES num_warps",
            [(128, 128, 64, 3, 8), (128, 128, 64, 4, 8), (64, 128, 64, 3, 4)],
        ),
    )
    yield (
        "absorbed d=1024",
        "_wide_weighted_sum",
        broad,
        settings(
            wide_target_attention.WEIGHTED_SUM,
            "BM BN STAGES num_warps",
            [(128, 64, 3, 8), (128, 128, 2, 8), (64, 64, 3, 4)],
        ),
    )
    yield (
        "absorbed d=1024",
        "_wide_bwd_events",
        broad,
        settings(
            wide_target_attention.BWD_EVENTS,
            "BM BN STAGES num_warps",
            [(64, 128, 2, 8), (32, 128, 3, 8), (64, 64, 2, 4)],
        ),
    )
    narrow = partial(_encoder, 256, 131_072)
    yield (
        "encoder d=256",
        "_swiglu_grad_rows",
        narrow,
        settings(
            swiglu_layernorm.SWIGLU_GRAD_ROWS,
            "BM BN STAGES num_warps",
            [(128, 32, 3, 8), (128, 16, 3, 8), (128, 16, 4, 8), (64, 16, 3, 4), (64, 16, 4, 4)],
        ),
    )

    for kv in (False, True):
        yield (
            "keys, values d=256" if kv else "layer d=256",
            "_encode_rows",
            partial(_whole_layer, 40_960, kv),
            settings(
                swiglu_layernorm.ENCODE_ROWS,
                "BM BN BKV STAGES num_warps",
                [(64, 16, 32, 3, 4), (64, 16, 32, 4, 4), (64, 16, 64, 3, 4), (64, 16, 64, 2, 4), (128, 16, 32, 4, 8)],
            ),
        )


def tune(say: Callable[[str], None] = print) -> dict[str, dict[str, float]]:
    """Time all candidates, leave the best in place, and return milliseconds by label and setting."""
    names = {"fwd_tiles": "fwd", "bwd_kv_tiles": "kv", "bwd_q_tiles": "q"}
    for name, kernel in names.items():
        setattr(target_attention, name, _override(kernel, getattr(target_attention, name)))
    milliseconds: dict[str, dict[str, float]] = {}
    for label, kernel, make, options in candidates():
        run, times = make(), {}
        for setting, put in options:
            put()
            try:
                times[str(setting)] = sum(ms for name, ms, _ in by_kernel(run, 99) if name == kernel)
            except Exception as error:  # a setting that does not fit this card
                say(f"  {kernel} {setting}: {type(error).__name__}")
        best = min(times, key=lambda key: times[key])
        next(put for setting, put in options if str(setting) == best)()
        milliseconds[f"{label} {kernel}"] = times
        say(f"{label:22s} {kernel:18s} best {best}: " + ", ".join(f"{k} {v * 1e3:.0f} us" for k, v in times.items()))
    return milliseconds
