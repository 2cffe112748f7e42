"""Command `ops retrain`: one candidate for a day, from training to promotion, as one KFP pipeline run.

The run is local or on a server. After a kill at any moment the next call continues: training from its last checkpoint,
every later step from its start. Writes `reports/DATE/`: report.json, champion_report.json, decision.json,
run_card.html, plots/ and, last, summary.json.
"""

import argparse
import json
import logging
import os
import re
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from types import FrameType
from typing import TYPE_CHECKING, Any

from longreel.components.training.spec import TRIGGERS, training_days
from longreel.contracts.dates import parse_day
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import DataNotReadyError, LongreelError, QualityError, TransientError
from longreel.contracts.local_files import write_text_atomic
from longreel.contracts.passwords import without_password
from longreel.lake.home import Home

if TYPE_CHECKING:
    from longreel.components.kfp_server import PipelineServer, Run

STEP_ERRORS = {kind.exit_code: kind for kind in (LongreelError, DataNotReadyError, QualityError)}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrainPlan:
    """The inputs of a pipeline run."""

    inputs_digest: str
    champion: int  # the version to compare with; 0: none
    done: int = 0  # the version with these inputs that was promoted over it; 0: not yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel ops retrain`."""
    parser.add_argument("--date", required=True, help="YYYY-MM-DD: evaluate on this day, train on those before it")
    parser.add_argument("--trigger", choices=TRIGGERS, default="manual", help="why it runs; a tag of the MLflow run")
    parser.add_argument(
        "--no-promote", action="store_true", help="leave promotion to `longreel model promote --date DATE`"
    )
    parser.add_argument(
        "--force", action="store_true", help="train even if DATE is older than [retrain] max_data_age_days allows"
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Run the pipeline and print the result."""
    from longreel.components.reports.summary import print_summary

    day = parse_day(args.date)
    retrain(home, day, trigger=args.trigger, promote=not args.no_promote, force=args.force)
    print_summary(home, day)
    return 0


def plan(home: Home, day: date, *, force: bool = False) -> RetrainPlan:
    """Check the preconditions of a training and return its inputs.

    A champion with the same inputs is the result of an earlier call for this plan, which was killed before it reported
    it or is still running. It is not evaluated against itself; the plan returns it as `done`.

    Raises:
        DataNotReadyError: `day` is not published, or too few days are before it.
        LongreelError: the champion was trained on `day` or later, so it cannot be evaluated there, or its version was
            deleted; or `day` is older than `[retrain] max_data_age_days` allows.
    """
    from longreel.components.decide import INPUTS_TAG
    from longreel.components.evaluate import require_unseen
    from longreel.components.freshness import require_recent
    from longreel.components.registry import store, tracking
    from longreel.components.registry.ledger import Ledger
    from longreel.components.should_retrain import today

    config, lake = home.config, home.lake
    if not force:
        require_recent(day, today(config), config.retrain)
    evaluation_day = lake.require("samples", day)
    days = training_days(list(lake.days("samples")), day, config)
    client = store.open_store(home)
    store.experiment_id(home, client)
    state = Ledger(home, client).settle()
    champion = state.require_champion()
    if state.conflict:  # training and evaluation need no alias; `promote` refuses to move it
        log.warning("%s. Until then nothing is promoted", state.conflict)
    if champion is not None:
        require_unseen(champion.data_watermark, day, f"the champion (version {champion.version})")
    digests = {str(d): lake.require("samples", d).digest for d in days} | {str(day): evaluation_day.digest}
    inputs = digest_of({"samples": digests, "config": config.digest(), "code": tracking.git_sha()})
    if champion is None:
        return RetrainPlan(inputs, 0)
    if champion.tags.get(INPUTS_TAG) == inputs and tracking.has_run(client, champion.run_id):
        return RetrainPlan(inputs, state.before(champion.version) or 0, done=champion.version)
    return RetrainPlan(inputs, champion.version)


def retrain(
    home: Home, day: date, *, trigger: str = "manual", promote: bool = True, force: bool = False
) -> dict[str, Any]:
    """Train, evaluate, decide and, with `promote`, promote for one day; returns the content of summary.json.

    Runs here, or on the pipeline server that the environment names (kfp_server.py).

    Raises:
        LongreelError: see `plan`.
        LongreelError, TransientError: a step of the pipeline failed, with the step's exit code; its output gives the
            reason.
    """
    from longreel.components.kfp_server import PipelineServer

    server, planned = PipelineServer.configured(), plan(home, day, force=force)
    if planned.done:
        log.info("version %d has inputs %s and is the champion already", planned.done, planned.inputs_digest)
        return _report(home, day, planned.done, trigger, planned.champion, 0.0)
    if server is not None:
        run = submit(server, home, day, planned, trigger=trigger, promote=promote)
        print(f"pipeline run {run.run_id} ({run.name}) at {server.host}", flush=True)
        return collect(home, day, server.wait(run.run_id))
    started = time.monotonic()
    log.info("retrain for %s: inputs %s, champion version %s", day, planned.inputs_digest, planned.champion or "none")
    version = _run_here(home, day, planned, trigger, promote)
    return _report(home, day, version, trigger, planned.champion, time.monotonic() - started)


def _arguments(home: str, day: date, planned: RetrainPlan, trigger: str, promote: bool) -> dict[str, Any]:
    """The arguments of the pipeline."""
    values = {"home": home, "date": str(day), "trigger": trigger, "waits_for_approval": not promote}
    return values | {"inputs_digest": planned.inputs_digest, "champion": planned.champion}


def _run_here(home: Home, day: date, planned: RetrainPlan, trigger: str, promote: bool) -> int:
    """Run the pipeline on this machine and return the candidate's version."""
    from kfp import local

    from longreel.components.call import EXIT_CODE_FILE
    from longreel.components.pipeline import retrain_pipeline

    root = home.work / "kfp" / f"{day}-{time.strftime('%Y%m%dT%H%M%S')}"
    root.mkdir(parents=True, exist_ok=True)
    exit_code = root / "exit_code"
    os.environ[EXIT_CODE_FILE] = str(exit_code)
    with _ending_children():
        warnings.filterwarnings("ignore", "Task .* settings .*have no effect")  # display names for a cluster
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
        try:
            pipeline_run: Any = retrain_pipeline(**_arguments(str(home.path), day, planned, trigger, promote))
        except RuntimeError as error:
            cause = re.sub(r"\x1b\[\d*m", "", str(error))
            code = int(exit_code.read_text()) if exit_code.is_file() else TransientError.exit_code
            kind = STEP_ERRORS.get(code, TransientError)
            raise kind(f"the pipeline for {day} failed; the step's output is above. {cause}") from error
    shutil.rmtree(root, ignore_errors=True)
    return int(pipeline_run.outputs["version"])


def submit(
    server: "PipelineServer",
    home: Home,
    day: date,
    planned: RetrainPlan,
    *,
    trigger: str,
    promote: bool,
    requester: str = "",
) -> "Run":
    """The pipeline run for a day on a server: an existing one, or a new one.

    Two requests are the same if they have the same requester (for example an Airflow run), data, settings, code and
    champion.
    """
    from longreel.components.call import CLUSTER_YAML, HOME_PATH

    arguments = _arguments(HOME_PATH, day, planned, trigger, promote)
    return server.submit(run_name(home, day, arguments, requester), CLUSTER_YAML, arguments)


def run_name(home: Home, day: date, arguments: dict[str, Any], requester: str) -> str:
    """The name of a run: readable, and unique to the request."""
    return f"{home.config.name} {day} {digest_of({**arguments, 'requester': requester})}"


def collect(home: Home, day: date, run: "Run") -> dict[str, Any]:
    """Bring the results of an ended run into `reports/DATE/`; returns the content of summary.json.

    Raises:
        TransientError: the run did not succeed.
        LongreelError: no version carries its inputs' digest.
    """
    from longreel.components.decide import INPUTS_TAG
    from longreel.components.kfp_server import age_s, failure_message
    from longreel.components.registry import versions
    from longreel.components.registry.ledger import Ledger

    if not run.succeeded:
        raise TransientError(failure_message(run))
    ledger, inputs = Ledger(home), str(run.parameters["inputs_digest"])
    registered = versions.list_versions(ledger.client, ledger.model)
    numbers = [v.version for v in registered if v.tags.get(INPUTS_TAG) == inputs]
    if not numbers:
        raise LongreelError(
            f"pipeline run {run.run_id} succeeded, but no version of {ledger.model} carries its inputs digest "
            f"{inputs}; do the run's pods and this process share MLflow ({without_password(home.tracking_uri)})?"
        )
    parameters, seconds = run.parameters, age_s(run.created_at)
    return _report(home, day, numbers[-1], str(parameters["trigger"]), int(parameters["champion"]), seconds)


def _report(home: Home, day: date, version: int, trigger: str, champion_before: int, seconds: float) -> dict[str, Any]:
    """Bring a finished candidate's evidence from MLflow into `reports/DATE/`, summary.json last."""
    from longreel.components.registry import tracking, versions
    from longreel.components.registry.decision_record import headline
    from longreel.components.registry.ledger import Ledger
    from longreel.components.reports import record
    from longreel.components.reports.plots import PLOTS
    from longreel.contracts.decision import Decision

    ledger, folder = Ledger(home), home.reports / str(day)
    candidate = versions.get_version(ledger.client, ledger.model, version)
    tracking.require_run(ledger.client, candidate)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", "champion_report.json"):
        (folder / name).unlink(missing_ok=True)
    artifacts = {record.CANDIDATE_REPORT: "report.json", record.DECISION: "decision.json", record.CARD: record.CARD}
    stored = {file.path for file in ledger.client.list_artifacts(candidate.run_id, "evaluation")}
    if champion_before and record.CHAMPION_REPORT in stored:  # one of other definitions has no report
        artifacts[record.CHAMPION_REPORT] = "champion_report.json"
    for artifact, name in artifacts.items():
        shutil.copyfile(tracking.download_artifact(ledger.client, candidate, artifact), folder / name)
    plots = tracking.download_artifact(ledger.client, candidate, PLOTS)
    shutil.copytree(plots, folder / "plots", dirs_exist_ok=True)
    decision = Decision.read(folder / "decision.json")
    summary = {
        "date": str(day),
        "trigger": trigger,
        "model": ledger.model,
        "version": version,
        "model_digest": candidate.model_digest,
        **{name: candidate.tags.get(name, "") for name in ("train_first_day", "train_last_day", "run_name")},
        "run_id": candidate.run_id,
        "outcome": decision.outcome,
        "decision_digest": decision.digest(),
        "headline": headline(decision),
        "reasons": list(decision.reasons),
        "champion_before": champion_before or None,
        "champion_after": ledger.read().number,
        "plots": sorted(f"plots/{path.name}" for path in (folder / "plots").glob("*.png")),
        "seconds": round(seconds, 1),
    }
    write_text_atomic(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


@contextmanager
def _ending_children() -> Iterator[None]:
    """On SIGTERM, end the running step too, which saves a checkpoint; otherwise it would continue alone."""
    import psutil

    def stop(number: int, _frame: FrameType | None) -> None:
        children = psutil.Process().children(recursive=True)
        for child in children:
            child.terminate()
        psutil.wait_procs(children, timeout=20)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
