"""What should a judged candidate's MLflow page show? Metrics, plots, data, reports, and why it was decided so."""

import tempfile
from datetime import date
from pathlib import Path

from components import registry, tracking
from components.plots import write_plots
from contracts.decision import Decision
from contracts.home import Home
from contracts.report import EvaluationReport

CANDIDATE_REPORT = "evaluation/report.json"
CHAMPION_REPORT = "evaluation/champion_report.json"
DECISION = "decision/decision.json"
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
    tracking.log_data(client, run_id, home.lake, [manifest], "evaluation")
    for dataset in ("events", "samples"):
        summary = home.reports / report.date / f"quality-{dataset}.json"
        if summary.is_file():  # written where the day was built, which may be another machine's home
            client.log_artifact(run_id, str(summary), QUALITY)
    tracking.log_report(client, run_id, report)
    client.log_text(run_id, report.to_json(), CANDIDATE_REPORT)
    if champion is not None:
        tracking.log_report(client, run_id, champion, prefix="champion/")
        client.log_text(run_id, champion.to_json(), CHAMPION_REPORT)
    client.log_text(run_id, decision.to_json(), DECISION)
    with tempfile.TemporaryDirectory() as folder:
        for plot in write_plots(report, champion, Path(folder)):
            client.log_artifact(run_id, str(plot), PLOTS)
    if decision.candidate_digest != decision.champion_digest:  # a champion judged against itself keeps its own story
        registry.record_decision(client, name, judged, decision)
