"""Training of a ranker: one or more epochs over published samples, resumable at any time to the same result.

Under torchrun every process calls `train` with the same arguments; each trains on its part of every batch, and the main
rank writes. A step stands in model/training/step.py.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from longreel.contracts.config import Config, ModelConfig
from longreel.contracts.definitions import log_schema_changes
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.training_identity import training_identity
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.data.encodings import Encodings, counted_categories, learn_encodings
from longreel.model.data.reader import TrainingReader
from longreel.model.data.samples import SampleRows
from longreel.model.data.windows import Distribution, MakeWindows, WindowSampler, distribution
from longreel.model.nn.ranker import Ranker
from longreel.model.training import collisions, golden
from longreel.model.training.checkpoint import load_model, model_digest, save_model
from longreel.model.training.collisions import Collisions
from longreel.model.training.compile import checkpoint_activations, compile_blocks, compile_now, wants_compile
from longreel.model.training.day_checks import check_training_days
from longreel.model.training.device import deterministic, peak_memory_mib, select_device
from longreel.model.training.device_loader import DeviceLoader
from longreel.model.training.distributed import DistContext, init_process_group, local_device
from longreel.model.training.flops import peak_flops
from longreel.model.training.interruptions import TERMINATED, CheckpointClock, stop_on_sigterm
from longreel.model.training.loss_monitor import LossMonitor
from longreel.model.training.numerics import Numerics, intra_op_threads
from longreel.model.training.optimizer import learning_rate
from longreel.model.training.prefetch import Prefetcher
from longreel.model.training.progress import ProgressPrinter, StepStats
from longreel.model.training.step import StepResult, TrainStep
from longreel.model.training.throughput import Throughput
from longreel.model.training.training_state import TrainingState, load_state, newest_checkpoint, save_state

log = logging.getLogger(__name__)

CURVE_POINTS = 400

MakeRanker = Callable[[ModelConfig, tuple[str, ...], LogSchema, Encodings], Ranker]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished training."""

    model_dir: Path
    model_digest: str
    steps: int
    targets: int
    history_tokens: int
    final_loss: float  # mean over the last points of the curve
    seconds: float
    curve: tuple[tuple[int, float], ...]  # (step, loss of that step's batch)
    collisions: tuple[Collisions, ...]
    windows: Distribution  # of the training's requests


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

    A `work_dir` with a checkpoint of the same run (settings, data, initial model) is resumed, with any number of ranks,
    and the result is that of an uninterrupted run: bit for bit with equal numerics (numerics.py), of which the number
    of threads is set again. SIGTERM to any rank ends all ranks with exit status 143 after the step in progress, which
    is saved, or where that takes longer, after STOP_WITHIN_S (interruptions.py).

    Args:
        init_from: the folder of a model to start from, e.g. the champion's.
        on_step: called after every step, on CUDA a few steps later.
        make_ranker: builds the ranker, from the arguments of `Ranker`; for comparisons with other models.
        make_windows: draws the training windows; for comparisons with other windows. Neither is part of a run's
            fingerprint: give each its own `work_dir`.

    Raises:
        DataNotReadyError: a day is not published.
        LongreelError: nothing to train on, days of other definitions, a label that is the same everywhere, a loss that
            is not finite, or an `init_from` of another shape or log schema.
    """
    if not days:
        raise LongreelError("no days to train on; expected at least one published day before the evaluated one")
    manifests = [lake.require("samples", day) for day in sorted(days)]
    check_training_days(config, lake, manifests)
    device = select_device(config.training.device)
    with init_process_group(device) as ranks, deterministic(), intra_op_threads(None), stop_on_sigterm() as stop:
        device = local_device(device) if ranks.size > 1 else device
        reader = TrainingReader(
            lake,
            manifests,
            config.tasks,
            config.training,
            rank=ranks.rank,
            ranks=ranks.size,
            device=device,
            make_windows=make_windows,
        )
        run = _Run(config, reader, manifests, work_dir, init_from, make_ranker, ranks, device)
        run.resume()
        with ProgressPrinter("training", silent=not ranks.is_main) as printer:
            for stats in run.steps(stop):
                printer.show(stats)
                if on_step is not None:
                    on_step(stats)
        return run.finish(out_dir)


class _Run:
    """A training run: its fixed parts, and its state, which advances step by step."""

    def __init__(
        self,
        config: Config,
        reader: TrainingReader,
        manifests: list[Manifest],
        work_dir: Path,
        init_from: Path | None,
        make_ranker: MakeRanker,
        ranks: DistContext,
        device: torch.device,
    ) -> None:
        self.config, self.reader, self.manifests, self.work_dir = config, reader, manifests, work_dir
        self.ranks, self.device = ranks, device
        rows = reader.first_rows()
        self.ranker = _initial_ranker(config, reader, manifests, rows, init_from, make_ranker, device)
        self.init_digest = None if init_from is None else model_digest(init_from)
        self.golden_requests = golden.make_requests(rows, config.training.seed)
        self.total_steps = sum(reader.num_batches(epoch) for epoch in range(config.training.epochs))
        self.train_step = TrainStep(self.ranker, config.training, self.total_steps, ranks, device)
        self.state = TrainingState()
        self.checkpoint_clock = CheckpointClock()

    @property
    def fingerprint(self) -> str:
        """The identity of this run among others."""
        data = {manifest.date: manifest.digest for manifest in self.manifests}
        return training_identity(self.config, data, self.init_digest)

    def resume(self) -> None:
        """Continue from the newest checkpoint, where there is one; the main rank chooses it for all."""
        newest = newest_checkpoint(self.work_dir, self.fingerprint) if self.ranks.is_main else None
        name = self.ranks.broadcast(None if newest is None else newest.name)
        if name is not None:
            self.state, tensors = load_state(self.work_dir / name, self.ranker)
            self.train_step.load(tensors)
        self._set_numerics()

    def _set_numerics(self) -> None:
        """Compute with as many threads as before the interruption, and record what else is not as it was."""
        recorded = [Numerics(**values) for values in self.state.numerics]
        if recorded and self.device.type == "cpu":
            torch.set_num_threads(recorded[-1].threads)
        now = Numerics.of_process(self.device, self.ranks.size)
        changes = recorded[-1].changes(now) if recorded else []
        if changes:
            log.warning("resumed with other numerics, so not with the same bits: %s", "; ".join(changes))
        if changes or not recorded:
            self.state.numerics.append(asdict(now))

    def steps(self, stop: threading.Event) -> Iterator[StepStats]:
        """Take every remaining step, and checkpoint; yields each step once its loss is known and finite."""
        state, step, clock = self.state, self.train_step, self.checkpoint_clock
        peak = peak_flops(self.device)
        throughput = Throughput(None if peak is None else peak * self.ranks.size)
        monitor = LossMonitor(self.device, self.total_steps, self.work_dir)
        began = time.monotonic() - state.seconds
        batches = self.reader.batches(state.reader_state)
        loader = DeviceLoader(batches, self.ranker.embeddings, self.device, step.pad_fields)
        clock.begin_step()
        with Prefetcher(loader) as prefetched:
            for batch in prefetched:
                result = step.run(batch, state.step, lambda: (stop.is_set(), clock.is_due()))
                state.advance(result.rank_batch)
                state.seconds = time.monotonic() - began
                throughput.add(result, prefetched.last_wait_s)
                monitor.add(result)

                is_last = state.step == self.total_steps
                is_due = state.step % self.config.training.checkpoint_every == 0
                saves = is_last or is_due or result.stop_requested or result.save_requested
                for checked in monitor.checked(drain=saves):  # raises where a loss is not finite
                    self._record(checked)
                    yield self._stats(checked, throughput)
                if saves:
                    self._save()
                if result.stop_requested and not is_last:
                    log.warning("asked to stop: saved step %d in %s; run again to continue", state.step, self.work_dir)
                    sys.exit(TERMINATED)
                clock.begin_step()

    def _record(self, result: StepResult) -> None:
        """Add a step to the loss curve, which keeps CURVE_POINTS of them."""
        if result.step % max(1, self.total_steps // CURVE_POINTS) == 0 or result.step == self.total_steps:
            self.state.curve.append((result.step, result.loss))

    def _stats(self, result: StepResult, throughput: Throughput) -> StepStats:
        training = self.config.training
        factor = learning_rate(result.step - 1, self.total_steps, training.warmup_share)
        return StepStats(
            step=result.step,
            total_steps=self.total_steps,
            loss=result.loss,
            gradient_norm=result.gradient_norm,
            lr=factor * training.learning_rate,
            mean_window=result.rank_batch.num_events / result.rank_batch.num_requests,
            peak_memory_mib=peak_memory_mib(self.device),
            **throughput.rates()._asdict(),
        )

    def _save(self) -> None:
        tensors = self.train_step.tensors()
        if self.ranks.is_main:
            save_state(self.work_dir, self.fingerprint, self.state, self.ranker, tensors)
        self.ranks.barrier()
        self.checkpoint_clock.saved()

    def finish(self, out_dir: Path) -> TrainResult:
        """Write the model folder; the result, on every rank."""
        state, report = self.state, self.train_step.collisions()
        if self.ranks.is_main:
            collisions.warn(report, self.config.log_schema)
            meta = self._meta() | {"collisions": collisions.as_dict(report)}
            save_model(out_dir, self.ranker, meta, golden.tensors(self.ranker, self.golden_requests, self.device))
        self.ranks.barrier()
        last = [loss for _, loss in state.curve[-max(1, len(state.curve) // 10) :]]
        return TrainResult(
            model_dir=out_dir,
            model_digest=model_digest(out_dir),
            steps=state.step,
            targets=state.targets,
            history_tokens=state.history_tokens,
            final_loss=sum(last) / len(last),
            seconds=state.seconds,
            curve=tuple(state.curve),
            collisions=tuple(report),
            windows=distribution(self.reader.windows, self.reader.drawn_windows().ravel()),
        )

    def _meta(self) -> dict[str, Any]:
        return {
            "data_watermark": self.manifests[-1].date,
            "days": {manifest.date: manifest.digest for manifest in self.manifests},
            "config_digest": self.config.digest(),
            "fingerprint": self.fingerprint,
            "init_digest": self.init_digest,
            "training": asdict(self.config.training),
            "training_mean_window": self.config.training.window_mean,
            "steps": self.state.step,
            "targets": self.state.targets,
            "history_tokens": self.state.history_tokens,
            "numerics": self.state.numerics,
        }


def _initial_ranker(
    config: Config,
    reader: TrainingReader,
    manifests: list[Manifest],
    rows: SampleRows,
    init_from: Path | None,
    make_ranker: MakeRanker,
    device: torch.device,
) -> Ranker:
    """The ranker before its first step, on its device, compiled as the settings say."""
    torch.manual_seed(config.training.seed)
    if init_from is None:
        encodings = _encodings(config.log_schema, reader.lake, manifests, rows)
        ranker = make_ranker(config.model, config.tasks, config.log_schema, encodings)
        ranker.set_prior(reader.label_rates())
    else:
        ranker = _saved_ranker(init_from, config)
    ranker.to(device).train()
    if config.training.activation_checkpointing:
        checkpoint_activations(ranker)
    if wants_compile(config.training, device):
        compile_blocks(ranker)
        compile_now(ranker, rows, device)
    return ranker


def _encodings(log_schema: LogSchema, lake: Lake, samples: list[Manifest], rows: SampleRows) -> Encodings:
    """The encodings of the training days: categories from the manifests of their events and users."""
    days = [date.fromisoformat(manifest.date) for manifest in samples]
    manifests = [lake.manifest(dataset, day) for day in days for dataset in ("events", "users")]
    categories = counted_categories(manifest for manifest in manifests if manifest is not None)
    return learn_encodings(log_schema, rows, categories)


def _saved_ranker(folder: Path, config: Config) -> Ranker:
    """The saved model of a folder, with its encodings, if it has the shape and the log schema of `config`."""
    saved, _ = load_model(folder)
    advice = "start from scratch: without a model to start from, or with [training] warm_start = false"
    if changes := log_schema_changes(saved.log_schema, config.log_schema):
        raise LongreelError(f"cannot start from {folder}, which has another log schema: {'; '.join(changes)}; {advice}")
    expected, actual = (config.model, config.tasks), (saved.config, saved.tasks)
    if expected != actual:
        raise LongreelError(
            f"cannot start from {folder}: it was built as {actual}, this run expects {expected}; {advice}"
        )
    return saved
