"""Record of a decision on a version and its run: tags, titles and descriptions in MLflow."""

from mlflow import MlflowClient

from longreel.components.registry.versions import MAX_TAG, Version
from longreel.contracts.decision import STOPPING, VERDICTS, Decision

HEADLINE_REASONS = 3  # a broken candidate fails a dozen gates for one cause; its run card has all


def headline(decision: Decision) -> str:
    """The main reasons: the first gates that did not pass, or the comparison with the champion."""
    if decision.outcome != "promote":
        reasons, more = decision.reasons[:HEADLINE_REASONS], len(decision.reasons) - HEADLINE_REASONS
        return " ".join(reasons) + (f" And {more} more." if more > 0 else "")
    compared = [gate.reason for gate in decision.gates if gate.name in ("champion", "champion/superiority")]
    return " ".join(compared) or " ".join(decision.reasons)


def _description(name: str, version: Version, decision: Decision, experiment: str) -> str:
    """A page's text: outcome and main reasons, links, and the other gates worth reading."""
    main = headline(decision)
    card = f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/run_card.html"
    other = [g for g in decision.gates if g.reason not in main and (g.verdict in STOPPING or g.group == "champion")]
    lines = [f"- {g.verdict}: {g.reason}" for g in sorted(other, key=lambda gate: VERDICTS.index(gate.verdict))]
    lines += [f"- {decision.not_evaluated}"] * bool(decision.not_evaluated)
    links = (
        f"Version {version.version} of {name}, evaluated on {decision.date}. The [run card]({card}) has all "
        f"{len(decision.gates)} gates; `longreel model reproduce {version.run_id}` trains it again."
    )
    return "\n".join([f"{decision.outcome}: {main}", "", links, "", *lines])[:MAX_TAG]


def record_decision(client: MlflowClient, name: str, version: Version, decision: Decision) -> None:
    """Tag a version and its run with the decision, and describe it on both pages."""
    values = {
        "policy_version": decision.policy_version,
        "policy_digest": decision.policy_digest,
        "decision": decision.outcome,
        "decision_digest": decision.digest(),
        "decision_reason": headline(decision)[:MAX_TAG],
    }
    title = f"{decision.date} {decision.outcome}, version {version.version}"
    client.update_run(version.run_id, name=title)  # the table of runs then reads as the history of decisions
    client.set_model_version_tag(name, str(version.version), "run_name", title)
    for key, value in values.items():
        client.set_model_version_tag(name, str(version.version), key, value)
        client.set_tag(version.run_id, key, value)
    text = _description(name, version, decision, client.get_run(version.run_id).info.experiment_id)
    client.update_model_version(name, str(version.version), description=text)
    client.set_tag(version.run_id, "mlflow.note.content", text)
