"""`longreel airflow`: a command of the home's Airflow with its input, output and exit code."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from longreel.airflow_settings import airflow_environment
from longreel.cli import main
from longreel.lake.home import Home, private_file, private_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home without days, and an Airflow of another home in the environment."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{tmp_path}/other/airflow.db")
    assert main(["init", "--home", str(tmp_path / "home")]) == 0
    return Home(tmp_path / "home")


def test_every_path_of_airflow_follows_from_the_home(home: Home) -> None:
    """Airflow's own defaults that lie in AIRFLOW_HOME are absolute paths in airflow.cfg, once that was written."""
    environment = airflow_environment(home, 8180, {})
    program = (
        "import os\nfrom airflow.configuration import conf\nhome = os.environ['AIRFLOW_HOME']\n"
        "names = [(s, o) for s, options in conf.configuration_description.items()\n"
        "         for o, d in options['options'].items() if '{AIRFLOW_HOME}' in str(d['default'])]\n"
        "assert len(names) > 4, names\n"
        "print([n for n in names if f'AIRFLOW__{n[0]}__{n[1]}'.upper() not in os.environ])"
    )
    shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip().splitlines()[-1] == "[]"


def test_a_home_without_airflow_says_how_to_start_one(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["airflow", "--home", str(home.path), "--", "dags", "list"]) == 2
    assert "has no Airflow yet; `longreel run` or `longreel ui` starts one" in capsys.readouterr().err
    assert main(["airflow", "--home", str(home.path)]) == 2
    assert "expected a command of Airflow" in capsys.readouterr().err
    assert not home.airflow.exists()


def test_output_and_exit_code_are_airflows(home: Home, tmp_path: Path) -> None:
    private_folder(home.airflow)
    private_file(home.airflow / "airflow.db")
    command = [sys.executable, "-m", "longreel", "airflow", "--home", str(home.path), "--"]
    shown = subprocess.run(
        [*command, "config", "get-value", "database", "sql_alchemy_conn"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip().endswith(f"sqlite:///{home.airflow}/airflow.db")
    wrong = subprocess.run([*command, "no-such-command"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, "invalid choice" in wrong.stderr) == (2, True)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_shell_command_reaches_the_airflow_of_the_home(home: Home) -> None:
    """The database is made by Airflow itself, as `longreel ui` does; then the commands of docs/airflow.md."""
    private_folder(home.airflow)
    private_file(home.airflow / "airflow.db")
    command = [sys.executable, "-m", "longreel", "airflow", "--home", str(home.path), "--"]
    for words in (
        ["db", "migrate"],
        ["dags", "reserialize"],
        ["dags", "trigger", "longreel_train", "--conf", '{"date": "2026-01-09", "force": true}'],
    ):
        subprocess.run([*command, *words], check=True, env=os.environ)
    with sqlite3.connect(home.airflow / "airflow.db") as database:
        assert database.execute("SELECT dag_id, state FROM dag_run").fetchall() == [("longreel_train", "queued")]
    assert (home.airflow / "airflow.db").stat().st_mode & 0o777 == 0o600
