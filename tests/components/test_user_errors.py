"""What a user gets wrong about MLflow's place or does to a home's files is reported in words, without a traceback."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from longreel.cli import main
from longreel.components.training.spec import training_spec
from tests.free_port import free_port


def not_a_database(folder: Path) -> str:
    (folder / "noise.db").write_bytes(b"no database " * 500)
    return f"sqlite:///{folder / 'noise.db'}"


@pytest.mark.parametrize(
    ("place", "code", "message"),
    [
        (lambda folder: "htp://mlflow:5000", 2, "MLFLOW_TRACKING_URI: expected a server"),
        (lambda folder: "mlflow", 2, "MLFLOW_TRACKING_URI: expected a server"),
        (str, 2, "MLFLOW_TRACKING_URI: expected a server"),
        (
            lambda folder: "postgresql+nosuchdriver://a@b/c",
            2,
            "the MLflow database postgresql+nosuchdriver cannot be used",
        ),
        (not_a_database, 2, "noise.db cannot be used: file is not a database"),
        (lambda folder: f"http://127.0.0.1:{free_port()}", 5, "does not answer"),
        (
            lambda folder: f"postgresql+psycopg://u:secret@127.0.0.1:{free_port()}/d",
            5,
            "refuses the connection (connection",
        ),
    ],
)
@pytest.mark.parametrize("command", ["model promotions", "ops status"])
def test_a_wrong_place_of_mlflow_is_reported(
    command: str, place: Any, code: int, message: str, make_home: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    home = make_home()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place(tmp_path))
    assert main([*command.split(), "--home", str(home.path)]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error


def test_damaged_records_are_named(make_home: Any, capsys: Any) -> None:
    """Files that were cut in half: of a finished training, a retrain, a decision."""
    home = make_home(3)
    words, day = ["--home", str(home.path), "--date", "2026-01-03"], date(2026, 1, 3)
    done, summary = training_spec(home, day).folder(home) / "done.json", home.reports / str(day) / "summary.json"
    for path in (done, summary):
        path.parent.mkdir(parents=True)
        path.write_text('{"version": 1, "run')
    assert main(["model", "train", *words]) == 2
    assert f"{done} is damaged" in capsys.readouterr().err
    decision = summary.with_name("decision.json")
    decision.write_text("{")
    assert main(["model", "promote", *words]) == 2
    assert f"{decision} is not a decision" in capsys.readouterr().err
    assert main(["model", "promote", "--home", str(home.path), "--decision", str(decision), "--version", "1"]) == 2
    assert f"{decision} is not a decision" in capsys.readouterr().err
