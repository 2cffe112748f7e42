"""MLflow as people leave it: every field that its pages let them edit or delete, and every command that reads it."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from mlflow.cli import gc
from mlflow.exceptions import MlflowException

from longreel.cli import main
from longreel.components.evaluate import evaluate_version
from longreel.components.gates.decide import decide
from longreel.components.registry import store, versions
from longreel.components.registry.ledger import Ledger
from longreel.components.registry.versions import Version
from longreel.components.reports.record import log_evaluation
from longreel.components.retrain import plan
from longreel.components.train import train_candidate
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError, MissingModelError
from longreel.lake.home import Home
from longreel.model.evaluation.batch_scoring import day_groups, request_table

MakeHome = Callable[..., Home]
DAY = date(2026, 1, 3)
EDITED = "[/red] no day"  # neither a day, nor JSON, nor rich's markup
READING = ("ops status", "model promotions", f"ops should-retrain --date {DAY + timedelta(days=1)}")
# What a command shows after an edit, and after any edit that is not named.
SHOWN: dict[str, dict[str, str]] = {
    "champion": {"": "version 2, the champion of longreel-tiny, cannot be used: its tag "}
    | {"deleted": "version 2, the champion of longreel-tiny, cannot be used: it was deleted in MLflow"},
    "ledger entry": {"": "longreel-tiny-ledger version 2 is left out"}
    | dict.fromkeys(("alias_set edited", "alias_set removed", "change edited", "change removed"), "champion: version 2")
    | {"deleted": "it is version 2, by ledger entry 1 it is version 1"},
    "run": {"": "champion: version 2, trained through 2026-01-02"},
    "model": {"": "it is no version, by ledger entry 2 it is version 2"}
    | {"alias moved": "it is version 1, by ledger entry 2 it is version 2"}
    | {"model renamed": "version 2, the champion of longreel-tiny, cannot be used: it was deleted in MLflow"}
    | dict.fromkeys(("ledger deleted", "model deleted"), "champion: none yet"),
}
BLANK = Figure(figsize=(0.1, 0.1))


@pytest.fixture
def ledger(make_home: MakeHome, register: Callable[..., Version], promotion: Callable[..., Decision]) -> Ledger:
    """Versions 1 and 2 of a home with 4 days were promoted; 2 is the champion."""
    ledger = Ledger(home := make_home(4))
    first, second = register(home, 1), register(home, 2)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    return ledger


def home_of(ledger: Ledger) -> Home:
    return Home(Path(ledger.client.tracking_uri.removeprefix("sqlite:///")).parents[1])


def look(ledger: Ledger) -> None:
    """Run every command that only looks; an error that is not a user's ends the test."""
    for command in READING:
        assert main([*command.split(), "--home", str(home_of(ledger).path)]) in (0, 99), command


def content(ledger: Ledger) -> list[str]:
    """Everything in the store."""
    with sqlite3.connect(home_of(ledger).path / "mlflow" / "mlflow.db") as database:
        return list(database.iterdump())


def version_edits(ledger: Ledger, name: str, number: str) -> Iterator[str]:
    """Edit every field of a version, one after the other."""
    client = ledger.client
    for key in sorted(client.get_model_version(name, number).tags):
        client.set_model_version_tag(name, number, key, EDITED)
        yield f"{key} edited"
        client.delete_model_version_tag(name, number, key)
        yield f"{key} removed"
    client.update_model_version(name, number, EDITED)
    yield "description"
    client.delete_model_version(name, number)
    yield "deleted"


def run_edits(ledger: Ledger, run_id: str) -> Iterator[str]:
    """Edit every field of a run, one after the other."""
    client = ledger.client
    for key in client.get_run(run_id).data.tags:
        client.set_tag(run_id, key, EDITED)
        yield f"{key} edited"
    client.update_run(run_id, status="FAILED", name=EDITED)
    yield "name and status"
    client.delete_run(run_id)
    yield "deleted"


def model_edits(ledger: Ledger) -> Iterator[str]:
    """Edit the registered model, the ledger's and the experiment."""
    client, model = ledger.client, ledger.model
    experiment = store.experiment_id(home_of(ledger), client)
    client.set_registered_model_alias(model, "champion", "1")
    yield "alias moved"
    client.delete_registered_model_alias(model, "champion")
    yield "alias removed"
    client.update_registered_model(model, EDITED)
    client.set_registered_model_tag(model, "champion_conflict", EDITED)
    yield "description and tag"
    client.set_experiment_tag(experiment, "mlflow.note.content", EDITED)
    client.rename_experiment(experiment, EDITED)
    yield "experiment renamed"
    client.delete_experiment(experiment)
    yield "experiment deleted"
    client.rename_registered_model(model, f"{model}-old")
    yield "model renamed"
    client.delete_registered_model(f"{model}-ledger")
    yield "ledger deleted"
    client.delete_registered_model(f"{model}-old")
    yield "model deleted"


