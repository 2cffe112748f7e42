"""What should a judged candidate's MLflow page show? Metrics, plots, data, a run card, and why it was decided so."""

import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import RunStatus

from longreel.components.registry import registry, tracking
from longreel.components.registry.registry import Version
from longreel.components.reports.plots import PLOTS, reliability, write_plots
from longreel.components.reports.run_card import run_card
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError
from longreel.contracts.report import EvaluationReport
from longreel.lake.home import Home

CANDIDATE_REPORT = "evaluation/report.json"
CHAMPION_REPORT = "evaluation/champion_report.json"
DECISION = "decision/decision.json"
CARD = "run_card.html"
POLICY = "decision/policy.json"  # a digest names a policy; this says what it was
QUALITY = "quality"  # of the judged day what the checkpoints checked and observed; of the training days what they said


def record_judgement(
    home: Home, version: int, report: EvaluationReport, champion: EvaluationReport | None, decision: Decision
) -> None:
    """Write a judged candidate's evidence into its run, and the decision on its version.

    Raises:
        LongreelError: the report is about another model than the version.
    """
    client, name = tracking.open_store(home), registry.model_name(home.config)
    judged = registry.get_version(client, name, version)
    if report.model_digest != judged.model_digest:
        raise LongreelError(
            f"the report is about the model {report.model_digest}, but version {version} is {judged.model_digest}; "
            "name the version that was judged"
        )
    run_id = judged.run_id
    manifest = home.lake.require("samples", date.fromisoformat(report.date))
    first, last = judged.tags.get("train_first_day", "?"), judged.tags.get("train_last_day", "?")
    tags = {"role": "candidate", "trained_on": f"{first} .. {last}", "judged_on": report.date}
    tags |= {"model_digest": report.model_digest, "judged_data_digest": report.data_digest}
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    tracking.log_data(client, run_id, home.lake, [manifest], "evaluation")
    for dataset in ("events", "samples"):
        summary = home.reports / report.date / f"quality-{dataset}.json"
        if summary.is_file():  # written where the day was built, which may be another machine's home
            client.log_artifact(run_id, str(summary), QUALITY)
    tracking.log_report(client, run_id, report)
    client.log_text(run_id, report.to_json(), CANDIDATE_REPORT)
    if champion is not None:
        client.log_text(run_id, champion.to_json(), CHAMPION_REPORT)
        tracking.log_gain(client, run_id, report, champion)
        _record_champion(home, client, judged, champion)
    client.log_text(run_id, decision.to_json(), DECISION)
    client.log_dict(run_id, asdict(home.policy), POLICY)
    settings = {
        "the gate policy": tracking.flatten(asdict(home.policy)),
        "the settings it was trained with": client.get_run(run_id).data.params,
    }
    facts = _facts(home, client, judged, decision)
    with tempfile.TemporaryDirectory() as folder:
        plots = write_plots(report, champion, decision, Path(folder))
        for plot in plots:
            client.log_artifact(run_id, str(plot), PLOTS)
        client.log_text(run_id, run_card(report, champion, decision, facts, plots, settings), CARD)
    if decision.candidate_digest != decision.champion_digest:  # a champion judged against itself keeps its own story
        registry.record_decision(client, name, judged, decision)


def _facts(home: Home, client: MlflowClient, judged: Version, decision: Decision) -> dict[str, str]:
    tags, name = judged.tags, registry.model_name(home.config)
    rival = _registered(client, name, decision.champion_digest)
    return {
        "model": f"{name} version {judged.version}",
        "compared with": "no champion"
        if rival is None
        else f"version {rival.version}, the champion on {decision.date}",
        "MLflow run": home.run_page(judged.run_id) or judged.run_id,
        "trained on": f"{tags.get('train_first_day', '?')} .. {tags.get('train_last_day', '?')}",
        "samples digest": tags.get("samples_digest", ""),
        "trigger": tags.get("trigger", ""),
        "Airflow run": tags.get(tracking.AIRFLOW_TAG, ""),
        "train it again": f"longreel model reproduce {judged.run_id}",
        "go back to the champion before it": "longreel model rollback",
    }


def _registered(client: MlflowClient, name: str, digest: str | None) -> Version | None:
    """The version with a model's digest."""
    return next((v for v in registry.versions(client, name) if v.model_digest == digest), None)


def _record_champion(home: Home, client: MlflowClient, judged: Version, champion: EvaluationReport) -> None:
    """The champion's numbers on the candidate's day, in a run of their own under the candidate's and by the same names,
    so that the comparison view shows the two side by side."""
    experiment = tracking.experiment_id(home, client)
    tags = {"mlflow.parentRunId": judged.run_id, "role": "champion", "model_digest": champion.model_digest}
    tags |= {"judged_on": champion.date, "judged_data_digest": champion.data_digest}
    where = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    if client.search_runs([experiment], where, max_results=1):
        return  # the same evidence, recorded by an earlier call
    made = _registered(client, registry.model_name(home.config), champion.model_digest)
    which = "" if made is None else f", version {made.version}"
    run = client.create_run(experiment, run_name=f"{champion.date} champion{which}", tags=tags)
    if made is not None:  # what it was trained with, so that a comparison shows which settings differ
        origin = client.get_run(made.run_id).data
        tracking.log_settings(client, run.info.run_id, origin.params, {"version": str(made.version)})
    tracking.log_report(client, run.info.run_id, champion)
    client.log_figure(run.info.run_id, reliability(champion), f"{PLOTS}/reliability.png")  # beside the candidate's
    client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FINISHED))
