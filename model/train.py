"""How is a ranker trained? One epoch or more over published samples, resumable at any time to the same result."""

import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contracts.config import Config, ModelConfig, TrainingConfig
from contracts.errors import LongreelError
from contracts.lake import Lake, Manifest, digest_of
from model.batch import RequestBatch
from model.checkpoint import load_model, model_digest, save_model
from model.prefetch import Prefetcher
from model.progress import ProgressPrinter, StepStats
from model.ranker import Ranker, ranking_loss
from model.reader import TrainingReader, read_rows
from model.training_state import Progress, load_state, save_state

log = logging.getLogger(__name__)

__all__ = ["StepStats", "TrainResult", "train"]

TERMINATED = 143  # 128 + SIGTERM: saved, and to be run again
FINAL_LR_SHARE = 0.05  # where the cosine ends
CURVE_POINTS = 400

MakeRanker = Callable[[ModelConfig, tuple[str, ...], int], Ranker]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished training leaves."""

    model_dir: Path
    model_digest: str
    steps: int
    targets: int
    history_tokens: int
    final_loss: float  # mean over the last points of the curve
    seconds: float
    curve: tuple[tuple[int, float], ...]  # (step, loss of that step's batch)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A training's fixed parts."""

    config: Config
    reader: TrainingReader
    ranker: Ranker
    optimizer: torch.optim.Optimizer
    device: torch.device
    total_steps: int
    fingerprint: str
    work_dir: Path


