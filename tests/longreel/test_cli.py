"""The command line: help without heavy imports, clear errors, exit codes."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import LongreelError
from contracts.home import Home
from longreel.cli import STEPS, main
from longreel.embedded_airflow import end_session, free_port, session_members
from longreel.init import write_config


def test_help_lists_every_step_and_loads_no_heavy_library() -> None:
    heavy = {"torch", "pyspark", "mlflow", "airflow", "kfp"}
    code = f"import sys; from longreel.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(step in shown for step in STEPS)
    assert shown.strip().endswith("[]")


def test_unknown_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingets"]) == 2
    assert "unknown step 'ingets'" in capsys.readouterr().err
    assert main([]) == 2


@pytest.mark.parametrize("step", [name for name in STEPS if name not in ("init", "run", "simulate", "ui")])
def test_every_step_without_a_home_says_so(step: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no configuration, or no input file, a step ends in exit code 2 and says what is missing."""
    needed = {
        "arrived": ["--date", "2026-01-05"],
        "ingest": ["--date", "2026-01-05"],
        "import-history": ["--through", "2026-01-05"],
        "build-samples": ["--date", "2026-01-05"],
        "forget": ["--user", "7"],
        "train": ["--date", "2026-01-05"],
        "evaluate": ["--date", "2026-01-05", "--champion"],
        "decide": ["--candidate", str(tmp_path / "none.json")],
        "promote": ["--decision", str(tmp_path / "none.json"), "--version", "1"],
        "score": ["--input", str(tmp_path / "none.parquet"), "--output", str(tmp_path / "out.parquet"), "--champion"],
        "due": ["--date", "2026-01-05"],
        "retrain": ["--date", "2026-01-05"],
        "reproduce": ["0123"],
    }
    assert main([step, "--home", str(tmp_path / "nowhere"), *needed.get(step, [])]) == 2
    missing = {"decide": "no report at", "promote": "no decision at", "score": "no request table at"}
    assert missing.get(step, "`longreel init` writes one") in capsys.readouterr().err


def test_init_refuses_a_log_that_is_not_there(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(LongreelError, match="needs its raw log"):
        write_config(home, "kuairand", None)
    with pytest.raises(LongreelError, match="nothing is there"):
        write_config(home, "kuairand", str(tmp_path / "missing"))
    assert not home.path.exists()


def test_init_fills_in_the_log_and_keeps_an_existing_home(tmp_path: Path) -> None:
    log = tmp_path / 'a "log"'
    log.mkdir()
    home = tmp_path / "home"
    assert main(["init", "--home", str(home), "--source", "generic", "--log", str(log)]) == 0
    assert Home(home).log == log.resolve()
    (home / "longreel.toml").write_text('name = "mine"')
    assert main(["init", "--home", str(home), "--source", "simulated"]) == 0
    assert Home(home).config.name == "mine"


def test_home_is_found_by_argument_then_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LONGREEL_HOME", str(tmp_path / "env"))
    assert Home.locate(str(tmp_path / "arg")).path == tmp_path / "arg"
    assert Home.locate().path == tmp_path / "env"
    monkeypatch.delenv("LONGREEL_HOME")
    assert Home.locate().path == Path.cwd() / ".longreel" / "simulated"


def test_ending_a_session_reaches_children_in_other_process_groups() -> None:
    """A task that makes its own process group, and ignores SIGTERM, is stopped all the same."""
    child = (
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess,sys,time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], process_group=0)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert len(session_members(process.pid)) == 2
    end_session(process.pid, grace_s=1)
    assert session_members(process.pid) == []
    process.wait(timeout=10)


def test_free_port_can_be_bound() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
