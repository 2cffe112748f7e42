"""`longreel airflow`: a command of the home's Airflow with its input, output and exit code."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from longreel.airflow_settings import airflow_environment, published_days
from longreel.cli import main
from longreel.embedded_airflow import EmbeddedAirflow, session_members
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
def test_a_running_airflow_is_this_machines_and_its_owners_alone(home: Home) -> None:
    """It listens on 127.0.0.1, its files are private, and commands in a shell reach it."""
    command = [sys.executable, "-m", "longreel", "airflow", "--home", str(home.path), "--"]
    with EmbeddedAirflow(home, published_days(home)) as airflow:
        assert airflow._process is not None
        leader = airflow._process.pid
        sockets = [c for process in session_members(leader) for c in process.net_connections("inet")]
        listening = {(c.laddr.ip, c.laddr.port) for c in sockets if c.status == psutil.CONN_LISTEN}
        assert listening == {("127.0.0.1", int(airflow.url.rpartition(":")[2]))}
        trigger = ["dags", "trigger", "longreel_train", "--conf", '{"date": "2026-01-09", "force": true}']
        for _ in range(60):  # until the DAGs were parsed
            if (shown := subprocess.run([*command, *trigger], check=False)).returncode == 0:
                break
            time.sleep(1)
        assert shown.returncode == 0
        assert [run["conf"]["date"] for run in airflow.get("dags/longreel_train/dagRuns")["dag_runs"]] == ["2026-01-09"]
    files = [path for path in home.airflow.rglob("*") if path.is_file() and "logs" not in path.parts]
    secret = [path for path in files if not path.name.startswith("standalone.l")]
    assert len(secret) > 2
    assert all(path.stat().st_mode & 0o077 == 0 for path in [home.airflow, *secret])
