"""`longreel run` under a real Airflow: simulated days, a promoted champion, and Ctrl-C that leaves nothing running."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import psutil
import pytest

from longreel.embedded_airflow import session_members
from longreel.lake.home import Home

pytestmark = pytest.mark.slow

CLI = [sys.executable, "-m", "longreel"]
SMALL = ["--users", "150", "--items", "600"]
LIMIT_S = 480


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with four small simulated days; `longreel run` adds one where all are done."""
    home = Home(tmp_path_factory.mktemp("run") / "home")
    command = [*CLI, "init", "--home", str(home.path)]
    subprocess.run(command, check=True)
    subprocess.run([*CLI, "simulate", "--home", str(home.path), "--days", "4", *SMALL], check=True)
    yield home
    leftover = home.airflow / "standalone.pid"
    if leftover.exists():  # only where a test failed half-way
        for process in session_members(int(leftover.read_text())):
            process.kill()


def start(home: Home) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*CLI, "run", "--home", str(home.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def finish(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    output = process.stdout.read()
    assert process.wait(timeout=60) == 0, output
    return output


def mentions(home: Home) -> list[str]:
    """Command lines of live processes that were started for this home."""
    lines = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        try:
            environment = process.info["environ"] or {}
            words = process.info["cmdline"] or []
            if environment.get("LONGREEL_HOME") == str(home.path) or str(home.path) in " ".join(words):
                lines.append(" ".join(words))
        except psutil.Error:
            continue
    return lines


def interrupt_when(home: Home, holds: Callable[[str], bool]) -> str:
    """Start a run, press Ctrl-C once `holds` of its output so far; returns all of its output."""
    log, command = home.path / "run.log", [*CLI, "run", "--home", str(home.path)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
    deadline = time.monotonic() + LIMIT_S
    while not holds(log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=90) != 0
    return log.read_text()


def test_interrupted_in_the_first_day_it_stops_every_process(home: Home) -> None:
    assert "continues from here" in interrupt_when(home, lambda output: "2026-01-05 ingest" in output)
    assert mentions(home) == []


def test_the_next_run_completes_every_day_and_promotes_a_champion(home: Home) -> None:
    output = finish(start(home))
    days = list(home.lake.days("samples"))
    assert days == [date(2026, 1, 5 + i) for i in range(4)]  # an interrupted run's days, and no new one
    assert "champion" in output
    assert mentions(home) == []
    assert (home.reports / days[-1].isoformat() / "decision.json").exists()


def test_another_run_adds_a_day_and_compares_with_the_champion_though_interrupted_in_training(home: Home) -> None:
    digests = {day: home.lake.require("samples", day).digest for day in home.lake.days("samples")}
    interrupt_when(home, lambda _: any(home.work.glob("train/2026-01-09-*/")))
    assert mentions(home) == []
    assert not (home.reports / "2026-01-09" / "summary.json").exists()
    finish(start(home))
    days = list(home.lake.days("samples"))
    assert len(days) == 5
    assert {day: home.lake.require("samples", day).digest for day in days[:-1]} == digests
    assert (home.reports / "2026-01-09" / "champion_report.json").exists()


def test_status_needs_no_scheduler(home: Home) -> None:
    shown = subprocess.run(
        [*CLI, "ops", "status", "--home", str(home.path)], capture_output=True, text=True, check=True
    )
    assert "champion" in shown.stdout
    assert Path(home.path / "reports").is_dir()


def test_a_copy_is_refused_then_relocated_and_runs_and_the_original_stays_as_it_is(home: Home) -> None:
    copy = Home(home.path.with_name("copy"))
    shutil.copytree(home.path, copy.path)
    before = {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}
    refused = subprocess.run([*CLI, "run", "--home", str(copy.path)], capture_output=True, text=True, check=False)
    assert (refused.returncode, "init --relocate" in refused.stderr) == (2, True)
    subprocess.run([*CLI, "init", "--relocate", "--home", str(copy.path)], check=True)
    assert str(home.path) + "/" not in finish(start(copy))
    assert len(list(copy.lake.days("samples"))) == len(list(home.lake.days("samples"))) + 1
    assert {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()} == before
