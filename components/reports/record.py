"""MLflow record of an evaluated candidate: metrics, plots, data, run card and decision."""

import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import RunStatus

from longreel.components.registry import metrics, store, tracking, versions
from longreel.components.registry.decision_record import record_decision
from longreel.components.registry.versions import Version
from longreel.components.reports.plots import PLOTS, reliability, write_plots
from longreel.components.reports.run_card import run_card
from longreel.contracts.decision import Decision
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.contracts.report import EvaluationReport
from longreel.lake.home import Home

CANDIDATE_REPORT = "evaluation/report.json"
CHAMPION_REPORT = "evaluation/champion_report.json"
REPORT_TAG, CHAMPION_REPORT_TAG = "report_digest", "champion_report_digest"  # of a version; "none": no such report
DECISION = "decision/decision.json"
CARD = "run_card.html"
POLICY = "decision/policy.json"  # the policy's settings, of which tags have only the digest
QUALITY = "quality"  # data checkpoints: of the evaluated day in full, of the training days their results


def log_evaluation(
    home: Home,
    version: int,
    report: EvaluationReport,
    champion: EvaluationReport | None,
    decision: Decision,
    client: MlflowClient | None = None,
) -> None:
    """Write a candidate's evidence into its run, and the decision on its version.

    Raises:
        LongreelError: the report is about another model than the version, or the version's run was deleted.
    """
    client, name = client or store.open_store(home), versions.model_name(home.config)
    candidate = versions.get_version(client, name, version)
    if report.model_digest != candidate.model_digest:
        raise LongreelError(
            f"the report is about the model {report.model_digest}, but version {version} is "
            f"{candidate.model_digest}; name the version that was evaluated"
        )
    tracking.require_run(client, candidate)
    run_id = candidate.run_id
    manifest = home.lake.require("samples", date.fromisoformat(report.date))
    first, last = candidate.tags.get("train_first_day", "?"), candidate.tags.get("train_last_day", "?")
    tags = {"role": "candidate", "trained_on": f"{first} .. {last}", "evaluated_on": report.date}
    tags |= {"model_digest": report.model_digest, "evaluation_data_digest": report.data_digest}
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    tracking.log_datasets(client, run_id, home.lake, [manifest], "evaluation")
    for dataset in ("events", "samples"):
        summary = home.reports / report.date / f"quality-{dataset}.json"
        if summary.is_file():  # it lies where the day was built, which may be another machine
            client.log_artifact(run_id, str(summary), QUALITY)
    metrics.log_report(client, run_id, report)
    client.log_text(run_id, report.to_json(), CANDIDATE_REPORT)
    for tag, evidence in ((REPORT_TAG, report), (CHAMPION_REPORT_TAG, champion)):
        client.set_model_version_tag(name, str(version), tag, "none" if evidence is None else text_digest(evidence))
    if champion is not None:
        client.log_text(run_id, champion.to_json(), CHAMPION_REPORT)
        metrics.log_gain(client, run_id, report, champion)
        _record_champion(home, client, candidate, champion)
    client.log_text(run_id, decision.to_json(), DECISION)
    client.log_dict(run_id, asdict(home.policy), POLICY)
    settings = {
        "gate policy": tracking.flatten(asdict(home.policy)),
        "training settings": client.get_run(run_id).data.params,
    }
    facts = _facts(home, client, candidate, decision)
    with tempfile.TemporaryDirectory() as folder:
        plots = write_plots(report, champion, decision, Path(folder))
        for plot in plots:
            client.log_artifact(run_id, str(plot), PLOTS)
        client.log_text(run_id, run_card(report, champion, decision, facts, plots, settings), CARD)
    if decision.candidate_digest != decision.champion_digest:  # a champion compared with itself keeps its record
        record_decision(client, name, candidate, decision)


def text_digest(report: EvaluationReport) -> str:
    """Digest of all of a report as it is stored, scoring cost and consistency checks included."""
    return digest_of(report.to_json())


def _facts(home: Home, client: MlflowClient, candidate: Version, decision: Decision) -> dict[str, str]:
    tags, name = candidate.tags, versions.model_name(home.config)
    baseline = _registered(client, name, decision.champion_digest)
    return {
        "model": f"{name} version {candidate.version}",
        "compared with": "no champion"
        if baseline is None
        else f"version {baseline.version}, the champion on {decision.date}",
        "MLflow run": home.run_page(candidate.run_id) or candidate.run_id,
        "trained on": f"{tags.get('train_first_day', '?')} .. {tags.get('train_last_day', '?')}",
        "samples digest": tags.get("samples_digest", ""),
        "trigger": tags.get("trigger", ""),
        "Airflow run": tags.get(tracking.AIRFLOW_TAG, ""),
        "reproduce": f"longreel model reproduce {candidate.run_id}",
        "roll back": "longreel model rollback",
    }


def _registered(client: MlflowClient, name: str, digest: str | None) -> Version | None:
    """The version with a model digest."""
    return next((v for v in versions.list_versions(client, name) if v.model_digest == digest), None)


def _record_champion(home: Home, client: MlflowClient, candidate: Version, champion: EvaluationReport) -> None:
    """Log the champion's metrics on the candidate's day in a run below the candidate's, with the same metric names, so
    that the comparison view shows both side by side."""
    experiment = store.experiment_id(home, client)
    tags = {"mlflow.parentRunId": candidate.run_id, "role": "champion", "model_digest": champion.model_digest}
    tags |= {"evaluated_on": champion.date, "evaluation_data_digest": champion.data_digest}
    filter_string = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    if client.search_runs([experiment], filter_string, max_results=1):
        return  # an earlier call has recorded the same evidence
    version = _registered(client, versions.model_name(home.config), champion.model_digest)
    suffix = "" if version is None else f", version {version.version}"
    run = client.create_run(experiment, run_name=f"{champion.date} champion{suffix}", tags=tags)
    # its settings, so that a comparison shows which ones differ; a run that was deleted has none to show
    if version is not None and tracking.has_run(client, version.run_id):
        origin = client.get_run(version.run_id).data
        tracking.log_settings(client, run.info.run_id, origin.params, {"version": str(version.version)})
    metrics.log_report(client, run.info.run_id, champion)
    client.log_figure(run.info.run_id, reliability(champion), f"{PLOTS}/reliability.png")  # beside the candidate's
    client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FINISHED))