@pytest.mark.parametrize("what", ["champion", "ledger entry", "run", "model"])
def test_no_edit_in_mlflow_ends_a_reading_command(
    ledger: Ledger, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = {
        "champion": lambda: version_edits(ledger, ledger.model, "2"),
        "ledger entry": lambda: version_edits(ledger, f"{ledger.model}-ledger", "2"),
        "run": lambda: run_edits(ledger, versions.get_version(ledger.client, ledger.model, 2).run_id),
        "model": lambda: model_edits(ledger),
    }
    for edit in edits[what]():
        before = content(ledger)
        look(ledger)
        assert content(ledger) == before, f"looking wrote something after: {edit}"
        assert SHOWN[what].get(edit, SHOWN[what][""]) in capsys.readouterr().out, edit
    for write in (ledger.rollback, ledger.adopt, lambda: plan(home_of(ledger), DAY)):
        with contextlib.suppress(LongreelError):  # it says what to do, and is no crash
            write()


def test_looking_writes_nothing_while_the_alias_is_elsewhere(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, later = home_of(ledger), str(DAY + timedelta(days=1))
    requests = request_table(home.lake, day_groups(home.lake, DAY), 2, home.config.log_schema)
    pq.write_table(requests, tmp_path / "requests.parquet")
    files = ["--input", str(tmp_path / "requests.parquet"), "--output", str(tmp_path / "scores.parquet")]
    where = ["--home", str(home.path)]
    ledger.client.set_registered_model_alias(ledger.model, "champion", "1")
    before = content(ledger)
    assert main(["ops", "status", *where, "--check"]) == 1
    assert (
        "champion the alias champion of longreel-tiny was moved in MLflow: it is version 1" in capsys.readouterr().out
    )
    for command in (["model", "score", *files], ["model", "evaluate", "--date", later, "--champion"]):
        assert main([*command, *where]) == 2  # which one is meant?
        error = capsys.readouterr().err
        assert "`longreel model promote --adopt`" in error
        assert "Or name a version with --version" in error
    assert main(["model", "score", *where, *files, "--version", "1"]) == 0
    assert main(["model", "evaluate", *where, "--date", later, "--version", "2"]) == 0
    assert content(ledger) == before
    planned = plan(home, date.fromisoformat(later))
    assert planned.champion == 2  # trained and evaluated, but `promote` refuses
    assert ledger.read().alias == 1


@pytest.fixture
def _blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: save(BLANK, path))


def decide_on(home: Home, version: int, day: date, champion: Any = None) -> Decision:
    """Evaluate, decide, whatever the gates say, to promote, and record."""
    report = evaluate_version(home, day, version)
    decision = replace(decide(report, champion, home.policy), outcome="promote")
    log_evaluation(home, version, report, champion, decision)
    return decision


@pytest.mark.usefixtures("_blank_figures")
def test_a_champion_whose_run_is_gone_is_compared_with(make_home: MakeHome, tmp_path: Path) -> None:
    home, later, out = make_home(4, epochs=1), DAY + timedelta(days=1), tmp_path / "champion.json"
    ledger, first = Ledger(home), train_candidate(home, DAY)
    ledger.promote(decide_on(home, first.version, DAY), versions.get_version(ledger.client, ledger.model, 1))
    ledger.client.delete_run(first.run_id)
    uri = home.tracking_uri
    assert CliRunner().invoke(gc, ["--backend-store-uri", uri, "--tracking-uri", uri]).exit_code == 0
    with pytest.raises(MlflowException, match="not found"):
        ledger.client.get_run(first.run_id)
    second = train_candidate(home, later)
    decision = decide_on(home, second.version, later, evaluate_version(home, later, first.version))
    assert decision.champion_digest == first.model_digest
    assert plan(home, later).champion == first.version
    with pytest.raises(LongreelError, match=f"run {first.run_id} of version 1 was deleted in MLflow"):
        decide_on(home, first.version, DAY)

    experiment = store.experiment_id(home, ledger.client)
    ledger.client.delete_experiment(experiment)
    assert train_candidate(home, later) == second  # its run came back with the experiment
    ledger.client.delete_run(second.run_id)
    again = train_candidate(home, later)
    assert (again.version, again.model_digest) == (3, second.model_digest)

    champion = versions.get_version(ledger.client, ledger.model, first.version)
    shutil.rmtree(versions.download(ledger.client, ledger.model, champion).parents[1])
    with pytest.raises(MissingModelError, match=r"the files of longreel-tiny version 1 are deleted .*model rollback"):
        versions.download(ledger.client, ledger.model, champion)
    where = ["--home", str(home.path), "--date", str(later)]
    assert (
        main(["model", "evaluate", *where, "--version", "1", "--out", str(out)]) == 0
    )  # decide then holds, and says why
    assert "are deleted" in out.read_text()
