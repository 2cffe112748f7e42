"""`longreel ops status --check`: fails if a line needs action, and prints it."""

import socket
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from longreel.cli import main
from longreel.contracts.errors import TransientError
from longreel.lake.home import CONFIG_FILE, Home
from longreel.lake.lease import LEASE_FILE


def test_a_healthy_home_passes_and_prints_the_next_training(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ops", "status", "--home", str(make_home(3).path), "--check"]) == 0
    assert "training for 2026-01-03: due; No candidate was ever evaluated" in capsys.readouterr().out


def test_samples_beyond_the_age_limit_are_red(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    """A day that never came makes no run that could fail."""
    home = make_home(3)
    path = home.path / CONFIG_FILE
    path.write_text(f"{path.read_text()}max_data_age_days = 5\n")
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 1
    assert "late the newest samples are of 2026-01-03" in (out := capsys.readouterr().out)
    assert "max_data_age_days allows 5" in out
    assert main(["ops", "status", "--home", str(home.path)]) == 0  # a look is no check


def test_a_missing_day_is_red(
    make_home: Callable[..., Home], publish: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(2)
    publish(home, date(2026, 1, 5))
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 1
    assert "missing samples of 2026-01-03, 2026-01-04; longreel_rebuild publishes them" in capsys.readouterr().out


def publish_other(home: Home, dataset: str, day: date, digest: str, inputs: dict[str, str]) -> None:
    home.lake.writer(dataset, day).commit(digest=digest, inputs=inputs)


def test_stale_samples_are_red_and_a_superseded_snapshot_is_not(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    """The snapshot is not read, and the next build removes it; a build cannot make a bootstrap snapshot."""
    home, day = make_home(0), date(2026, 1, 1)
    publish_other(home, "events", day, "e1", {})
    publish_other(home, "history", day, "h1", {f"events/{day}": "e1"})
    publish_other(home, "events", day, "e2", {})
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 0
    assert (
        f"superseded: history snapshot {day}, which is not read; the next build removes it" in capsys.readouterr().out
    )
    publish_other(home, "samples", day, "s1", {f"events/{day}": "e1"})
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 1
    assert f"stale samples {day}: events/{day} was e1, is e2" in capsys.readouterr().out
    publish_other(home, "samples", day, "s1", {f"events/{day}": "e2"})
    publish_other(home, "history", day, "h1", {"raw": "r"})
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 1
    assert f"stale bootstrap snapshot through {day}" in capsys.readouterr().out


def test_days_of_other_definitions_are_red_and_say_what_changed(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3)
    path = home.path / CONFIG_FILE
    words = ["ops", "status", "--home", str(home.path), "--check"]
    assert main(words) == 0
    assert "log schema: 4 item, 1 request, 1 event, 2 user fields; 8 actions, 10 labels" in capsys.readouterr().out
    path.write_text(path.read_text().replace('tag = {kind = "id"', 'tag = {kind = "category"'))
    assert main(words) == 1
    out = capsys.readouterr().out
    assert (
        "stale 3 days (2026-01-01 .. 2026-01-03) were made with other definitions: "
        "field tag was declared with kind id, is with kind category; `longreel data stale` says what to rebuild" in out
    )
    assert out.count("stale ") == 1  # one line for all days
    assert "rebuild: longreel data build-samples --start 2026-01-01 --end 2026-01-03" in out


def test_an_optional_field_that_was_added_leaves_every_day_as_it_is(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3)
    path = home.path / CONFIG_FILE
    path.write_text(
        path.read_text().replace("[fields.user]", '[fields.user]\nage = {kind = "number", optional = true}')
    )
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 0
    assert "stale" not in capsys.readouterr().out


def test_orphaned_builds_are_counted_and_need_no_action(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(1)
    writer = home.lake.writer("events", date(2026, 1, 9))
    (Path(writer.path) / LEASE_FILE).write_text("1700000000")
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 0
    assert "orphaned: 1 build of killed processes; the next ingest removes them" in capsys.readouterr().out


def test_an_unreachable_tracking_server_is_named_within_seconds(
    make_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for command in ("ops status", "model promotions"):
        assert main([*command.split(), "--home", str(home.path)]) == TransientError.exit_code
        assert f"the MLflow server {uri} does not answer" in capsys.readouterr().err
