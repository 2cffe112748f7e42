"""Command `longreel model evaluate`: the report of a model on a day after its training days."""

import argparse
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreel.contracts.argument_types import at_least
from longreel.contracts.dates import parse_day
from longreel.contracts.durations import time_left
from longreel.contracts.errors import LongreelError, MissingModelError, OtherDefinitionsError
from longreel.contracts.local_files import write_text_atomic
from longreel.contracts.report import ARTEFACT, ConsistencyCheck, EvaluationReport, UnevaluatedModel
from longreel.lake.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

NO_REPORT = "null"  # content of the champion's report file where there is no champion
LINE_EVERY_S = 5.0
ARTEFACT_ROWS = 16  # user-days scored with the registered artefact too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model evaluate`."""
    parser.add_argument("--date", required=True, help="YYYY-MM-DD: the samples day to evaluate on")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, help="a folder that `longreel model train --out` wrote")
    which.add_argument(
        "--version", type=at_least(0), help="a registered version; 0 (no champion yet): write an empty report to --out"
    )
    which.add_argument("--champion", action="store_true", help="the present champion")
    parser.add_argument("--out", type=Path, help="write the report here (default: reports/DATE/report-MODEL.json)")


def run(args: argparse.Namespace, home: Home) -> int:
    """Evaluate, write the report and print its windows."""
    from longreel.components.gates.preconditions import one_class
    from longreel.components.reports.summary import wide_console, window_table

    day = parse_day(args.date)
    if args.version == 0 and args.out is not None:  # the pipeline passes 0 where there is no champion
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(NO_REPORT)
        return 0
    if args.model is not None:
        report, name = evaluate_model(home, day, args.model), args.model.name
    else:
        from longreel.components.registry.store import open_store

        client = open_store(home)
        version = champion_version(home, client) if args.champion else args.version
        name = "champion" if args.champion else f"v{version}"
        try:
            report = evaluate_version(home, day, version, client)
        except (OtherDefinitionsError, MissingModelError) as error:
            if args.out is None:
                raise
            _write_unevaluated(home, client, version, args.out, error)
            return 0
    out = args.out or home.reports / str(day) / f"report-{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out, report.to_json())
    wide_console().print(window_table(report))
    for task in report.tasks:
        if reason := one_class(report, task):
            print(f"warning: {reason}, so its metrics are undefined; evaluate on another day, or correct this one")
    print(f"report: {out}")
    return 0


def _write_unevaluated(home: Home, client: "MlflowClient", version: int, out: Path, error: LongreelError) -> None:
    """Write the reason in place of a report: `longreel model decide` needs it of a champion."""
    from longreel.components.registry import versions

    registered = versions.get_version(client, versions.model_name(home.config), version)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(UnevaluatedModel(model_digest=registered.model_digest, reason=str(error)).to_json())
    print(f"version {version} was not evaluated: {error}\nreason: {out}")


def champion_version(home: Home, client: "MlflowClient") -> int:
    """The champion's version.

    Raises:
        LongreelError: there is no champion; or ledger and alias disagree on it.
    """
    from longreel.components.registry.ledger import Ledger

    state = Ledger(home, client).read()
    if state.conflict:
        raise LongreelError(f"{state.conflict}. Or name a version with --version")
    champion = state.champion
    if champion is None:
        raise LongreelError("there is no champion yet; promote a version first, or name one with --version")
    return champion.version


def evaluate_version(home: Home, day: date, version: int, client: "MlflowClient | None" = None) -> EvaluationReport:
    """Evaluate a registered version, after verifying its files.

    Raises:
        LongreelError: there is no such version, its files were changed, or it was trained on `day` or later.
    """
    from longreel.components.registry import store, versions

    client, name = client or store.open_store(home), versions.model_name(home.config)
    registered = versions.get_version(client, name, version)
    require_unseen(registered.data_watermark, day, f"version {version}")
    folder = versions.download(client, name, registered)
    report = evaluate_model(home, day, folder)
    artefact = versions.download_all(client, name, registered)
    return replace(report, consistency=(*report.consistency, _check_artefact(home, day, folder, artefact)))


def _check_artefact(home: Home, day: date, model_dir: Path, artefact: Path) -> ConsistencyCheck:
    """Compare the logits of the served artefact with those evaluated, on a sample of the day. `artefact`: all of the
    version's files; MLflow runs their code."""
    import mlflow
    import numpy as np

    from longreel.components.registry.versions import without_bytecode
    from longreel.model.data.encodings import Moments
    from longreel.model.evaluation.batch_scoring import day_groups, request_table
    from longreel.model.evaluation.consistency import compare, rounding, scoring_precision
    from longreel.model.evaluation.serving import Scorer
    from longreel.model.training.device import select_device

    scorer = Scorer.load(model_dir, home.config.training.device)
    table = request_table(home.lake, day_groups(home.lake, day), ARTEFACT_ROWS, scorer.ranker.log_schema)
    with without_bytecode():
        served = mlflow.pyfunc.load_model(str(artefact)).predict(table.to_pandas())
    ours = scorer.score(table).to_pandas()

    def logits(scores: Any) -> Any:
        return np.stack([logit(task, scores[task].to_numpy(np.float64)) for task in scorer.ranker.tasks], axis=1)

    def logit(task: str, values: Any) -> Any:
        if not scorer.ranker.log_schema.label(task).is_number:
            return np.log(values) - np.log1p(-values)
        moments = scorer.ranker.encodings.number_labels.get(task, Moments())
        return (values - moments.mean) / moments.deviation

    evaluated = logits(ours)
    serving = select_device("auto")  # the artefact's device, which the evaluation's setting does not change
    return compare(
        ARTEFACT, evaluated, logits(served), 2 * rounding(scorer.ranker, evaluated, scoring_precision(serving))
    )


def evaluate_model(home: Home, day: date, model_dir: Path) -> EvaluationReport:
    """Evaluate the model in a folder on a day of samples.

    Raises:
        DataNotReadyError: the day is not published.
        LongreelError: the folder holds no model, or one that was trained on `day` or later.
    """
    home.lake.require("samples", day)
    from longreel.components.registry.tracking import git_sha
    from longreel.model.evaluation.evaluate import evaluate
    from longreel.model.training.checkpoint import load_model

    if not model_dir.is_dir():
        raise LongreelError(f"no model folder at {model_dir}; `longreel model train --out` writes one")
    _, meta = load_model(model_dir, "cpu")
    if watermark := meta.get("data_watermark"):
        require_unseen(date.fromisoformat(watermark), day, str(model_dir))
    return evaluate(
        model_dir,
        home.lake,
        day,
        home.config,
        policy_digest=home.policy.digest(),
        code_version=git_sha(),
        on_progress=_Progress(),
    )


def require_unseen(watermark: date, day: date, what: str) -> None:
    """Raises LongreelError unless `day` is after the model's last training day `watermark`."""
    if watermark >= day:
        raise LongreelError(
            f"{what} was trained through {watermark}, so it cannot be evaluated on {day}; take a later day"
        )


class _Progress:
    """Prints a line for each new part of an evaluation, and one every LINE_EVERY_S, with the time that is left."""

    def __init__(self) -> None:
        self._began, self._last_line, self._last_part = time.monotonic(), 0.0, ""

    def __call__(self, what: str, share_done: float) -> None:
        now = time.monotonic()
        if what == self._last_part and share_done < 1 and now - self._last_line < LINE_EVERY_S:
            return
        self._last_line, self._last_part = now, what
        left = time_left(now - self._began, share_done)
        print(f"evaluate: {what}, {share_done:.0%} done, {left}", file=sys.stderr, flush=True)
