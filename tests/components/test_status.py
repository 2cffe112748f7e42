"""`longreel ops status --check`: fails if a line needs action, and prints it."""

import os
import socket
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from longreel import status_data
from longreel.cli import main
from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.home import CONFIG_FILE, Home
from longreel.lake.lease import LEASE_FILE
from longreel.lake.lineage import stale_partitions
from longreel.model.training.day_checks import check_training_days
from longreel.spark_jobs import raw_days
from longreel.spark_jobs.days import noted_failure
from longreel.spark_jobs.sources import open_source


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


# setting -> lines of TOML that change it, by section; each changes what rows mean
CHANGED_SETTINGS = {
    "max_history": ("samples", "max_history = 32"),
    "request_rule": ("samples", 'request_rule = "gap"'),
    "max_targets": ("samples", "max_targets = 4"),
    "sampled_negatives": ("samples", "sampled_negatives = 2"),
    "user_id": ("source", 'user_id = "viewer"'),
    "item_id": ("source", 'item_id = "video"'),
    "time_ms": ("source", 'time_ms = "at"'),
    "request_id": ("source", 'request_id = "session"'),
    "where": ("source", 'where = "surface = 1"'),
    "time_zone": ("source", 'time_zone = "Europe/Berlin"'),
    "max_lateness_hours": ("source", "max_lateness_hours = 1"),
    "field taste": ("fields.user", 'taste = {kind = "id", rows = 16}'),
    "action like": ("actions", 'like = "follow"'),
    "label like": ("labels", 'like = "follow"'),
    "history": ("history", 'events = "click"'),
    "known_after": ("history", 'known_after = "1 h"'),
}


@pytest.mark.parametrize("setting", CHANGED_SETTINGS)
def test_a_changed_setting_makes_days_stale_and_training_refuse_them(
    make_home: Callable[..., Home], setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data stale` lists the same partitions, by the same function."""
    home, (section, line) = make_home(3), CHANGED_SETTINGS[setting]
    text, name = (home.path / CONFIG_FILE).read_text(), line.partition(" = ")[0]
    head, _, body = text.partition(f"[{section}]\n")
    lines, rest = body.partition("\n[")[::2]
    kept = [old for old in lines.splitlines() if not old.startswith(f"{name} = ")]
    (home.path / CONFIG_FILE).write_text("\n".join([head, f"[{section}]", line, *kept, f"[{rest}" * bool(rest)]))
    assert main(["ops", "status", "--home", str(home.path), "--check"]) == 1
    out = capsys.readouterr().out
    assert "stale 3 days (2026-01-01 .. 2026-01-03) were made with other definitions" in out
    assert setting in out
    assert [one.day.day for one in stale_partitions(home.lake, home.config)] == [1, 2, 3]
    with pytest.raises(LongreelError, match="built by other definitions") as refused:
        check_training_days(
            home.config, home.lake, [home.lake.require("samples", date(2026, 1, day)) for day in (1, 2)]
        )
    assert setting in str(refused.value)


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


@pytest.fixture
def logged(make_home: Callable[..., Home]) -> Home:
    """Raw days 1 to 3 January, of which 1 and 2 were ingested and built; a table of items beside them."""
    home = make_home(0)
    path = home.path / CONFIG_FILE
    path.write_text(f'{path.read_text()}\n[source]\nlog = "log"\n')
    for day in (1, 2, 3):
        folder = home.path / "log" / f"date=2026-01-0{day}"
        folder.mkdir(parents=True)
        for part in ("a", "b"):
            (folder / f"{part}.csv").write_text(f"user_id,item_id,time_ms,is_click\n{day},1,{day}000,1\n")
    (home.path / "log" / "items.csv").write_text("item_id,tag\n1,2\n")
    events = {}
    for day in (date(2026, 1, 1), date(2026, 1, 2)):
        events[f"events/{day}"] = str(day)
        publish_other(home, "events", day, str(day), {"raw": open_source(home).digest(day)})
        publish_other(home, "samples", day, "s", dict(events))
    return home


def check(home: Home, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output of a check."""
    capsys.readouterr()
    return main(["ops", "status", "--home", str(home.path), "--check"]), capsys.readouterr().out


def test_a_raw_day_that_arrived_and_was_not_ingested_turns_red(
    logged: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = "the raw log of 2026-01-03 arrived, and no events of it are there"
    code, out = check(logged, capsys)
    assert (code, f"next: {waits} yet" in out) == (0, True)
    monkeypatch.setattr(status_data, "MAX_WAIT_S", -5)
    code, out = check(logged, capsys)
    action = "longreel data ingest --start 2026-01-03 --end 2026-01-03"
    assert (code, f"behind {waits}: {action}" in out) == (1, True)
    writer = logged.lake.writer("events", date(2026, 1, 3))
    assert check(logged, capsys)[0] == 0  # its ingest runs
    writer.commit(digest="e3", inputs={"raw": open_source(logged).digest(date(2026, 1, 3))})
    code, out = check(logged, capsys)
    assert (code, "behind the events of 2026-01-03 arrived, and no samples of it are there" in out) == (1, True)


def test_a_failed_ingest_is_red_until_one_ends_well(logged: Home, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = logged.lake.writer("history", date(2026, 1, 3)).commit(digest="h", inputs={"raw": "older"})
    command = ["data", "ingest", "--home", str(logged.path), "--date"]
    assert main([*command, "2026-01-03"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1].rpartition("error: ")[2]
    logged.lake.drop_partition(snapshot)
    code, out = check(logged, capsys)
    assert code == 1
    assert "failed longreel data ingest --date 2026-01-03, at 20" in out
    assert error in out
    assert main([*command, "2026-01-04"]) == 3  # has not arrived: no failure
    assert check(logged, capsys)[1].count("failed longreel") == 1
    with noted_failure(logged, "events", [date(2026, 1, 3)]):
        pass
    assert check(logged, capsys)[0] == 0


def test_a_raw_day_that_changed_is_red(
    logged: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its bytes: neither a touched file nor one that brings along an old time hides or makes a change."""
    log = logged.path / "log"
    time.sleep(1.1)  # manifests have whole seconds
    (log / "date=2026-01-01" / "a.csv").touch()
    assert check(logged, capsys)[0] == 0
    part = log / "date=2026-01-02" / "a.csv"
    before = part.stat()
    part.write_text(part.read_text().replace("2,1,2000,1", "2,1,2000,0"))
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, out = check(logged, capsys)
    assert code == 1
    assert (
        "changed the raw log of 2026-01-02 changed since it was ingested; `longreel data stale --start 2026-01-02`"
        in out
    )
    (log / "date=2026-01-01" / "b.csv").unlink()
    assert "the raw log of 2 days (2026-01-01 .. 2026-01-02) changed" in check(logged, capsys)[1]
    monkeypatch.setattr(raw_days, "MAX_BYTES", 0)
    code, out = check(logged, capsys)
    assert (code, "touched more than" in out) == (0, True)


def test_a_log_that_cannot_be_read_is_said(logged: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (logged.path / "log").rename(logged.path / "away")
    code, out = check(logged, capsys)
    assert (code, "raw log no raw log at" in out) == (0, True)  # as where the log's volume is not mounted
    (logged.path / "log" / "date=2026-13-01").mkdir(parents=True)
    code, out = check(logged, capsys)
    assert (code, "date=2026-13-01: expected a folder date=YYYY-MM-DD" in out) == (1, True)


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
