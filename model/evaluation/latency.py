"""Cost of scoring one request of the longest history: latency in milliseconds, and peak memory in MiB."""

import resource
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from longreel.contracts.report import ScoringCost
from longreel.model.data.batch import RequestBatch
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import score_batch
from longreel.model.nn.ranker import Ranker

CANDIDATES = 128
WARMUP_RUNS = 3
RUNS = 15


def measure(ranker: Ranker, rows: SampleRows, request: int, events: int, device: torch.device) -> ScoringCost:
    """Time and memory of scoring `events` history events x CANDIDATES targets, made of one request's own.

    Cost depends on the shape, so a shorter history is stretched to the shape of the policy's budgets.
    """
    batch = stretched(rows.pack(np.array([request]), events), events, CANDIDATES)
    times = []
    for _ in range(WARMUP_RUNS):
        score_batch(ranker, batch, device)
    _reset_peak(device)
    for _ in range(RUNS):
        began = time.perf_counter()
        score_batch(ranker, batch, device)  # ends with a copy to the CPU, which waits for the device
        times.append(1_000 * (time.perf_counter() - began))
    low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
    return ScoringCost(
        device=device_name(device),
        events=events,
        candidates=CANDIDATES,
        latency_ms=float(median),
        latency_low_ms=float(low),
        latency_high_ms=float(high),
        peak_memory_mib=_peak(device),
    )


def stretched(one: RequestBatch, events: int, candidates: int) -> RequestBatch:
    """One request with its events and targets repeated to a given number, still in time order."""
    if one.num_events:
        take = torch.arange(events) * one.num_events // events
        history = {name: values[take] for name, values in one.history.items()}
    else:
        history = {name: values.new_zeros(events, *values.shape[1:]) for name, values in one.history.items()}
    repeat = torch.arange(candidates) % max(1, one.num_targets)
    return replace(
        one,
        history=history,
        history_offsets=torch.tensor([0, events]),
        target={name: values[repeat] for name, values in one.target.items()},
        target_offsets=torch.tensor([0, candidates]),
        labels=one.labels[repeat],
        max_history=events,
        max_targets=candidates,
    )


def device_name(device: torch.device) -> str:
    """The name that budgets match: the GPU's, or the CPU with its number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} threads"


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # on other systems the peak is that since the process began
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the resident peak counts from here


def _peak(device: torch.device) -> float:
    """MiB since `_reset_peak`: allocated on CUDA, else resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1_024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
