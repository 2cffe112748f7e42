"""Life of a candidate: trained, registered, evaluated, decided, recorded, promoted, scoring."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from longreel.cli import main
from longreel.components.evaluate import evaluate_version
from longreel.components.gates.decide import decide
from longreel.components.registry import store, tracking, versions
from longreel.components.registry.ledger import Ledger
from longreel.components.reports.record import CANDIDATE_REPORT, CARD, POLICY, log_evaluation
from longreel.components.reproduce import _differences
from longreel.components.should_retrain import policy_answer
from longreel.components.train import train_candidate
from longreel.components.training.logged_training import ENCODINGS, LOG_SCHEMA
from longreel.components.training.spec import training_spec
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.report import ARTEFACT, CHECKS, EvaluationReport
from longreel.lake.home import CONFIG_FILE, POLICY_FILE, Home
from longreel.model.evaluation.serving import Scorer
from longreel.model.training.checkpoint import load_model
from longreel.model.training.numerics import intra_op_threads
from tests.components.training_process import start_training

DAY = date(2026, 1, 3)
BLANK = Figure(figsize=(0.1, 0.1))
MakeHome = Callable[..., Home]


def evaluate_and_decide(home: Home, version: int, day: date) -> str:
    """Evaluate, decide and record against the present champion; promote where the decision says so."""
    ledger = Ledger(home)
    champion = ledger.champion()
    report = evaluate_version(home, day, version)
    against = None if champion is None else evaluate_version(home, day, champion.version)
    decision = decide(report, against, home.policy)
    log_evaluation(home, version, report, against, decision)
    if decision.outcome == "promote":
        ledger.promote(decision, versions.get_version(ledger.client, ledger.model, version))
    return decision.outcome


@pytest.fixture
def _blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are written blank, which is all that tests of their names need."""
    save = Figure.savefig

    def save_blank(self: Figure, path: Any, **options: Any) -> None:
        save(BLANK, path)

    monkeypatch.setattr(Figure, "savefig", save_blank)


