"""How good is a model on a day it has not seen: at which window, for whom, at what cost, and by numbers to trust?"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from longreel.contracts.config import Config, EvaluationConfig
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints
from longreel.contracts.report import DataQuality, EvaluationReport, MetricRow
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.data.row_groups import RowGroup, read_rows
from longreel.model.data.samples import SampleRows
from longreel.model.data.windows import splitmix64
from longreel.model.evaluation.batch_scoring import Known, day_groups, score_day
from longreel.model.evaluation.bootstrap import bootstrap_weights
from longreel.model.evaluation.consistency import check_parity
from longreel.model.evaluation.latency import measure
from longreel.model.evaluation.report_builder import Judge, JudgedDay, window_gains
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import load_model, model_digest
from longreel.model.training.device import select_device

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A day as read once: what is judged, and where its longest history lies."""

    day: JudgedDay
    longest_group: int
    longest_request: int  # in that row group

    @property
    def longest_history(self) -> int:
        return int(self.day.history.max(initial=0))


def evaluate(
    model_dir: Path,
    lake: Lake,
    day: date,
    config: Config,
    *,
    policy_digest: str = "",
    code_version: str = "",
    on_progress: OnProgress | None = None,
) -> EvaluationReport:
    """Judge a model on a day's samples over the window ladder.

    The ladder is `config.evaluation.windows`, cut after the first that holds every history of the day. Bootstrap
    replicates resample users; models judged on the same data with the same settings share them draw by draw.

    Args:
        policy_digest, code_version: what else the report is to name.
        on_progress: called as (what, done, total) after every window and once after cost and parity.

    Raises:
        DataNotReadyError: the day is not published.
        LongreelError: there is no whole model in `model_dir`, or the day has no targets.
    """
    settings, device = config.evaluation, select_device(config.training.device)
    manifest = lake.require("samples", day)
    groups = day_groups(lake, day)
    ranker, meta = load_model(model_dir, device)
    keep = _selection(lake, groups, settings)
    read = _look(lake, groups, ranker, keep)
    ladder = _ladder(settings.windows, read.longest_history)
    usual = min(ladder, key=lambda w: (abs(w - int(meta["training_mean_window"])), w))
    weights = bootstrap_weights(len(read.day.history), settings.bootstrap_draws, settings.seed)
    judge = Judge(day=read.day, tasks=ranker.tasks, weights=weights, interval=settings.interval)
    rows: list[MetricRow] = []
    known: Known | None = None
    for done, window in enumerate(ladder):
        logits = score_day(ranker, lake, groups, window, device, keep, known)
        known = Known(window, logits)
        rows += judge.rows(logits, window, keep_draws=window in (usual, ladder[-1]))
        if on_progress is not None:
            on_progress(f"window {window:,}", done + 1, len(ladder) + 1)
    reliability = tuple(judge.reliability(logits))
    some = keep(read_rows(lake, [groups[read.longest_group]]))
    cost = measure(ranker, some, read.longest_request, settings.windows[-1], device)
    parity = tuple(check_parity(ranker, model_dir, some, ladder[-1], device))
    if on_progress is not None:
        on_progress("cost and parity", len(ladder) + 1, len(ladder) + 1)
    return EvaluationReport(
        date=day.isoformat(),
        model_digest=model_digest(model_dir),
        data_digest=digest_of([manifest.digest, settings.max_users, settings.seed if settings.max_users else None]),
        config_digest=config.digest(),
        tasks=ranker.tasks,
        windows=ladder,
        slices=tuple(read.day.slices()),
        training_mean_window=int(meta["training_mean_window"]),
        bootstrap_seed=settings.seed,
        bootstrap_draws=settings.bootstrap_draws,
        interval=settings.interval,
        longest_history=read.longest_history,
        rows=tuple(rows),
        window_gains=window_gains(rows, ladder, usual, settings.interval),
        reliability=reliability,
        scoring=cost,
        parity=parity,
        quality=_quality(manifest),
        policy_digest=policy_digest,
        code_version=code_version,
        extra=_origin(meta),
    )


def _quality(manifest: Manifest) -> DataQuality:
    """A published day passed its checkpoint: that is the commit protocol. Its details hold what it was warned of."""
    return DataQuality(passed=True, warnings=tuple(manifest.details.get("warnings", ())))


def _origin(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: meta.get(name) for name in ("data_watermark", "init_digest", "steps", "targets", "history_tokens")}


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


def _look(lake: Lake, groups: list[RowGroup], ranker: Ranker, keep: Callable[[SampleRows], SampleRows]) -> _Read:
    """Read the labels and the users of a day once."""
    labels, request_user, counts, lengths, surface = [], [], [], [], []
    longest = (0, 0, -1)
    for number, group in enumerate(groups):
        rows = keep(read_rows(lake, [group]))
        labels.append(rows.task_labels(ranker.tasks))
        request_user.append(rows.user_id[rows.request_row])
        counts.append(rows.target_counts)
        lengths.append(rows.history_lengths)
        surface.append(rows.target["surface"])
        if rows.num_requests and rows.history_lengths.max() > longest[2]:
            at = int(np.argmax(rows.history_lengths))
            longest = (number, at, int(rows.history_lengths[at]))
    if not sum(len(part) for part in labels):
        raise LongreelError("nothing to judge: the day's samples hold no targets; choose another day")
    ids, by_request = np.unique(np.concatenate(request_user), return_inverse=True)
    history = np.zeros(len(ids), np.int64)
    np.maximum.at(history, by_request, np.concatenate(lengths))
    request: Ints = np.repeat(np.arange(len(by_request)), np.concatenate(counts))
    day = JudgedDay(
        labels=np.concatenate(labels),
        user=by_request[request],
        request=request,
        surface=np.concatenate(surface),
        history=history,
    )
    return _Read(day=day, longest_group=longest[0], longest_request=longest[1])
