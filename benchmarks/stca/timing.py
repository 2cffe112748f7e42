"""Timing: medians of CUDA events, CUDA graphs for small launches, and where the time goes by kernel."""

import statistics
from collections.abc import Callable
from typing import Any

import torch


def median_ms(run: Callable[[], Any], runs: int = 20, warm: int = 3) -> float:
    """Median milliseconds of `run` on the device."""
    for _ in range(warm):
        run()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for start, stop in pairs:
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in pairs)


def graphed(run: Callable[[], Any]) -> Callable[[], None]:
    """`run` captured once in a CUDA graph: what replays it pays no launch from Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def by_kernel(run: Callable[[], Any], top: int = 14) -> list[tuple[str, float, int]]:
    """(kernel, milliseconds, launches) of one run, longest first."""
    run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    rows = [(e.key[:70], e.self_device_time_total / 1_000, e.count) for e in profile.key_averages()]
    return sorted((row for row in rows if row[1] > 0), key=lambda row: -row[1])[:top]


def ceilings() -> dict[str, float]:
    """This card's matrix rate (TFLOP/s, 8192^3 bf16) and copy bandwidth (TB/s, read plus write)."""
    a, b = (torch.randn(8_192, 8_192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * 8_192**3 / median_ms(lambda: a @ b, 10) / 1e9
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
    to = torch.empty_like(source)
    return {"matrix_tflops": rate, "copy_tbs": 2 * source.numel() / median_ms(lambda: to.copy_(source), 10) / 1e9}
