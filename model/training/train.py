"""How is a ranker trained? One epoch or more over published samples, resumable at any time to the same result.

Under torchrun every process calls `train` with the same arguments; they take shares of the same batches, and the first
one writes. What one step does stands in model/training/step.py.
"""

import logging
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

from longreel.contracts.config import Config, ModelConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.training_identity import training_identity
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.reader import TrainingReader
from longreel.model.data.windows import Distribution, MakeWindows, WindowSampler
from longreel.model.nn.ranker import Ranker
from longreel.model.training import collisions, golden
from longreel.model.training.checkpoint import load_model, model_digest, save_model
from longreel.model.training.collisions import Collisions
from longreel.model.training.compile import compile_blocks, compile_now, recompute_layers, wants_compile
from longreel.model.training.device import peak_memory_mib, pick_device, repeatable
from longreel.model.training.device_loader import feed
from longreel.model.training.distributed import Ranks, joined, local_device
from longreel.model.training.flops import peak_flops
from longreel.model.training.loss_monitor import Guard, Taken
from longreel.model.training.optimizer import learning_rate
from longreel.model.training.prefetch import Prefetcher
from longreel.model.training.progress import Meter, ProgressPrinter, StepStats
from longreel.model.training.step import Stepper
from longreel.model.training.training_state import Progress, load_state, newest_checkpoint, save_state

log = logging.getLogger(__name__)

__all__ = ["StepStats", "TrainResult", "learning_rate", "pick_device", "train"]

TERMINATED = 143  # 128 + SIGTERM: saved, and to be run again
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
    collisions: tuple[Collisions, ...]
    windows: Distribution  # that requests were read with


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A training's fixed parts."""

    config: Config
    reader: TrainingReader
    stepper: Stepper
    ranks: Ranks
    device: torch.device
    total_steps: int
    fingerprint: str
    work_dir: Path
    probe: RequestBatch  # what the finished model is asked, for whoever judges what was saved of it

    @property
    def ranker(self) -> Ranker:
        return self.stepper.ranker


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
    make_windows: MakeWindows = WindowSampler,
) -> TrainResult:
    """Train on the samples of `days`, and write the model into `out_dir`.

    A `work_dir` with a checkpoint of the same run (settings, data, start) is gone on from, whatever the number of ranks
    that wrote it, and the result is what an uninterrupted run would have given: bit for bit on a CPU and as many ranks.
    SIGTERM to any rank saves and ends all with 143.

    Args:
        init_from: a model folder to start from, e.g. the champion's.
        on_step: called after every step, on CUDA a few steps later.
        make_ranker: builds what is trained, from what Ranker takes; another reader of histories to compare with.
        make_windows: draws the training windows; others to compare with. Neither is part of what names a run: give each
            a `work_dir` of its own.

    Raises:
        DataNotReadyError: a day is not published.
        LongreelError: nothing to train on, a loss that is not finite, or an `init_from` of another shape.
    """
    if not days:
        raise LongreelError("no days to train on; expected at least one published day before the evaluated one")
    manifests = [lake.require("samples", day) for day in sorted(days)]
    device = pick_device(config.training.device)
    with joined(device) as ranks, repeatable(), _sigterm() as terminated:
        run = _prepare(
            config,
            lake,
            manifests,
            work_dir,
            init_from,
            make_ranker,
            make_windows,
            ranks,
            local_device(device) if ranks.size > 1 else device,
        )
        progress = _resume(run)
        with ProgressPrinter("training", silent=not ranks.is_first) as printer:
            for stats in _steps(run, progress, terminated):
                printer.show(stats)
                if on_step is not None:
                    on_step(stats)
        return _finish(run, manifests, progress, out_dir, init_from)


def _prepare(
    config: Config,
    lake: Lake,
    manifests: list[Manifest],
    work_dir: Path,
    init_from: Path | None,
    make_ranker: MakeRanker,
    make_windows: MakeWindows,
    ranks: Ranks,
    device: torch.device,
) -> _Run:
    settings = config.training
    reader = TrainingReader(
        lake,
        manifests,
        config.tasks,
        settings,
        rank=ranks.rank,
        ranks=ranks.size,
        device=device,
        make_windows=make_windows,
    )
    some = reader.first_rows()
    torch.manual_seed(settings.seed)
    ranker = make_ranker(config.model, config.tasks, some.user_features.shape[1])
    if init_from is None:
        ranker.set_prior(reader.label_rates())
    else:
        ranker = _champion(init_from, ranker)
    ranker.to(device).train()
    if settings.recompute:
        recompute_layers(ranker)
    if wants_compile(settings, device):
        compile_blocks(ranker)
        compile_now(ranker, some, device)
    data = {manifest.date: manifest.digest for manifest in manifests}
    start = model_digest(init_from) if init_from is not None else None
    total_steps = sum(reader.num_batches(epoch) for epoch in range(settings.epochs))
    return _Run(
        config=config,
        reader=reader,
        stepper=Stepper(ranker, settings, total_steps, ranks, device),
        ranks=ranks,
        device=device,
        total_steps=total_steps,
        fingerprint=training_identity(config, data, start),
        work_dir=work_dir,
        probe=golden.made_up(some, settings.seed),
    )