def pick_device(name: str) -> torch.device:
    """auto | cpu | cuda -> a device.

    Raises:
        LongreelError: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise LongreelError('[training] device is "cuda", but no CUDA device is there; set it to "auto" or "cpu"')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def learning_rate(step: int, total: int, warmup_share: float) -> float:
    """Factor of the configured rate at `step` (0 ..): linear warmup, then a cosine down to FINAL_LR_SHARE."""
    warmup = max(1, round(warmup_share * total))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(ranker: Ranker, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW in two groups: tables at their own rate without decay, everything else."""
    groups = [
        {"params": list(ranker.table_parameters()), "peak": config.table_learning_rate, "weight_decay": 0.0},
        {"params": list(ranker.dense_parameters()), "peak": config.learning_rate, "weight_decay": config.weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def train(
    config: Config,
    lake: Lake,
    days: list[date],
    work_dir: Path,
    out_dir: Path,
    *,
    init_from: Path | None = None,
    on_step: Callable[[StepStats], None] | None = None,
    make_ranker: MakeRanker = Ranker,
) -> TrainResult:
    """Train on the samples of `days`, and write the model into `out_dir`.

    A `work_dir` with a checkpoint of the same run (settings, data, start) is gone on from, and the result is what an
    uninterrupted run would have given: bit for bit on a CPU. SIGTERM saves and exits with 143.

    Args:
        init_from: a model folder to start from, e.g. the champion's.
        on_step: called after every step.
        make_ranker: builds what is trained, from what Ranker takes; another reader of histories to compare with.

    Raises:
        DataNotReadyError: a day is not published.
        LongreelError: nothing to train on, a loss that is not finite, or an `init_from` of another shape.
    """
    if not days:
        raise LongreelError("no days to train on; expected at least one published day before the evaluated one")
    manifests = [lake.require("samples", day) for day in sorted(days)]
    run = _prepare(config, lake, manifests, work_dir, init_from, make_ranker)
    progress = load_state(work_dir, run.fingerprint, run.ranker, run.optimizer) or Progress()
    with _repeatable(), _sigterm() as terminated, ProgressPrinter("training") as printer:
        started = time.monotonic() - progress.seconds
        for stats in _steps(run, progress):
            progress.seconds = time.monotonic() - started
            printer.show(stats)
            if on_step is not None:
                on_step(stats)
            if terminated.is_set():
                save_state(work_dir, run.fingerprint, progress, run.ranker, run.optimizer)
                log.warning("asked to stop: saved step %d in %s; run again to go on", progress.step, work_dir)
                sys.exit(TERMINATED)
            if progress.step % config.training.checkpoint_every == 0 or progress.step == run.total_steps:
                save_state(work_dir, run.fingerprint, progress, run.ranker, run.optimizer)
    digest = save_model(out_dir, run.ranker, _meta(run, manifests, progress, init_from))
    last = [loss for _, loss in progress.curve[-max(1, len(progress.curve) // 10) :]]
    return TrainResult(
        model_dir=out_dir,
        model_digest=digest,
        steps=progress.step,
        targets=progress.targets,
        history_tokens=progress.history_tokens,
        final_loss=sum(last) / len(last),
        seconds=progress.seconds,
        curve=tuple(progress.curve),
    )


def _prepare(
    config: Config,
    lake: Lake,
    manifests: list[Manifest],
    work_dir: Path,
    init_from: Path | None,
    make_ranker: MakeRanker,
) -> _Run:
    settings = config.training
    device = pick_device(settings.device)
    reader = TrainingReader(lake, manifests, config.tasks, settings)
    width = read_rows(lake, [next(g for g in reader.groups if g.num_requests)]).user_features.shape[1]
    torch.manual_seed(settings.seed)
    ranker = make_ranker(config.model, config.tasks, width)
    if init_from is None:
        ranker.set_prior(reader.label_rates())
    else:
        champion, _ = load_model(init_from)
        here, there = (
            (ranker.config, ranker.tasks, width),
            (champion.config, champion.tasks, champion.num_user_features),
        )
        if here != there:
            raise LongreelError(f"cannot start from {init_from}: it was built as {there}, this run asks for {here}")
        ranker = champion
    ranker.to(device).train()
    data = {manifest.date: manifest.digest for manifest in manifests}
    start = model_digest(init_from) if init_from is not None else None
    chosen = {
        name: value for name, value in asdict(settings).items() if name not in ("checkpoint_every", "window_days")
    }
    made_from = [config.tasks, asdict(config.model), chosen, data, start]
    return _Run(
        config=config,
        reader=reader,
        ranker=ranker,
        optimizer=make_optimizer(ranker, settings),
        device=device,
        total_steps=sum(reader.num_batches(epoch) for epoch in range(settings.epochs)),
        fingerprint=digest_of(made_from),
        work_dir=work_dir,
    )


def _steps(run: _Run, progress: Progress) -> Iterator[StepStats]:
    """Take every remaining step, updating `progress`."""
    began, waited, targets, tokens = time.monotonic(), 0.0, 0, 0
    every = max(1, run.total_steps // CURVE_POINTS)
    with Prefetcher(run.reader.batches(progress.position)) as batches:
        stream = iter(batches)
        while True:
            asked = time.monotonic()
            item = next(stream, None)
            waited += time.monotonic() - asked
            if item is None:
                return
            batch, position = item
            factor = learning_rate(progress.step, run.total_steps, run.config.training.warmup_share)
            loss = _step(run, batch, progress.step, factor)
            progress.step, progress.position = progress.step + 1, position
            progress.targets += batch.num_targets
            progress.history_tokens += batch.num_events
            if progress.step % every == 0 or progress.step == run.total_steps:
                progress.curve.append((progress.step, loss))
            targets, tokens = targets + batch.num_targets, tokens + batch.num_targets + batch.num_events
            elapsed = time.monotonic() - began
            yield StepStats(
                step=progress.step,
                total_steps=run.total_steps,
                loss=loss,
                lr=factor * run.config.training.learning_rate,
                targets_per_s=targets / elapsed,
                tokens_per_s=tokens / elapsed,
                mean_window=batch.num_events / batch.num_requests,
                data_wait_share=waited / elapsed,
            )


def _step(run: _Run, batch: RequestBatch, step: int, factor: float) -> float:
    """One optimiser step; returns the loss."""
    torch.manual_seed((run.config.training.seed << 32) + step + 1)  # dropout depends on the step alone: exact resume
    if run.device.type == "cuda":
        batch = batch.pin_memory().to(run.device, non_blocking=True)
    for group in run.optimizer.param_groups:
        group["lr"] = factor * group["peak"]
    with torch.autocast("cuda", torch.bfloat16, enabled=run.device.type == "cuda"):
        logits = run.ranker(batch)
    loss = ranking_loss(logits, batch.labels)
    value = loss.item()
    if not math.isfinite(value):
        index = batch.request_index
        raise LongreelError(
            f"the loss became {value} at step {step + 1} of {run.total_steps}, in a batch of requests "
            f"{int(index.min())} .. {int(index.max())} of users {batch.user_id[:5].tolist()} ... "
            f"({batch.num_requests} requests, {batch.num_targets} targets); the checkpoint before it is kept in "
            f"{run.work_dir}: lower learning_rate or clip_norm, or look at those rows"
        )
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.ranker.parameters(), run.config.training.clip_norm)
    run.optimizer.step()
    return value


def _meta(run: _Run, manifests: list[Manifest], progress: Progress, init_from: Path | None) -> dict[str, Any]:
    return {
        "data_watermark": manifests[-1].date,
        "days": {manifest.date: manifest.digest for manifest in manifests},
        "config_digest": run.config.digest(),
        "fingerprint": run.fingerprint,
        "init_digest": model_digest(init_from) if init_from is not None else None,
        "training": asdict(run.config.training),
        "training_mean_window": run.config.training.window_mean,
        "user_features": manifests[-1].details.get("user_features"),
        "steps": progress.step,
        "targets": progress.targets,
        "history_tokens": progress.history_tokens,
    }


@contextmanager
def _repeatable() -> Iterator[None]:
    """The same data and seed give the same model on one device: kernels that add in any order are left out."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; only the main thread can listen."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
