"""When a raw day counts as arrived, and what a rebuild would do after a raw day was corrected, added or lost."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from spark_helpers import DAY, longreel, new_home, row, write_raw

from longreel.lake.home import Home

DAYS = [DAY + timedelta(days=i) for i in range(3)]
DAY_MS = 86_400_000


def write(home: Any, number: int, users: int = 3) -> None:
    write_raw(home, DAYS[number], [row(user=user, item=number, at=number * DAY_MS + user) for user in range(users)])


@pytest.fixture(scope="module")
def three_days(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with all of DAYS built."""
    home = new_home(tmp_path_factory.mktemp("three-days") / "home")
    for number in range(len(DAYS)):
        write(home, number)
    for step in ("data ingest", "data build-samples"):
        assert longreel(home, step, "--start", str(DAYS[0]), "--end", str(DAYS[-1])) == 0
    return home


@pytest.fixture
def built(three_days: Home, tmp_path: Path) -> Callable[[int], Home]:
    """Copies `three_days` as if only its first days had come."""

    def copy(days: int) -> Home:
        home = Home(tmp_path / "home")
        shutil.copytree(three_days.path, home.path)
        for day in DAYS[days:]:
            for folder in list(home.path.rglob(f"date={day}")):
                shutil.rmtree(folder)
        return home

    return copy


def stale_range(home: Any, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any] | None:
    """The range that `data stale` names; None where it has nothing to do."""
    capsys.readouterr()
    code = longreel(home, "data stale", *words)
    lines = capsys.readouterr().out.splitlines()
    assert code == (99 if lines == ["nothing is stale"] else 0)
    return None if code else json.loads(lines[-1])