def _champion(folder: Path, wanted: Ranker) -> Ranker:
    champion, _ = load_model(folder)
    here, there = ((r.config, r.tasks, r.num_user_features) for r in (wanted, champion))
    if here != there:
        raise LongreelError(f"cannot start from {folder}: it was built as {there}, this run asks for {here}")
    return champion


def _resume(run: _Run) -> Progress:
    """Go on from the newest checkpoint, the same on all ranks; the first one tells which."""
    found = newest_checkpoint(run.work_dir, run.fingerprint) if run.ranks.is_first else None
    name = run.ranks.tell(None if found is None else found.name)
    if name is None:
        return Progress()
    progress, state = load_state(run.work_dir / name, run.ranker)
    run.stepper.load(state)
    return progress


def _save(run: _Run, progress: Progress) -> None:
    state = run.stepper.tensors()
    if run.ranks.is_first:
        save_state(run.work_dir, run.fingerprint, progress, run.ranker, state)
    run.ranks.wait()


def _steps(run: _Run, progress: Progress, terminated: threading.Event) -> Iterator[StepStats]:
    """Take every remaining step, updating `progress`, and save as often as asked; tell of steps once they are known."""
    peak = peak_flops(run.device)
    meter = Meter(None if peak is None else peak * run.ranks.size)
    guard = Guard(run.device, run.total_steps, run.work_dir)
    began = time.monotonic() - progress.seconds
    shares = run.reader.shares(progress.position)
    with Prefetcher(feed(shares, run.ranker.embeddings, run.device, run.stepper.fill)) as batches:
        stream = iter(batches)
        while True:
            asked = time.monotonic()
            fed = next(stream, None)
            waited = time.monotonic() - asked
            if fed is None:
                return
            share = fed.share
            outcome = run.stepper.take(fed, progress.step, terminated.is_set())
            progress.step, progress.position = progress.step + 1, share.position
            progress.targets += share.num_targets
            progress.history_tokens += share.num_events
            guard.add(progress.step, outcome.loss, outcome.gradient_norm, share)
            tokens = share.num_targets + share.num_events
            meter.add(targets=share.num_targets, tokens=tokens, flops=outcome.flops, waited_s=waited)
            last = progress.step == run.total_steps
            due = last or outcome.stop or progress.step % run.config.training.checkpoint_every == 0
            progress.seconds = time.monotonic() - began
            for taken in guard.known(everything=due):
                _note(run, progress, taken)
                yield _stats(run, taken, meter)
            if due:  # whatever was not finite has been raised by now
                _save(run, progress)
            if outcome.stop and not last:
                log.warning("asked to stop: saved step %d in %s; run again to go on", progress.step, run.work_dir)
                sys.exit(TERMINATED)


def _note(run: _Run, progress: Progress, taken: Taken) -> None:
    if taken.step % max(1, run.total_steps // CURVE_POINTS) == 0 or taken.step == run.total_steps:
        progress.curve.append((taken.step, taken.loss))


def _stats(run: _Run, taken: Taken, meter: Meter) -> StepStats:
    training, rates = run.config.training, meter.rates()
    factor = learning_rate(taken.step - 1, run.total_steps, training.warmup_share)
    return StepStats(
        step=taken.step,
        total_steps=run.total_steps,
        loss=taken.loss,
        gradient_norm=taken.gradient_norm,
        lr=factor * training.learning_rate,
        targets_per_s=rates.targets_per_s,
        tokens_per_s=rates.tokens_per_s,
        mean_window=taken.share.num_events / taken.share.num_requests,
        data_wait_share=rates.data_wait_share,
        flop_utilisation=rates.flop_utilisation,
        peak_memory_mib=peak_memory_mib(run.device),
    )


def _finish(
    run: _Run, manifests: list[Manifest], progress: Progress, out_dir: Path, init_from: Path | None
) -> TrainResult:
    found = run.stepper.collisions()
    if run.ranks.is_first:
        collisions.warn(found)
        save_model(
            out_dir,
            run.ranker,
            _meta(run, manifests, progress, init_from) | {"collisions": collisions.described(found)},
            golden.answered(run.ranker, run.probe, run.device),
        )
    run.ranks.wait()
    last = [loss for _, loss in progress.curve[-max(1, len(progress.curve) // 10) :]]
    return TrainResult(
        model_dir=out_dir,
        model_digest=model_digest(out_dir),
        steps=progress.step,
        targets=progress.targets,
        history_tokens=progress.history_tokens,
        final_loss=sum(last) / len(last),
        seconds=progress.seconds,
        curve=tuple(progress.curve),
        collisions=tuple(found),
        windows=run.reader.reads()[1],
    )


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