def test_a_candidate_from_training_to_scoring(make_home: MakeHome, tmp_path: Path) -> None:
    home = make_home(4)
    assert policy_answer(home, DAY).is_due
    candidate = train_candidate(home, DAY, trigger="freshness")
    assert policy_answer(home, DAY).is_due  # trained, but not evaluated: an interrupted retrain is still due
    (home.reports / str(DAY)).mkdir(parents=True)
    (home.reports / str(DAY) / "quality-samples.json").write_text('{"success": true}')
    assert evaluate_and_decide(home, candidate.version, DAY) == "promote"
    assert not policy_answer(home, DAY).is_due

    client = store.open_store(home)
    run = client.get_run(candidate.run_id)
    assert run.info.run_name == "2026-01-03 promote, version 1"
    assert run.info.status == "FINISHED"
    assert run.data.tags["trigger"] == "freshness"
    assert run.data.tags["decision"] == "promote"
    assert run.data.params["training.window_mean"] == "16"
    schema = home.config.log_schema
    assert run.data.params["log_schema.user fields"] == "taste, constant"
    assert run.data.tags["log_schema"] == run.data.params["log_schema.digest"] == schema.digest()
    stored = json.loads(Path(client.download_artifacts(candidate.run_id, LOG_SCHEMA)).read_text())
    assert LogSchema.from_dict(stored) == schema
    encodings = json.loads(Path(client.download_artifacts(candidate.run_id, ENCODINGS)).read_text())
    assert len(encodings["codes"]["taste"]) == 6
    assert "duration_ms" in encodings["boundaries"]
    inputs = {(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs}
    days = [DAY - timedelta(days=2), DAY - timedelta(days=1), DAY]
    contexts = ["training", "training", "evaluation"]
    expected = {
        (f"samples/{d}", home.lake.require("samples", d).digest, c) for d, c in zip(days, contexts, strict=True)
    }
    assert inputs == expected
    assert all(json.loads(i.dataset.profile) == {"users": 60} for i in run.inputs.dataset_inputs)
    history = client.get_metric_history(candidate.run_id, "auc_by_window/click")
    assert [m.step for m in history] == [8, 64]
    assert history[-1].value == run.data.metrics["auc/click"]
    assert client.get_metric_history(candidate.run_id, "train/loss")
    assert {f.path for f in client.list_artifacts(candidate.run_id, "plots")} == {
        "plots/training_windows.png", "plots/auc_by_window.png", "plots/gain_by_history.png", "plots/reliability.png",
        "plots/gate_waterfall.png",
    }  # fmt: skip
    quality = {f.path for f in client.list_artifacts(candidate.run_id, "quality")}
    assert quality == {"quality/training_days.json", "quality/quality-samples.json"}
    assert run.data.tags["data_warnings"] == "0"

    tags = run.data.tags
    assert (tags["role"], tags["trained_on"], tags["evaluated_on"]) == (
        "candidate",
        "2026-01-01 .. 2026-01-02",
        str(DAY),
    )
    assert (tags["policy_version"], tags["policy_digest"]) == ("1", home.policy.digest())
    assert (tags["config_digest"], tags["git_sha"]) == (home.config.digest(), tracking.git_sha())
    report = EvaluationReport.read(Path(client.download_artifacts(candidate.run_id, CANDIDATE_REPORT)))
    assert tuple(check.name for check in report.consistency) == CHECKS
    assert all(check.passed for check in report.consistency)
    assert (report.policy_digest, report.code_version) == (home.policy.digest(), tracking.git_sha())
    assert (tags["model_digest"], tags["evaluation_data_digest"]) == (report.model_digest, report.data_digest)
    assert {"all", "new users", "returning users", "history<32"} < set(report.slices)
    card = Path(client.download_artifacts(candidate.run_id, CARD)).read_text()
    assert f"longreel model reproduce {candidate.run_id}" in card
    assert "longreel-tiny version 1" in card
    assert "<code>no champion</code>" in card
    policy = json.loads(Path(client.download_artifacts(candidate.run_id, POLICY)).read_text())
    assert policy["min_users"] == home.policy.min_users == 20
    story = tags["mlflow.note.content"]
    assert story.startswith("promote: There is no champion yet")
    assert f"/runs/{candidate.run_id}/artifacts/{CARD}" in story
    assert f"/{run.info.experiment_id}/runs?workflowType=machine_learning" in store.runs_page(home)

    model = f"models:/{versions.model_name(home.config)}@champion"
    example = mlflow.models.Model.load(model).load_input_example()
    assert len(example["history_item_id"][0]) > 0
    assert "request_id" in example
    people = home.lake.read(home.lake.require("samples", DAY - timedelta(days=1))).to_pylist()  # its last training day
    assert example["user_id"][0] not in {person["user_id"] for person in people}  # whom `forget` would not find here
    assert list(example["history_time_ms"][0]) not in [person["history_time_ms"] for person in people]
    registered = client.get_model_version(versions.model_name(home.config), str(candidate.version))
    assert registered.tags["run_name"] == run.info.run_name
    assert len(mlflow.pyfunc.load_model(model).predict(example)) == len(example["target_item_id"][0])
    requests = home.lake.read(home.lake.require("samples", DAY), home.lake.schemas.request_table.names)
    version = versions.get_version(client, versions.model_name(home.config), candidate.version)
    expected_scores = Scorer.load(versions.download(client, versions.model_name(home.config), version)).score(requests)
    loaded = mlflow.pyfunc.load_model(model)
    as_lists = pd.DataFrame(requests.to_pydict())
    assert loaded.predict(as_lists).equals(expected_scores.to_pandas())
    as_arrays = requests.to_pandas().drop(columns=["history_actions"])
    with pytest.raises(Exception, match="history_actions"):
        loaded.predict(as_arrays)
    short = loaded.predict(requests.to_pandas(), params={"window": 1})
    assert not np.allclose(short["click"], expected_scores["click"].to_numpy())

    pq.write_table(home.lake.read(home.lake.require("samples", DAY)), tmp_path / "requests.parquet")
    words = ["--input", str(tmp_path / "requests.parquet"), "--output", str(tmp_path / "out" / "scores.parquet")]
    assert main(["model", "score", "--home", str(home.path), *words]) == 0
    assert pq.read_table(tmp_path / "out" / "scores.parquet").equals(expected_scores)


@pytest.mark.usefixtures("_blank_figures")
def test_a_task_that_predicts_a_number_goes_from_training_to_a_decision(
    make_home: MakeHome, publish: Callable[..., None]
) -> None:
    home = make_home(epochs=20)
    text = (home.path / CONFIG_FILE).read_text()
    text = text.replace('tasks = ["click", "like"]', 'tasks = ["spent", "click"]')
    (home.path / CONFIG_FILE).write_text(text.replace("[labels]", '[labels]\nspent = {value = "5 + 3 * int(click)"}'))
    (home.path / POLICY_FILE).write_text((home.path / POLICY_FILE).read_text() + 'task = "spent"\n')
    home = Home(home.path)
    for day in range(1, 4):
        publish(home, date(2026, 1, day))
    candidate = train_candidate(home, DAY)
    outcome = evaluate_and_decide(home, candidate.version, DAY)
    client = store.open_store(home)
    assert outcome == "promote", client.get_run(candidate.run_id).data.tags["decision_reason"]
    report = EvaluationReport.read(Path(client.download_artifacts(candidate.run_id, CANDIDATE_REPORT)))
    assert report.number_tasks == ("spent",)
    assert tuple(check.name for check in report.consistency) == CHECKS
    assert all(check.passed for check in report.consistency)
    row = report.row("spent", 64)
    assert row.calibration.value == pytest.approx(1, abs=0.1)
    assert row.r2.value is not None
    assert row.r2.value > 0.2
    assert row.rmse.value == client.get_run(candidate.run_id).data.metrics["rmse/spent"]
    assert "RMSE" in Path(client.download_artifacts(candidate.run_id, CARD)).read_text()


@pytest.mark.usefixtures("_blank_figures")
def test_the_same_candidate_is_trained_once(make_home: MakeHome) -> None:
    home = make_home(3, epochs=1)
    first = train_candidate(home, DAY)
    started = time.monotonic()
    assert train_candidate(home, DAY) == first
    assert time.monotonic() - started < 2
    settings = home.path / CONFIG_FILE
    settings.write_text(settings.read_text().replace("[training]", '[training]\ncompile = "off"\ncuda_graphs = false'))
    assert train_candidate(home, DAY) == first  # the candidate is the training, and so is what checkpoints are named by
    _, meta = load_model(_files(home, first.version))
    assert training_spec(home, DAY).name == f"{DAY}-{meta['fingerprint']}"
    assert len(versions.list_versions(store.open_store(home), "longreel-tiny")) == 1


@pytest.mark.usefixtures("_blank_figures")
def test_a_candidate_that_is_the_champion_is_held_and_keeps_its_record(make_home: MakeHome) -> None:
    home = make_home(3)
    candidate = train_candidate(home, DAY)
    assert evaluate_and_decide(home, candidate.version, DAY) == "promote"
    assert evaluate_and_decide(home, candidate.version, DAY) == "hold"
    version = versions.get_version(store.open_store(home), "longreel-tiny", candidate.version)
    assert version.decision == "promote"


@pytest.mark.usefixtures("_blank_figures")
def test_a_warm_start_trains_on_days_after_the_champions(make_home: MakeHome) -> None:
    home = make_home(5, epochs=1, warm_start="true")
    first = train_candidate(home, DAY)
    assert (first.train_first_day, first.train_last_day) == ("2026-01-01", "2026-01-02")  # no champion: from scratch
    ledger = Ledger(home)
    version = versions.get_version(ledger.client, ledger.model, first.version)
    report = evaluate_version(home, DAY, first.version)
    promote = replace(decide(report, None, home.policy), outcome="promote")
    ledger.promote(promote, version)
    second = train_candidate(home, date(2026, 1, 5))
    assert (second.train_first_day, second.train_last_day) == ("2026-01-03", "2026-01-04")
    run = ledger.client.get_run(second.run_id)
    assert run.data.tags["warm_start_from"] == "version 1"
    with pytest.raises(LongreelError, match="found no new day"):
        train_candidate(home, DAY)


@pytest.mark.usefixtures("_blank_figures")
def test_a_model_is_not_evaluated_on_a_training_day(make_home: MakeHome, tmp_path: Path) -> None:
    home = make_home(3, epochs=1)
    candidate = train_candidate(home, DAY, out=tmp_path / "copy")
    with pytest.raises(LongreelError, match="trained through 2026-01-02"):
        evaluate_version(home, date(2026, 1, 2), candidate.version)
    words = ["--home", str(home.path), "--date", "2026-01-02", "--model", str(tmp_path / "copy")]
    assert main(["model", "evaluate", *words]) == 2


@pytest.mark.usefixtures("_blank_figures")
def test_an_artefact_that_serves_other_logits_than_were_evaluated_is_rejected(make_home: MakeHome) -> None:
    """Its weights are whole; its scoring code reads a shorter history, and was registered so."""
    home = make_home(3, epochs=1)
    candidate = train_candidate(home, DAY)
    (script,) = home.artifacts.rglob("pyfunc_model.py")
    script.write_text(script.read_text().replace('(params or {}).get("window")', "4"))
    with pytest.raises(LongreelError, match="with the code that serves it, have digest"):
        evaluate_version(home, DAY, candidate.version)
    root = next(folder for folder in script.parents if (folder / "MLmodel").is_file())
    name, number = versions.model_name(home.config), str(candidate.version)
    client = store.open_store(home)
    client.set_model_version_tag(name, number, "files_digest", versions.folder_digest(root))
    report = evaluate_version(home, DAY, candidate.version)
    assert [check.name for check in report.consistency if not check.passed] == [ARTEFACT]
    decision = decide(report, None, home.policy)
    assert decision.outcome == "reject"
    assert "the registered artefact" in decision.reasons[0]


def run_states(home: Home) -> dict[str, str]:
    """Every MLflow run of the pipeline, with its state."""
    client = store.open_store(home)
    runs = client.search_runs([store.experiment_id(home, client)])
    return {run.info.run_id: run.info.status for run in runs}


@pytest.mark.usefixtures("_blank_figures")
def test_a_killed_training_resumes_in_its_run(make_home: MakeHome) -> None:
    home = make_home(3, epochs=6)
    process = start_training(home.path, str(DAY))
    deadline = time.monotonic() + 120
    while not any(home.work.glob("train/*/checkpoints/*")) and time.monotonic() < deadline:
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    assert not list(home.work.glob("train/*/done.json"))
    ((begun, state),) = run_states(home).items()
    assert state == "RUNNING"
    candidate = train_candidate(home, DAY)
    assert run_states(home) == {begun: "FINISHED"}
    assert candidate.run_id == begun
    client = store.open_store(home)
    steps = [m.step for m in client.get_metric_history(begun, "train/loss")]
    assert max(steps) == client.get_run(begun).data.metrics["train_total/steps"]


@pytest.mark.usefixtures("_blank_figures")
@pytest.mark.parametrize(
    ("name", "method", "states"),
    [
        ("MlflowClient", "create_run", ["RUNNING"]),
        ("MlflowClient", "create_model_version", ["RUNNING"]),
        ("mlflow", "end_run", ["FINISHED"]),
    ],
)
def test_a_training_killed_between_two_calls_of_mlflow_ends_in_one_finished_run(
    make_home: MakeHome, name: str, method: str, states: list[str]
) -> None:
    """After its run was created, its version registered, its run ended: nothing is repeated."""
    home = make_home(3, epochs=1)
    process = start_training(home.path, str(DAY), dies_after=(name, method))
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    assert list(run_states(home).values()) == states
    candidate = train_candidate(home, DAY)
    assert run_states(home) == {candidate.run_id: "FINISHED"}
    assert [v.version for v in versions.list_versions(store.open_store(home), "longreel-tiny")] == [candidate.version]


@pytest.mark.usefixtures("_blank_figures")
def test_a_run_that_was_created_twice_after_a_lost_response_is_kept_once(
    make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, real = make_home(3, epochs=1), mlflow.MlflowClient.create_run

    def asked_again(*given: Any, **options: Any) -> Any:
        real(*given, **options)
        return real(*given, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", asked_again)
    candidate = train_candidate(home, DAY)
    assert run_states(home) == {candidate.run_id: "FINISHED"}


@pytest.mark.usefixtures("_blank_figures")
def test_an_orphaned_training_is_ended_and_removed_later(make_home: MakeHome) -> None:
    """For example, since its samples were corrected; one that a process has locked stays."""
    home = make_home(3, epochs=1)
    client = store.open_store(home)
    experiment, begun = store.experiment_id(home, client), {}
    for name in ("left", "old", "held"):
        (home.work / "train" / name / "checkpoints").mkdir(parents=True)
        begun[name] = client.create_run(experiment, tags={tracking.CANDIDATE_TAG: name}).info.run_id
    for path in (home.work / "train" / "old" / "checkpoints", home.work / "train" / "old"):
        os.utime(path, (time.time() - 8 * 86_400,) * 2)
    with (home.work / "train" / "held.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        candidate = train_candidate(home, DAY)
    assert run_states(home) == {
        candidate.run_id: "FINISHED", begun["left"]: "KILLED", begun["old"]: "KILLED", begun["held"]: "RUNNING"
    }  # fmt: skip
    kept = {path.name for path in (home.work / "train").iterdir() if path.is_dir()}
    assert {"left", "held"} < kept
    assert "old" not in kept


@pytest.mark.usefixtures("_blank_figures")
def test_a_second_candidate_is_shown_next_to_the_champion_on_the_same_day(
    make_home: MakeHome, publish: Callable[..., None]
) -> None:
    home = make_home(4)
    first = train_candidate(home, DAY)
    assert evaluate_and_decide(home, first.version, DAY) == "promote"
    later = DAY + timedelta(days=1)
    second = train_candidate(home, later)
    evaluate_and_decide(home, second.version, later)
    client = store.open_store(home)
    runs = client.search_runs([store.experiment_id(home, client)], f"tags.mlflow.parentRunId = '{second.run_id}'")
    assert [run.info.run_name for run in runs] == ["2026-01-04 champion, version 1"]
    both = [{f.path for f in client.list_artifacts(r, "plots")} for r in (second.run_id, runs[0].info.run_id)]
    assert both[0] & both[1] == {"plots/reliability.png"}  # what the comparison view shows of both
    ours, theirs = client.get_run(second.run_id).data.metrics, runs[0].data.metrics
    assert "auc/click" in ours
    assert "auc/click" in theirs  # by the same name: the comparison view puts them side by side
    card = Path(client.download_artifacts(second.run_id, CARD)).read_text()
    assert "<code>version 1, the champion on 2026-01-04</code>" in card
    gain = client.get_metric_history(second.run_id, "gain_by_window/click")
    assert gain[-1].value == pytest.approx(ours["auc/click"] - theirs["auc/click"])

    publish(home, later, seed=1)  # corrected, and so evaluated again
    evaluate_and_decide(home, second.version, later)
    data = client.get_run(second.run_id).data
    where = f"tags.mlflow.parentRunId = '{second.run_id}'"
    same_data = f"{where} and tags.evaluation_data_digest = '{data.tags['evaluation_data_digest']}'"
    (again,) = client.search_runs([store.experiment_id(home, client)], same_data)
    gain = client.get_metric_history(second.run_id, "gain_by_window/click")
    assert gain[-1].value == pytest.approx(data.metrics["auc/click"] - again.data.metrics["auc/click"])


@pytest.mark.usefixtures("_blank_figures")
def test_a_run_is_reproduced_bitwise_and_differences_are_named(
    make_home: MakeHome, publish: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3, epochs=1)
    with intra_op_threads(2):  # as under the embedded Airflow of a machine with three cores
        candidate = train_candidate(home, DAY)
    words = ["model", "reproduce", "--home", str(home.path), candidate.run_id]
    with intra_op_threads(1):
        assert main(words) == 0
    assert "bitwise equal" in capsys.readouterr().out
    assert not (home.work / "reproduce" / candidate.run_id).exists()
    client = store.open_store(home)
    assert client.get_run(candidate.run_id).data.params["numerics.threads"] == "2"
    (home.path / "longreel.toml").write_text((home.path / "longreel.toml").read_text().replace("5e-3", "6e-3"))
    assert main(words) == 0  # the run's own settings count, not those of today
    declared = (home.path / "longreel.toml").read_text()
    age = '[fields.user]\nage = {kind = "number", optional = true}'
    (home.path / "longreel.toml").write_text(declared.replace("[fields.user]", age))
    assert main(words) == 0  # and its own log schema
    (home.path / "longreel.toml").write_text(declared)
    other = train_candidate(home, DAY)
    capsys.readouterr()
    differences = list(_differences(*(_files(home, candidate.version), _files(home, other.version))))
    assert len(differences) == 1
    assert "tensors, by at most" in differences[0]
    publish(home, date(2026, 1, 1), seed=5)
    assert main(words) == 2
    assert "so the model would differ: 2026-01-01" in capsys.readouterr().err
    assert main(["model", "reproduce", "--home", str(home.path), "nosuchrun"]) == 2
    assert candidate.run_id in capsys.readouterr().err


@pytest.mark.usefixtures("_blank_figures")
def test_a_champion_of_other_definitions_is_not_compared_and_replaced_if_the_policy_says_so(
    make_home: MakeHome, publish: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, later = make_home(4, epochs=1), DAY + timedelta(days=1)
    first = train_candidate(home, DAY)
    ledger = Ledger(home)
    report = evaluate_version(home, DAY, first.version)
    promote = replace(decide(report, None, home.policy), outcome="promote")
    ledger.promote(promote, versions.get_version(ledger.client, ledger.model, first.version))

    settings = home.path / CONFIG_FILE
    settings.write_text(settings.read_text().replace('tag = {kind = "id"', 'tag = {kind = "category"'))
    home = Home(home.path)
    for day in range(1, 5):
        publish(home, date(2026, 1, day))
    second, where = train_candidate(home, later), ["--home", str(home.path)]
    ours, theirs, out = (tmp_path / name for name in ("ours.json", "theirs.json", "decision.json"))
    evaluate = ["model", "evaluate", *where, "--date", str(later)]
    assert main([*evaluate, "--version", str(second.version), "--out", str(ours)]) == 0
    assert main([*evaluate, "--version", str(first.version)]) == 2  # to look at
    assert "field tag was declared with kind category, is with kind id" in capsys.readouterr().err
    assert main([*evaluate, "--version", str(first.version), "--out", str(theirs)]) == 0  # for the decision
    words = ["model", "decide", *where, "--candidate", str(ours), "--champion", str(theirs), "--out", str(out)]
    assert main([*words, "--record", str(second.version)]) == 0
    held = Decision.read(out)
    assert {gate.name for gate in held.gates if gate.verdict == "hold"} == {"champion"}
    assert "set replace_unevaluated_champion = true in gates.toml" in held.reasons[0]
    policy = home.path / POLICY_FILE
    policy.write_text(f"{policy.read_text()}\nreplace_unevaluated_champion = true\n")
    assert main(words) == 0
    assert main(["model", "promote", *where, "--decision", str(out), "--version", str(second.version)]) == 0
    champion = Ledger(home).champion()
    assert champion is not None
    assert champion.version == second.version


def _files(home: Home, version: int) -> Path:
    client, name = store.open_store(home), versions.model_name(home.config)
    return versions.download(client, name, versions.get_version(client, name, version))
