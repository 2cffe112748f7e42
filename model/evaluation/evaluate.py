"""Evaluation of a model on a day it has not seen: metrics by window and slice, scoring cost, consistency checks."""

from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.config import Config, EvaluationConfig
from longreel.contracts.definitions import model_conflicts
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, OtherDefinitionsError
from longreel.contracts.report import DataQuality, EvaluationReport, MetricRow
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.data.row_groups import read_rows
from longreel.model.evaluation.batch_scoring import CachedLogits, day_groups, predictions, score_day
from longreel.model.evaluation.bootstrap import bootstrap_weights
from longreel.model.evaluation.consistency import check_consistency
from longreel.model.evaluation.eval_set import EvalSet, Selection, category_names, load_eval_set, select_users
from longreel.model.evaluation.latency import measure
from longreel.model.evaluation.report_builder import ReportBuilder, window_gains
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import load_model, model_digest
from longreel.model.training.device import select_device

OnProgress = Callable[[str, float], None]
SCORING_SHARE = 0.95  # of an evaluation's time, about; the rest is scoring cost and consistency


def evaluate(
    model_dir: Path,
    lake: Lake,
    day: date,
    config: Config,
    *,
    policy_digest: str = "",
    code_version: str = "",
    on_progress: OnProgress = lambda *_: None,
) -> EvaluationReport:
    """Evaluate a model on a day's samples at the evaluation windows.

    These are `config.evaluation.windows`, cut after the first that holds every history of the day. Bootstrap replicates
    resample users; models evaluated on the same data with the same settings share them draw by draw.

    Args:
        policy_digest, code_version: recorded in the report.
        on_progress: called as (what, share done of the whole) after every scored row group and every window, and once
            after scoring cost and consistency.

    Raises:
        DataNotReadyError: the day is not published.
        LongreelError: there is no whole model in `model_dir`, or the day has no targets.
        OtherDefinitionsError: the day's values have another meaning than those that the model was trained on.
    """
    settings, device = config.evaluation, select_device(config.training.device)
    manifest, groups = lake.require("samples", day), day_groups(lake, day)
    ranker, meta = load_model(model_dir, device)
    selection = select_users(lake, groups, settings)
    _require_fit(manifest, ranker, lake)
    names = category_names(lake, day)
    eval_set = load_eval_set(lake, groups, ranker.tasks, selection, log_schema=ranker.log_schema, names=names)
    windows = _eval_windows(settings.windows, eval_set.longest_history)
    reference = min(windows, key=lambda w: (abs(w - int(meta["training_mean_window"])), w))
    builder = _report_builder(eval_set, ranker, settings)
    score = partial(score_day, ranker, lake, groups, device=device)
    rows, scores = _metric_rows(builder, ranker, score, selection, windows, reference, on_progress)
    longest_rows = selection(read_rows(lake, [groups[eval_set.longest_group]], ranker.log_schema))
    scoring = measure(ranker, longest_rows, eval_set.longest_request, settings.windows[-1], device)
    consistency = tuple(check_consistency(ranker, model_dir, longest_rows, windows[-1], device))
    on_progress("scoring cost and consistency", 1.0)
    return EvaluationReport(
        date=day.isoformat(),
        model_digest=model_digest(model_dir),
        data_digest=digest_of([manifest.digest, settings.max_users, settings.seed if settings.max_users else None]),
        config_digest=config.digest(),
        tasks=ranker.tasks,
        windows=windows,
        slices=tuple(eval_set.slices()),
        training_mean_window=int(meta["training_mean_window"]),
        bootstrap_seed=settings.seed,
        bootstrap_draws=settings.bootstrap_draws,
        interval=settings.interval,
        longest_history=eval_set.longest_history,
        rows=tuple(rows),
        number_tasks=builder.number_tasks,
        window_gains=window_gains(rows, windows, reference, settings.interval, builder.number_tasks),
        reliability=tuple(builder.reliability(scores)),
        scoring=scoring,
        consistency=consistency,
        quality=_quality(manifest),
        policy_digest=policy_digest,
        code_version=code_version,
        extra=_origin(meta),
    )