def test_a_day_has_arrived_with_its_folder_or_with_the_file_that_says_so(
    make_home: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home()
    write(home, 0)
    assert longreel(home, "data check-arrival", "--date", str(DAYS[0])) == 0
    assert longreel(home, "data check-arrival", "--date", str(DAYS[1])) == 3
    assert f"has days {DAYS[0]} .. {DAYS[0]}, not {DAYS[1]}" in capsys.readouterr().err

    config = home.path / "longreel.toml"
    config.write_text(config.read_text().replace("[source]", '[source]\nready_file = "_SUCCESS"'))
    assert longreel(home, "data check-arrival", "--date", str(DAYS[0])) == 3
    assert "has no day yet" in (lines := capsys.readouterr().err)
    assert "a day has arrived once its folder holds _SUCCESS" in lines
    assert longreel(home, "data ingest", "--date", str(DAYS[0])) == 3  # ingest agrees
    (home.path / "raw" / f"date={DAYS[0]}" / "_SUCCESS").touch()
    assert longreel(home, "data check-arrival", "--date", str(DAYS[0])) == 0


def test_naming_a_ready_file_makes_no_published_day_stale(
    built: Callable[[int], Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = built(1)
    config = home.path / "longreel.toml"
    config.write_text(config.read_text().replace("[source]", '[source]\nready_file = "_SUCCESS"'))
    (home.path / "raw" / f"date={DAYS[0]}" / "_SUCCESS").touch()
    assert stale_range(home, capsys) is None


def test_a_corrected_raw_day_is_found_and_the_range_brings_it_and_what_is_made_from_it_up_to_date(
    built: Callable[[int], Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = built(3)
    assert stale_range(home, capsys) is None
    write(home, 1, users=2)
    stale = stale_range(home, capsys)
    assert stale is not None
    assert (stale["start"], stale["end"]) == (str(DAYS[1]), str(DAYS[2]))
    before = {day: home.lake.require("samples", day).digest for day in DAYS}
    assert stale["digests"] == {str(day): before[day] for day in DAYS[1:]}
    assert stale_range(home, capsys, "--start", str(DAYS[1])) == stale
    assert stale_range(home, capsys, "--start", str(DAYS[2])) is None  # without DAYS[1] nothing has changed
    assert stale_range(home, capsys, "--raw-days", "1") is None  # the corrected day is further back

    for step in ("data ingest", "data build-samples"):
        words = ("--start", stale["start"], "--end", stale["end"], "--no-accept-drift")
        assert longreel(home, step, *words) == 0
    assert stale_range(home, capsys) is None
    after = {day: home.lake.require("samples", day).digest for day in DAYS}
    assert [day for day in DAYS if before[day] != after[day]] == DAYS[1:]


def test_events_that_were_ingested_again_by_hand_leave_stale_samples_to_find(
    built: Callable[[int], Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = built(2)
    write(home, 0, users=2)
    assert longreel(home, "data ingest", "--date", str(DAYS[0])) == 0
    stale = stale_range(home, capsys)
    assert stale is not None
    assert (stale["start"], stale["end"]) == (str(DAYS[0]), str(DAYS[1]))


def test_days_that_were_never_published_are_asked_for_by_name(
    built: Callable[[int], Home], capsys: pytest.CaptureFixture[str]
) -> None:
    """The days after a missing one may be published: then they are to be built again, since they lack it."""
    home = built(1)
    write(home, 1)
    assert stale_range(home, capsys) is None  # a new day is the daily run's
    stale = stale_range(home, capsys, "--start", str(DAYS[0]), "--end", str(DAYS[1]))
    assert stale is not None
    assert (stale["start"], stale["end"]) == (str(DAYS[1]), str(DAYS[1]))
    assert stale["digests"] == {}
    assert longreel(home, "data stale", "--start", str(DAYS[1]), "--end", str(DAYS[2])) == 3  # has no raw log
    assert f"not {DAYS[2]}" in capsys.readouterr().err
    assert longreel(home, "data stale", "--end", str(DAYS[2])) == 2


def redeclare(home: Home, old: str, new: str) -> None:
    """Change a declaration in the home's configuration."""
    path = home.path / "longreel.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_new_optional_field_makes_nothing_stale(
    built: Callable[[int], Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = built(2)
    redeclare(home, "[fields.request]", 'price = {kind = "number", optional = true}\n[fields.request]')
    assert stale_range(home, capsys) is None
    assert longreel(home, "data build-samples", "--start", str(DAYS[0]), "--end", str(DAYS[1])) == 0
    assert capsys.readouterr().out.count("unchanged") == 2


@pytest.mark.parametrize(
    ("old", "new", "reason", "datasets"),
    [
        ("play_ms >= duration_ms\"", "play_ms > duration_ms\"", "label finish was sql", ("events", "samples")),
        ('events = "click OR like', 'events = "like', "history was click OR like", ("events", "samples")),
        ("max_history = 10240", "max_history = 64", "[samples] max_history was 10240, is 64", ("samples",)),
    ],
)  # fmt: skip
def test_a_changed_definition_lists_every_day_and_the_range_brings_them_up_to_date(
    built: Callable[[int], Home],
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    reason: str,
    datasets: tuple[str, ...],
) -> None:
    home = built(2)
    redeclare(home, old, new)
    capsys.readouterr()
    assert longreel(home, "data stale", "--raw-days", "1") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    for dataset in ("events", "samples"):
        for day in DAYS[:2]:
            is_named = any(line.startswith(f"{dataset} {day}: {reason}") for line in lines)
            assert is_named == (dataset in datasets)
    stale = json.loads(last)
    assert (stale["start"], stale["end"]) == (str(DAYS[0]), str(DAYS[1]))
    span = ("--start", stale["start"], "--end", stale["end"], "--no-accept-drift")
    if "events" in datasets:
        assert longreel(home, "data build-samples", *span) == 2
        error = capsys.readouterr().err
        assert f"events of {DAYS[0]} were made by other definitions: {reason}" in error
        assert f"run `longreel data ingest --date {DAYS[0]}`, or `longreel data stale`" in error
    for step in ("data ingest", "data build-samples"):
        assert longreel(home, step, *span) == 0
    assert stale_range(home, capsys) is None


def test_days_whose_raw_log_is_gone_cannot_be_brought_up_to_date(
    built: Callable[[int], Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = built(2)
    redeclare(home, "play_ms >= duration_ms\"", "play_ms > duration_ms\"")  # fmt: skip
    shutil.rmtree(home.path / "raw" / f"date={DAYS[0]}")
    assert longreel(home, "data stale") == 3
    assert f"not {DAYS[0]}" in capsys.readouterr().err
