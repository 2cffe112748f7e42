"""What `longreel run` does before Airflow starts: a simulated log's days, and a new shop's older history."""

import argparse
from pathlib import Path

import pytest

from longreel import run
from longreel.cli import main
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home

SMALL = ("--users", "20", "--items", "900")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that a run starts; only simulate does something, on a small log."""
    started: list[str] = []

    def longreel(home: Home, *command: str) -> int:
        started.append(" ".join(command))
        small = () if home.log.exists() else SMALL
        return main([*command, *small, "--home", str(home.path)]) if command[0] == "simulate" else 0

    monkeypatch.setattr(run, "_longreel", longreel)
    return started


def prepare(home: Path, source: str, days: int | None = None) -> None:
    run._prepare(Home(home), argparse.Namespace(source=source, log=None, days=days))


def test_a_new_shop_has_older_history_which_is_imported_once(tmp_path: Path, commands: list[str]) -> None:
    home = Home(tmp_path / "home")
    prepare(home.path, "shop")
    importing = "data import-history --through 2026-01-04"
    assert commands == ["simulate --days 4 --bootstrap-days 21", importing]
    assert [day.isoformat() for day in run.log_days(home)] == [f"2026-01-0{n}" for n in (5, 6, 7, 8)]
    prepare(home.path, "shop")  # the import was interrupted
    assert commands[2:] == [importing]
    writer = home.lake.writer("history", run.log_days(home)[0])
    writer.commit(digest="1", inputs={}, counts={})
    prepare(home.path, "shop", days=2)
    assert commands[3:] == ["simulate --days 2"]


def test_a_video_log_has_no_older_history_unless_it_was_simulated_with_one(tmp_path: Path, commands: list[str]) -> None:
    prepare(tmp_path / "plain", "simulated")
    assert commands == ["simulate --days 4"]
    assert main(["init", "--home", str(tmp_path / "older")]) == 0
    assert main(["simulate", "--bootstrap-days", "2", *SMALL, "--home", str(tmp_path / "older")]) == 0
    prepare(tmp_path / "older", "simulated")
    assert commands[1:] == ["data import-history --through 2026-01-04"]


def test_a_failed_command_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_longreel", lambda *_: 2)
    with pytest.raises(LongreelError, match="could not be written"):
        prepare(tmp_path / "home", "shop")
