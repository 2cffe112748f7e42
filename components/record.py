"""What should a judged candidate's MLflow page show? Metrics, plots, data, a run card, and why it was decided so."""

import tempfile
from datetime import date
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import RunStatus

from components import registry, tracking
from components.plots import write_plots
from components.registry import Version
from components.run_card import run_card
from contracts.decision import Decision
from contracts.home import Home
from contracts.report import EvaluationReport

CANDIDATE_REPORT = "evaluation/report.json"
CHAMPION_REPORT = "evaluation/champion_report.json"
DECISION = "decision/decision.json"
CARD = "run_card.html"
PLOTS = "plots"
QUALITY = "quality"  # of the judged day what the checkpoints checked and observed; of the training days what they said


def record_judgement(
    home: Home, version: int, report: EvaluationReport, champion: EvaluationReport | None, decision: Decision
) -> None:
    """Write a judged candidate's evidence into its run, and the decision on its version."""
    client, name = tracking.open_store(home), registry.model_name(home.config)
    judged = registry.get_version(client, name, version)
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
    with tempfile.TemporaryDirectory() as folder:
        plots = write_plots(report, champion, decision, Path(folder))
        for plot in plots:
            client.log_artifact(run_id, str(plot), PLOTS)
        client.log_text(run_id, run_card(report, champion, decision, _facts(name, judged), plots), CARD)
    if decision.candidate_digest != decision.champion_digest:  # a champion judged against itself keeps its own story
        registry.record_decision(client, name, judged, decision)


def _facts(name: str, judged: Version) -> dict[str, str]:
    tags = judged.tags
    return {
        "model": f"{name} version {judged.version}",
        "MLflow run": f"{tags.get('run_name', '')} ({judged.run_id})",
        "trained on": f"{tags.get('train_first_day', '?')} .. {tags.get('train_last_day', '?')}",
        "samples digest": tags.get("samples_digest", ""),
        "trigger": tags.get("trigger", ""),
        "train it again": f"longreel reproduce {judged.run_id}",
        "go back to the champion before it": "longreel rollback",
    }


def _record_champion(home: Home, client: MlflowClient, judged: Version, champion: EvaluationReport) -> None:
    """The champion's numbers on the candidate's day, in a run of their own under the candidate's and by the same names,
    so that the comparison view shows the two side by side."""
    experiment = tracking.experiment_id(home, client)
    tags = {"mlflow.parentRunId": judged.run_id, "role": "champion", "model_digest": champion.model_digest}
    where = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    if client.search_runs([experiment], where, max_results=1):
        return  # the same evidence, recorded by an earlier call
    run = client.create_run(experiment, run_name=f"{champion.date} champion judged again", tags=tags)
    name = registry.model_name(home.config)
    made = next((v for v in registry.versions(client, name) if v.model_digest == champion.model_digest), None)
    if made is not None:  # what it was trained with, so that a comparison shows which settings differ
        origin = client.get_run(made.run_id).data
        tracking.log_settings(client, run.info.run_id, origin.params, {"version": str(made.version)})
    tracking.log_report(client, run.info.run_id, champion)
    client.set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.FINISHED))
