"""Whole training steps timed on sample files: the trainer's own reader, device loader, model and optimisers."""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from longreel.contracts.config import ModelConfig, TrainingConfig
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.data.batch import one_row_per_target
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.reader import RankBatch, TrainingReader
from longreel.model.nn.ranker import Ranker
from longreel.model.training.compile import checkpoint_activations, compile_blocks, wants_compile
from longreel.model.training.device import peak_memory_mib
from longreel.model.training.device_loader import DeviceLoader
from longreel.model.training.distributed import DistContext
from longreel.model.training.flops import peak_flops
from longreel.model.training.loss_monitor import LossMonitor
from longreel.model.training.prefetch import Prefetcher
from longreel.model.training.step import TrainStep


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Measured over whole steps, from the first wait for data to the device being done."""

    what: str
    steps: int
    step_ms: float
    targets_per_s: float
    tokens_per_s: float  # history events as the layout holds them, plus targets
    data_wait_share: float  # of the time, the host waiting for a batch; the device may still have work then
    tflops: float  # of the algorithm
    mfu: float | None
    peak_memory_mib: float
    first_step_s: float  # with compilation, and decoding the first buffer


def rows_apart(batches: Iterator[RankBatch]) -> Iterator[RankBatch]:
    """Batches in the layout without request-level batching: each target a request with its own copy of the history."""
    for rank_batch in batches:
        batch = one_row_per_target(rank_batch.batch)
        yield replace(
            rank_batch,
            batch=batch,
            num_requests=batch.num_requests,
            num_events=batch.num_events,
            num_pairs=batch.num_events,
        )


def time_steps(
    what: str,
    lake: Lake,
    manifests: list[Manifest],
    sizes: ModelConfig,
    training: TrainingConfig,
    device: torch.device,
    *,
    apart: bool,
    steps: int,
    warmup: int,
    limit_s: float,
) -> Timing:
    """Train `steps` steps after `warmup`, or as many as `limit_s` seconds allow."""
    tasks = ("click",)
    on_cuda = device.type == "cuda"
    torch.manual_seed(0)
    reader = TrainingReader(lake, manifests, tasks, training, device=device)
    encodings = learn_encodings(lake.log_schema, reader.first_rows())
    ranker = Ranker(sizes, tasks, lake.log_schema, encodings).to(device).train()
    if training.activation_checkpointing:
        checkpoint_activations(ranker)
    if wants_compile(training, device):
        compile_blocks(ranker)
    train_step = TrainStep(ranker, training, 1_000, DistContext(), device)
    monitor = LossMonitor(device, steps, Path())
    if on_cuda:
        gc.collect()  # what was measured before, whose graphs hold one another
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    batches = rows_apart(reader.batches()) if apart else reader.batches()
    waited = targets = tokens = flops = 0.0
    done, began, first_step = 0, time.perf_counter(), 0.0
    with Prefetcher(DeviceLoader(batches, ranker.embeddings, device, train_step.pad_fields)) as prefetched:
        stream = iter(prefetched)
        for number in range(warmup + steps):
            if number == warmup:
                _finish(device)
                began, waited, targets, tokens, flops = time.perf_counter(), 0.0, 0.0, 0.0, 0.0
            elif number > warmup and time.perf_counter() - began > limit_s:
                break
            result = train_step.run(next(stream), number)
            waited += prefetched.last_wait_s
            monitor.add(result)
            list(monitor.checked())
            targets += result.rank_batch.num_targets
            tokens += result.rank_batch.num_targets + result.rank_batch.num_events
            flops += result.flops
            done = number + 1 - warmup
            if number == 0:
                _finish(device)
                first_step = time.perf_counter() - began
        list(monitor.checked(drain=True))
        _finish(device)
        seconds = time.perf_counter() - began
    peak = peak_flops(device)
    return Timing(
        what=what,
        steps=done,
        step_ms=1_000 * seconds / done,
        targets_per_s=targets / seconds,
        tokens_per_s=tokens / seconds,
        data_wait_share=waited / seconds,
        tflops=flops / seconds / 1e12,
        mfu=None if peak is None else flops / seconds / peak,
        peak_memory_mib=peak_memory_mib(device),
        first_step_s=first_step,
    )


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
