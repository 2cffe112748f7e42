"""Decision on a version computed again from the reports that its MLflow run has, to compare a given one with."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from longreel.components.registry.versions import Version
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError
from longreel.contracts.report import EvaluationReport, UnevaluatedModel
from longreel.lake.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient


def confirm(home: Home, client: "MlflowClient", version: Version, decision: Decision) -> Decision:
    """The decision by the home's gate policy and the recorded reports, if the given one is the same.

    Raises:
        LongreelError: it differs, the version has no recorded reports, or these were changed.
    """
    from longreel.components.gates.decide import decide
    from longreel.components.reports.record import CANDIDATE_REPORT, CHAMPION_REPORT, CHAMPION_REPORT_TAG, REPORT_TAG

    report = _recorded(client, version, CANDIDATE_REPORT, REPORT_TAG)
    if report is None:
        raise LongreelError(
            f"version {version.version} has no recorded evaluation, which a promotion needs; run `longreel model "
            f"decide --candidate FILE --record {version.version}`, with --champion FILE where there is a champion"
        )
    baseline: EvaluationReport | UnevaluatedModel | None
    baseline = _recorded(client, version, CHAMPION_REPORT, CHAMPION_REPORT_TAG)
    if baseline is None and decision.champion_digest is not None:
        baseline = UnevaluatedModel(model_digest=decision.champion_digest, reason="it has no recorded report")
    again = decide(report, baseline, home.policy)
    if again.digest() != decision.digest():
        raise LongreelError(
            f"the decision is not what the recorded reports of version {version.version} and the gate policy give: "
            f"{'; '.join(_differences(decision, again))}. Evaluate and decide again, with --record {version.version}"
        )
    return again


def _recorded(client: "MlflowClient", version: Version, path: str, tag: str) -> EvaluationReport | None:
    """A report of the version's run; None where none was recorded."""
    from longreel.components.registry.tracking import download_artifact
    from longreel.components.reports.record import text_digest

    recorded = version.tags.get(tag, "none")
    if recorded == "none":
        return None
    report = EvaluationReport.read(download_artifact(client, version, path))
    if (digest := text_digest(report)) != recorded:
        raise LongreelError(
            f"{path} of run {version.run_id} has digest {digest}, recorded with version {version.version} was "
            f"{recorded}: it was changed; evaluate and decide again, with --record {version.version}"
        )
    return report


def _differences(given: Decision, again: Decision) -> list[str]:
    """What differs, as sentences' parts: fields, and gates by their verdicts."""
    ours, theirs = asdict(given), asdict(again)
    lines = [
        f"{name} is {ours[name]}, expected {theirs[name]}"
        for name in ours
        if name != "gates" and ours[name] != theirs[name]
    ]
    verdicts, expected = ({gate.name: gate.verdict for gate in one.gates} for one in (given, again))
    for name in [*expected, *(name for name in verdicts if name not in expected)]:
        if verdicts.get(name) != expected.get(name):
            lines.append(f"gate {name} is {verdicts.get(name, 'missing')}, expected {expected.get(name, 'none')}")
    return lines[:5] or ["the order of its gates"]
