"""How good is a model on a day it has not seen, at which window, for whom, and at what cost?"""

import logging
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.config import Config, EvaluationConfig
from contracts.errors import LongreelError
from contracts.lake import Lake, digest_of
from contracts.report import Estimate, EvaluationReport, MetricRow
from model.checkpoint import load_model, model_digest
from model.metrics import Floats, Ints, TaskScores, bootstrap_weights
from model.ranker import Ranker
from model.reader import RowGroup, read_rows
from model.samples import SampleRows
from model.scoring import Known, day_groups, score_batch, score_day
from model.train import pick_device
from model.windows import splitmix64

log = logging.getLogger(__name__)

LATENCY_CANDIDATES = 128
LATENCY_RUNS = 15
HISTORY_SLICES = (32, 128, 512)  # history lengths that part the users
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The selected part of a day, in stored order, without its events."""

    labels: NDArray[np.float32]  # [targets, tasks]
    user: Ints  # [targets] ordinal of the user among the sorted ids
    request_user: Ints  # [requests] likewise
    history: Ints  # [users] behaviours before the user's latest request
    longest: tuple[int, int]  # (row group, request in it) with the longest history


def evaluate(
    model_dir: Path, lake: Lake, day: date, config: Config, *, on_progress: OnProgress | None = None
) -> EvaluationReport:
    """Judge a model on a day's samples over the window ladder.

    The ladder is `config.evaluation.windows`, cut after the first that holds every history of the day. Bootstrap
    replicates resample users; models judged on the same data with the same settings share them draw by draw.

    Args:
        on_progress: called as (what, done, total) after every window and once after the latency measurement.

    Raises:
        DataNotReadyError: the day is not published.
        LongreelError: there is no whole model in `model_dir`, or the day has no targets.
    """
    settings, device = config.evaluation, pick_device(config.training.device)
    manifest = lake.require("samples", day)
    groups = day_groups(lake, day)
    ranker, meta = load_model(model_dir, device)
    keep = _selection(lake, groups, settings)
    judged = _look(lake, groups, ranker, keep)
    ladder = _ladder(settings.windows, int(judged.history.max(initial=0)))
    weights = bootstrap_weights(len(judged.history), settings.bootstrap_draws, settings.seed)
    rows: list[MetricRow] = []
    known: Known | None = None
    for done, window in enumerate(ladder):
        logits = score_day(ranker, lake, groups, window, device, keep, known)
        known = Known(window, logits)
        rows += _judge(logits, judged, ranker.tasks, window, weights, settings.interval)
        if on_progress is not None:
            on_progress(f"window {window:,}", done + 1, len(ladder) + 1)
    latency, shape = _latency(ranker, keep(read_rows(lake, [groups[judged.longest[0]]])), judged, ladder[-1], device)
    if on_progress is not None:
        on_progress("latency", len(ladder) + 1, len(ladder) + 1)
    return EvaluationReport(
        date=day.isoformat(),
        model_digest=model_digest(model_dir),
        data_digest=digest_of([manifest.digest, settings.max_users, settings.seed if settings.max_users else None]),
        config_digest=config.digest(),
        tasks=ranker.tasks,
        windows=ladder,
        training_mean_window=int(meta["training_mean_window"]),
        bootstrap_seed=settings.seed,
        bootstrap_draws=settings.bootstrap_draws,
        interval=settings.interval,
        longest_history=int(judged.history.max(initial=0)),
        rows=tuple(rows),
        latency_ms=latency,
        latency_shape=shape,
        peak_memory_mib=_peak_memory(device),
        device=_device_name(device),
        extra={"data_watermark": meta.get("data_watermark")},
    )


def _ladder(windows: tuple[int, ...], longest: int) -> tuple[int, ...]:
    enough = next((i for i, window in enumerate(windows) if window >= longest), len(windows) - 1)
    return windows[: enough + 1]


def _selection(lake: Lake, groups: list[RowGroup], settings: EvaluationConfig) -> Callable[[SampleRows], SampleRows]:
    """What keeps the chosen users of a row group: all, or those with the smallest hashes."""
    if not settings.max_users:
        return lambda rows: rows
    ids = np.unique(np.concatenate([read_rows(lake, [group]).user_id for group in groups] or [np.zeros(0, np.int64)]))
    rank = splitmix64(ids.astype(np.uint64) ^ splitmix64(np.array([settings.seed], np.uint64)))
    chosen = ids[np.argsort(rank, kind="stable")[: settings.max_users]]
    return lambda rows: rows.of_users(chosen)


def _look(lake: Lake, groups: list[RowGroup], ranker: Ranker, keep: Callable[[SampleRows], SampleRows]) -> _Judged:
    """Read the labels and the users of a day once."""
    labels, target_user, request_user, lengths = [], [], [], []
    longest = (0, 0, -1)
    for number, group in enumerate(groups):
        rows = keep(read_rows(lake, [group]))
        user = rows.user_id[rows.request_row]
        labels.append(rows.task_labels(ranker.tasks))
        request_user.append(user)
        target_user.append(np.repeat(user, rows.target_counts))
        lengths.append(rows.history_lengths)
        if rows.num_requests and rows.history_lengths.max() > longest[2]:
            at = int(np.argmax(rows.history_lengths))
            longest = (number, at, int(rows.history_lengths[at]))
    if not sum(len(part) for part in labels):
        raise LongreelError("nothing to judge: the day's samples hold no targets; choose another day")
    ids, by_request = np.unique(np.concatenate(request_user), return_inverse=True)
    history = np.zeros(len(ids), np.int64)
    np.maximum.at(history, by_request, np.concatenate(lengths))
    return _Judged(
        labels=np.concatenate(labels),
        user=np.searchsorted(ids, np.concatenate(target_user)),
        request_user=by_request,
        history=history,
        longest=longest[:2],
    )


def _slices(history: Ints) -> dict[str, NDArray[np.bool_]]:
    """Which users [users] are in which slice; only slices that hold some but not all users are of interest."""
    bounds = [0, *HISTORY_SLICES]
    slices = {"new users": history == 0}
    for low, high in zip(bounds, [*HISTORY_SLICES, None], strict=True):
        if high is None:
            slices[f"history>={low}"] = history >= low
        else:
            name = f"history<{high}" if low == 0 else f"history {low}-{high - 1}"
            slices[name] = (history >= low) & (history < high)
    return {"all": np.ones(len(history), bool)} | {n: s for n, s in slices.items() if s.any() and not s.all()}


def _judge(
    logits: NDArray[np.float32],
    judged: _Judged,
    tasks: tuple[str, ...],
    window: int,
    weights: NDArray[np.int32],
    interval: float,
) -> list[MetricRow]:
    rows = []
    for column, task in enumerate(tasks):
        scores = logits[:, column].astype(np.float64)
        everything = TaskScores(scores, judged.labels[:, column] > 0, judged.user, len(judged.history))
        for name, chosen in _slices(judged.history).items():
            part = everything if name == "all" else everything.of_users(chosen)
            if not len(part.labels):
                continue

            def estimate(metric: str, part: TaskScores = part, name: str = name) -> Estimate:
                measure = getattr(part, metric)
                return _estimate(float(measure()[0]), measure(weights), interval, keep=name == "all")

            rows.append(
                MetricRow(
                    task=task,
                    window=window,
                    slice=name,
                    users=int(chosen.sum()),
                    requests=int(chosen[judged.request_user].sum()),
                    targets=len(part.labels),
                    positives=int(part.labels.sum()),
                    auc=estimate("auc"),
                    gauc=estimate("gauc"),
                    log_loss=estimate("log_loss"),
                    calibration=estimate("calibration"),
                )
            )
    return rows


def _estimate(value: float, draws: Floats, interval: float, keep: bool) -> Estimate:
    """A value with its percentile interval; replicates without a value are left out of it."""
    if not np.isfinite(value):
        return Estimate(value=None, low=None, high=None)
    seen = draws[np.isfinite(draws)]
    tail = (1 - interval) / 2
    low, high = np.quantile(seen, [tail, 1 - tail]) if len(seen) else (value, value)
    every = tuple(float(x) for x in draws) if keep and len(seen) == len(draws) else ()
    return Estimate(value=value, low=float(low), high=float(high), draws=every)


def _latency(ranker: Ranker, rows: SampleRows, judged: _Judged, window: int, device: torch.device) -> tuple[float, str]:
    """Median ms of scoring the longest history with LATENCY_CANDIDATES targets, its own repeated to that number."""
    one = rows.pack(np.array([judged.longest[1]]), window)
    repeat = torch.arange(LATENCY_CANDIDATES) % max(1, one.num_targets)
    batch = replace(
        one,
        target={name: values[repeat] for name, values in one.target.items()},
        target_offsets=torch.tensor([0, LATENCY_CANDIDATES]),
        labels=one.labels[repeat],
        max_targets=LATENCY_CANDIDATES,
    )
    times = []
    with torch.inference_mode():
        for _ in range(LATENCY_RUNS):
            began = time.perf_counter()
            score_batch(ranker, batch, device)  # ends with a copy to the CPU, which waits for the device
            times.append(1_000 * (time.perf_counter() - began))
    return statistics.median(times[2:]), f"{one.num_events:,} events x {LATENCY_CANDIDATES} candidates"


def _peak_memory(device: torch.device) -> float:
    """MiB: allocated on CUDA, else the process's resident peak, which holds everything it ever did."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} threads"
