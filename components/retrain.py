"""The step `retrain`: one candidate for DATE, from training to promotion, as one KFP pipeline run, here or on a server.

Killed at any moment, the next call goes on: training from its last checkpoint, everything after it from its start.
Ends with `reports/DATE/`: report.json, champion_report.json, decision.json, run_card.html, plots/ and, last,
summary.json.
"""

import argparse
import json
import logging
import re
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from longreel.components.train import TRIGGERS, training_days
from longreel.contracts.dates import parse_day
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.home import Home

if TYPE_CHECKING:
    from longreel.components.kfp_server import PipelineServer, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What the pipeline is run with."""

    inputs_digest: str
    champion: int  # the version to compare with; 0 where there is none
    done: int = 0  # the version that is made of these very inputs and was promoted over that one; 0: not yet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel ops retrain`."""
    parser.add_argument("--date", required=True, help="YYYY-MM-DD: judge on this day, train on those before it")
    parser.add_argument("--trigger", choices=TRIGGERS, default="manual", help="why it runs; a tag of the MLflow run")
    parser.add_argument(
        "--no-promote", action="store_true", help="leave promotion to `longreel model promote --date DATE`"
    )
    parser.add_argument(
        "--force", action="store_true", help="train though DATE lies further back than [retrain] max_data_age_days"
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Run the pipeline and print what came out."""
    from longreel.components.reports.summary import print_summary

    day = parse_day(args.date)
    retrain(home, day, trigger=args.trigger, promote=not args.no_promote, force=args.force)
    print_summary(home, day)
    return 0


def plan(home: Home, day: date, *, force: bool = False) -> Plan:
    """Check what can be checked before anything is trained.

    A champion that is made of the very same inputs is what this plan has led to, in a call that was killed before it
    could say so or is still at work: it is not judged against itself, but is what the plan comes to again.

    Raises:
        DataNotReadyError: `day` is not published, or too few days are before it.
        LongreelError: the champion was trained on `day` or later, so it cannot be judged there; or `day` is older than
            `[retrain] max_data_age_days` allows.
    """
    from longreel.components.decide import INPUTS_TAG
    from longreel.components.evaluate import require_unseen
    from longreel.components.freshness import require_young
    from longreel.components.registry import tracking
    from longreel.components.registry.ledger import Ledger
    from longreel.components.should_retrain import today

    config, lake = home.config, home.lake
    if not force:
        require_young(day, today(config), config.retrain)
    judged_on = lake.require("samples", day)
    days = training_days(list(lake.days("samples")), day, config)
    client = tracking.open_store(home)
    tracking.experiment_id(home, client)
    ledger = Ledger(home, client)
    champion = ledger.champion()
    if champion is not None:
        require_unseen(champion.data_watermark, day, f"the champion (version {champion.version})")
    digests = {str(d): lake.require("samples", d).digest for d in days} | {str(day): judged_on.digest}
    inputs = digest_of({"samples": digests, "config": config.digest(), "code": tracking.git_sha()})
    if champion is None:
        return Plan(inputs, 0)
    if champion.tags.get(INPUTS_TAG) == inputs:
        return Plan(inputs, ledger.before(champion) or 0, done=champion.version)
    return Plan(inputs, champion.version)


def retrain(
    home: Home, day: date, *, trigger: str = "manual", promote: bool = True, force: bool = False
) -> dict[str, Any]:
    """Train, evaluate, decide and, where asked to, promote for one day; returns what summary.json holds.

    Runs here, or on the pipeline server that the environment names (server.py).

    Raises:
        LongreelError: see `plan`.
        TransientError: a step of the pipeline failed, and its output says how.
    """
    from longreel.components.kfp_server import PipelineServer

    server, planned = PipelineServer.configured(), plan(home, day, force=force)
    if planned.done:
        log.info("version %d is made of inputs %s and is the champion already", planned.done, planned.inputs_digest)
        return _report(home, day, planned.done, trigger, planned.champion, 0.0)
    if server is not None:
        run = submit(server, home, day, planned, trigger=trigger, promote=promote)
        print(f"pipeline run {run.run_id} ({run.name}) at {server.host}", flush=True)
        return collect(home, day, server.wait(run.run_id))
    started = time.monotonic()
    log.info("retrain for %s: inputs %s, champion version %s", day, planned.inputs_digest, planned.champion or "none")
    version = _run_here(home, day, planned, trigger, promote)
    return _report(home, day, version, trigger, planned.champion, time.monotonic() - started)


def _arguments(home: str, day: date, planned: Plan, trigger: str, promote: bool) -> dict[str, Any]:
    """What the pipeline is called with."""
    values = {"home": home, "date": str(day), "trigger": trigger, "waits_for_approval": not promote}
    return values | {"inputs_digest": planned.inputs_digest, "champion": planned.champion}


def _run_here(home: Home, day: date, planned: Plan, trigger: str, promote: bool) -> int:
    """Run the pipeline on this machine; gives the candidate's version."""
    from kfp import local

    from longreel.components.pipeline import retrain_pipeline

    root = home.work / "kfp" / f"{day}-{time.strftime('%Y%m%dT%H%M%S')}"
    with _children_end_with_us():
        warnings.filterwarnings("ignore", "Task .* settings .*have no effect")  # names for a cluster's graph
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
        try:
            done: Any = retrain_pipeline(**_arguments(str(home.path), day, planned, trigger, promote))
        except RuntimeError as error:
            said = re.sub(r"\x1b\[\d*m", "", str(error))
            raise TransientError(f"the pipeline for {day} failed; the step's output is above. {said}") from error
    shutil.rmtree(root, ignore_errors=True)
    return int(done.outputs["version"])


def submit(
    server: "PipelineServer", home: Home, day: date, planned: Plan, *, trigger: str, promote: bool, asked_by: str = ""
) -> "Run":
    """The pipeline run for a day on a server: the one that is there already, else a new one.

    Two requests are the same if they come from the same place (`asked_by`, say an Airflow run), are for the same data,
    settings and code, and compare with the same champion.
    """
    from longreel.components.call import CLUSTER_YAML, HOME_PATH

    arguments = _arguments(HOME_PATH, day, planned, trigger, promote)
    return server.submit(run_name(home, day, arguments, asked_by), CLUSTER_YAML, arguments)


def run_name(home: Home, day: date, arguments: dict[str, Any], asked_by: str) -> str:
    """A run's name: readable, and the same for the same request only."""
    return f"{home.config.name} {day} {digest_of({**arguments, 'asked_by': asked_by})}"


def collect(home: Home, day: date, run: "Run") -> dict[str, Any]:
    """Bring what an ended run has made into `reports/DATE/`; returns what summary.json holds.

    Raises:
        TransientError: the run did not succeed.
        LongreelError: no version carries its inputs' digest.
    """
    from longreel.components.decide import INPUTS_TAG
    from longreel.components.kfp_server import age_s, failed
    from longreel.components.registry import registry
    from longreel.components.registry.ledger import Ledger

    if not run.succeeded:
        raise TransientError(failed(run))
    ledger, wanted = Ledger(home), str(run.parameters["inputs_digest"])
    made = [v.version for v in registry.versions(ledger.client, ledger.model) if v.tags.get(INPUTS_TAG) == wanted]
    if not made:
        raise LongreelError(
            f"pipeline run {run.run_id} succeeded, but no version of {ledger.model} carries its inputs digest "
            f"{wanted}; do the run's pods and this process share MLflow ({home.tracking_uri})?"
        )
    asked, seconds = run.parameters, age_s(run.created_at)
    return _report(home, day, made[-1], str(asked["trigger"]), int(asked["champion"]), seconds)


def _report(home: Home, day: date, version: int, trigger: str, champion_before: int, seconds: float) -> dict[str, Any]:
    """Bring a finished candidate's evidence from MLflow into `reports/DATE/`, summary.json last."""
    from mlflow.artifacts import download_artifacts

    from longreel.components.registry import registry
    from longreel.components.registry.ledger import Ledger
    from longreel.components.reports import record
    from longreel.contracts.decision import Decision

    ledger, folder = Ledger(home), home.reports / str(day)
    judged = registry.get_version(ledger.client, ledger.model, version)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("summary.json", "champion_report.json"):
        (folder / stale).unlink(missing_ok=True)
    wanted = {record.CANDIDATE_REPORT: "report.json", record.DECISION: "decision.json", record.CARD: record.CARD}
    if champion_before:
        wanted[record.CHAMPION_REPORT] = "champion_report.json"
    uri = ledger.client.tracking_uri
    for artifact, name in wanted.items():
        found = download_artifacts(run_id=judged.run_id, artifact_path=artifact, tracking_uri=uri)
        shutil.copyfile(found, folder / name)
    plots = Path(download_artifacts(run_id=judged.run_id, artifact_path=record.PLOTS, tracking_uri=uri))
    shutil.copytree(plots, folder / "plots", dirs_exist_ok=True)
    decision, champion = Decision.read(folder / "decision.json"), ledger.champion()
    summary = {
        "date": str(day),
        "trigger": trigger,
        "model": ledger.model,
        "version": version,
        "model_digest": judged.model_digest,
        "train_first_day": judged.tags["train_first_day"],
        "train_last_day": judged.tags["train_last_day"],
        "run_id": judged.run_id,
        "run_name": judged.tags["run_name"],
        "outcome": decision.outcome,
        "decision_digest": decision.digest(),
        "reasons": list(decision.reasons),
        "champion_before": champion_before or None,
        "champion_after": None if champion is None else champion.version,
        "plots": sorted(str(path) for path in (folder / "plots").glob("*.png")),
        "seconds": round(seconds, 1),
    }
    draft = folder / "summary.json.draft"
    draft.write_text(json.dumps(summary, indent=1))
    draft.replace(folder / "summary.json")
    return summary


@contextmanager
def _children_end_with_us() -> Iterator[None]:
    """On SIGTERM end the running step too (it saves a checkpoint), where it would go on alone otherwise."""
    import psutil

    def stop(number: int, frame: FrameType | None) -> None:
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
