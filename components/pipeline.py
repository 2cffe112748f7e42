"""One experiment as a Kubeflow pipeline: train -> evaluate candidate and champion -> decide -> promote.

The same definition runs on one machine (`kfp.local`, see retrain.py) and on a cluster (`pipeline.yaml`, which this
module writes: `python -m components.pipeline`). Component bodies only call the steps; they import inside, because KFP
ships their source alone. `inputs_digest` names data, settings and code, so that KFP's cache follows content.
"""

from pathlib import Path
from typing import NamedTuple

from kfp import compiler, dsl

IMAGE = "longreel/train:0.1.0-python3.11"
YAML = Path(__file__).with_name("pipeline.yaml")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(home: str, date: str, trigger: str, inputs_digest: str) -> int:
    """Train the candidate for a day on the days before it; register it; gives its version."""
    from datetime import date as day
    from pathlib import Path

    from components.train import train_candidate
    from contracts.home import Home

    return train_candidate(Home(Path(home)), day.fromisoformat(date), trigger=trigger).version


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(home: str, date: str, version: int, inputs_digest: str, report: dsl.Output[dsl.Artifact]):  # type: ignore[no-untyped-def]
    """Judge a registered version on a day; version 0 stands for "no champion yet" and gives an empty report."""
    from datetime import date as day
    from pathlib import Path

    from components.evaluate import evaluate_version
    from contracts.home import Home

    text = "null"
    if version:
        text = evaluate_version(Home(Path(home)), day.fromisoformat(date), int(version)).to_json()
    Path(report.path).write_text(text)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def decide(
    home: str,
    version: int,
    candidate: dsl.Input[dsl.Artifact],
    champion: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
) -> str:
    """Judge the reports by the gates, and record evidence and decision; gives promote, hold or reject."""
    from pathlib import Path

    from components.gates import decide as judge
    from components.record import record_judgement
    from contracts.home import Home
    from contracts.report import EvaluationReport

    place, other = Home(Path(home)), Path(champion.path)
    report = EvaluationReport.read(Path(candidate.path))
    against = None if other.read_text() == "null" else EvaluationReport.read(other)
    made = judge(report, against, place.policy)
    record_judgement(place, int(version), report, against, made)
    Path(decision.path).write_text(made.to_json())
    return made.outcome


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(home: str, version: int, decision: dsl.Input[dsl.Artifact], waits_for_approval: bool) -> int:
    """Make the version the champion; gives the ledger entry's number, 0 where a person is to approve it first."""
    from pathlib import Path

    from components import registry
    from components.ledger import Ledger
    from contracts.decision import Decision
    from contracts.home import Home

    if waits_for_approval:
        return 0
    ledger = Ledger(Home(Path(home)))
    chosen = registry.get_version(ledger.client, ledger.model, int(version))
    return ledger.promote(Decision.read(Path(decision.path)), chosen).sequence


class Retrained(NamedTuple):
    """The pipeline's outputs."""

    version: int
    outcome: str


@dsl.pipeline(name="longreel-retrain", description="Train, judge on a fresh day, decide, and promote what is better.")
def retrain_pipeline(
    home: str, date: str, trigger: str, inputs_digest: str, champion: int, waits_for_approval: bool = False
) -> Retrained:
    """One candidate for one day. `champion` is the present champion's version, 0 where there is none."""
    trained = train(home=home, date=date, trigger=trigger, inputs_digest=inputs_digest)
    trained.set_display_name("train")
    judged = evaluate(home=home, date=date, version=trained.output, inputs_digest=inputs_digest)
    judged.set_display_name("evaluate candidate")
    rival = evaluate(home=home, date=date, version=champion, inputs_digest=inputs_digest)
    rival.set_display_name("evaluate champion")
    made = decide(
        home=home,
        version=trained.output,
        candidate=judged.outputs["report"],
        champion=rival.outputs["report"],
    )
    made.set_caching_options(False)  # it writes to MLflow, as does promote
    with dsl.If(made.outputs["Output"] == "promote", name="is it better"):
        moved = promote(
            home=home,
            version=trained.output,
            decision=made.outputs["decision"],
            waits_for_approval=waits_for_approval,
        )
        moved.set_caching_options(False)
    return Retrained(trained.output, made.outputs["Output"])


def compile_to(path: Path) -> None:
    """Write the pipeline's YAML."""
    compiler.Compiler().compile(retrain_pipeline, str(path))


if __name__ == "__main__":
    compile_to(YAML)
    print(f"wrote {YAML}")
