"""Command `longreel model decide`: a decision file from two reports and the policy, optionally logged to MLflow."""

import argparse
from pathlib import Path

from longreel.contracts.argument_types import at_least
from longreel.contracts.report import EvaluationReport, UnevaluatedModel
from longreel.lake.home import Home

INPUTS_TAG = "inputs_digest"  # of a version: links it to the pipeline run that trained it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model decide`."""
    parser.add_argument(
        "--candidate", type=Path, required=True, help="the candidate's report (`longreel model evaluate`)"
    )
    parser.add_argument("--champion", type=Path, help="the champion's report on the same data; none: no champion yet")
    parser.add_argument("--out", type=Path, help="write the decision here (default: decision.json by the candidate's)")
    parser.add_argument(
        "--record", type=at_least(1), metavar="VERSION", help="write evidence and decision to its MLflow run"
    )
    parser.add_argument("--inputs-digest", help="with --record: digest of the version's inputs; becomes a tag")
    parser.add_argument("--outcome-out", type=Path, help="write promote, hold or reject to this file")


def run(args: argparse.Namespace, home: Home) -> int:
    """Decide, write the decision and print its reasons."""
    from longreel.components.gates.decide import decide
    from longreel.components.reports.summary import decision_table, wide_console

    report, baseline = EvaluationReport.read(args.candidate), _champion(args.champion)
    decision = decide(report, baseline, home.policy)
    if args.record is not None:
        from longreel.components.registry import store, versions
        from longreel.components.reports.record import log_evaluation

        client, name = store.open_store(home), versions.model_name(home.config)
        champion = baseline if isinstance(baseline, EvaluationReport) else None
        log_evaluation(home, args.record, report, champion, decision, client)
        if args.inputs_digest is not None:
            client.set_model_version_tag(name, str(args.record), INPUTS_TAG, args.inputs_digest)
    out = args.out or args.candidate.with_name("decision.json")
    for path, text in ((out, decision.to_json()), (args.outcome_out, decision.outcome)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    wide_console().print(decision_table(decision))
    print(f"decision: {out}")
    return 0


def _champion(path: Path | None) -> EvaluationReport | UnevaluatedModel | None:
    """The champion's report, or why it has none; None where there is no champion, or where
    `longreel model evaluate --version 0` said so."""
    from longreel.components.evaluate import NO_REPORT

    if path is None or (path.is_file() and path.read_text() == NO_REPORT):
        return None
    unevaluated = UnevaluatedModel.from_json(path.read_text()) if path.is_file() else None
    return unevaluated or EvaluationReport.read(path)