def _require_fit(manifest: Manifest, ranker: Ranker, lake: Lake) -> None:
    """Raises LongreelError where the day's values mean something else to the model, or its labels to the lake."""
    if (stored := manifest.details.get("definitions")) is None:
        return
    where = f"samples of {manifest.date}"
    if conflicts := model_conflicts(stored, ranker.log_schema, ranker.tasks):
        raise OtherDefinitionsError(
            f"{where} have other definitions than the model's training: {'; '.join(conflicts)}. Evaluate a model that "
            "was trained with the present definitions, or a day that has the model's"
        )
    names = tuple(label["name"] for label in stored["labels"] if label["kind"] == "binary")
    if names != lake.log_schema.binary_labels:
        raise LongreelError(
            f"{where} have the labels {', '.join(names)}, but [labels] now declares "
            f"{', '.join(lake.log_schema.binary_labels)}; rebuild the day, see `longreel data stale`"
        )


def _report_builder(eval_set: EvalSet, ranker: Ranker, settings: EvaluationConfig) -> ReportBuilder:
    return ReportBuilder(
        eval_set=eval_set,
        tasks=ranker.tasks,
        weights=bootstrap_weights(len(eval_set.history), settings.bootstrap_draws, settings.seed),
        interval=settings.interval,
        number_tasks=tuple(task for task in ranker.tasks if ranker.log_schema.label(task).is_number),
    )


def _metric_rows(
    builder: ReportBuilder,
    ranker: Ranker,
    score: Callable[..., NDArray[np.float32]],
    selection: Selection,
    windows: Sequence[int],
    reference: int,
    on_progress: OnProgress,
) -> tuple[list[MetricRow], NDArray[np.float32]]:
    """Rows of all windows, and the scores of the longest; requests without more history keep those of a shorter one."""
    rows: list[MetricRow] = []
    number_columns = [ranker.tasks.index(task) for task in builder.number_tasks]
    cached: CachedLogits | None = None
    cached_at_once: CachedLogits | None = None
    shares = _shares_of_time(builder.eval_set, windows)
    for number, window in enumerate(windows):
        begin, half = SCORING_SHARE * sum(shares[:number]), SCORING_SHARE * shares[number] / 2
        scoring, again = (_advance(on_progress, f"window {window:,}", start, half) for start in (begin, begin + half))
        logits = score(window=window, selection=selection, cached=cached, on_group=scoring)
        one_a_row = lambda r: selection(r).one_request_a_row()  # noqa: E731
        at_once = score(window=window, selection=one_a_row, cached=cached_at_once, on_group=again)
        cached, cached_at_once = CachedLogits(window, logits), CachedLogits(window, at_once)
        scores = logits.copy()
        if number_columns:
            scores[:, number_columns] = predictions(ranker, logits)[:, number_columns]
        rows += builder.rows(scores, at_once, window, keep_draws=window in (reference, windows[-1]))
        on_progress(f"window {window:,}", begin + 2 * half)
    return rows, scores


def _advance(on_progress: OnProgress, what: str, begin: float, share: float) -> Callable[[float], None]:
    """Reports the progress of a part that begins at `begin` and takes `share` of the whole."""
    return lambda done: on_progress(what, begin + share * done)


def _shares_of_time(eval_set: EvalSet, windows: Sequence[int]) -> list[float]:
    """About what each window's scoring takes of all: tokens of the requests with more events than the window before."""
    history, tokens = eval_set.history[eval_set.user], []
    for shorter, window in zip((-1, *windows), windows, strict=False):
        longer = history[history > shorter]
        tokens.append(float(np.minimum(longer, window).sum() + len(longer)))
    return [part / sum(tokens) for part in tokens]


def _quality(manifest: Manifest) -> DataQuality:
    """The data checkpoint's result: a published day passed it, and its manifest holds the warnings."""
    return DataQuality(passed=True, warnings=tuple(manifest.details.get("warnings", ())))


def _origin(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: meta.get(name) for name in ("data_watermark", "init_digest", "steps", "targets", "history_tokens")}


def _eval_windows(windows: tuple[int, ...], longest: int) -> tuple[int, ...]:
    """The windows up to the first that holds every history; longer ones would show the same events."""
    enough = next((i for i, window in enumerate(windows) if window >= longest), len(windows) - 1)
    return windows[: enough + 1]
