"""`build-samples --ingest-missing`: days may be built in any order, and a day that cannot be ingested is reported."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from spark_helpers import DAY, longreel, new_home, published, row, step, write_raw

from longreel.lake.home import Home
from longreel.lake.lineage import stale_partitions

DAYS = [DAY + timedelta(days=number) for number in range(5)]
DAY_MS = 86_400_000


def with_log(make_home: Any, name: str = "home") -> Any:
    """A home whose raw log has all days; users come and go."""
    home = make_home(name, compact_every_days=2, share=0.1)
    for number, day in enumerate(DAYS):
        rows = [row(user, 10 * number + user, number * DAY_MS + user) for user in (1, 2, 3) if user != number % 4]
        write_raw(home, day, rows)
    return home


@pytest.fixture(scope="module")
def day_0_built(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose raw log has all days, of which the first is built."""
    folder = tmp_path_factory.mktemp("day-0-built")
    home = with_log(lambda name, **values: new_home(folder / name, **values))
    assert build(home, 0) == 0
    return home


@pytest.fixture
def home(day_0_built: Home, tmp_path: Path) -> Home:
    """A copy of `day_0_built`."""
    shutil.copytree(day_0_built.path, tmp_path / "home")
    return Home(tmp_path / "home")


def build(home: Any, number: int, *more: str) -> int:
    """What a daily run does of a day."""
    ingested = longreel(home, "data ingest", "--date", str(DAYS[number]))
    return ingested or longreel(home, "data build-samples", "--date", str(DAYS[number]), *more)


def oldest_first(home: Any, first: int, last: int) -> Any:
    """The home with a range ingested and built in order."""
    for name in ("data ingest", "data build-samples"):
        assert longreel(home, name, "--start", str(DAYS[first]), "--end", str(DAYS[last])) == 0
    return home


def digests(home: Any) -> dict[str, str]:
    lake = home.lake
    return {
        f"{name}/{day}": lake.require(name, day).digest for name in ("events", "samples") for day in lake.days(name)
    }


@pytest.mark.slow
def test_newest_first_after_published_days_gives_what_oldest_first_gives_at_once(
    spark: Any, make_home: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is stale at any time; days before the first published one are not ingested, though their log is there."""
    expected, home = oldest_first(with_log(make_home, "oldest-first"), 1, 4), with_log(make_home)
    assert build(home, 1) == 0
    assert build(home, 4) == 3
    assert f"{DAYS[2]} is not published" in capsys.readouterr().err
    for number in (4, 3, 2):
        assert build(home, number, "--ingest-missing") == 0
        assert list(home.lake.days("events")) == DAYS[1:]
        assert sorted(home.lake.days("samples")) == [DAYS[1], *DAYS[number:]]
        assert stale_partitions(home.lake, home.config, ("samples",)) == []
    assert digests(home) == digests(expected)
    assert list(home.lake.days("history"))  # the newest day was built on a snapshot


@pytest.mark.slow
def test_newest_first_with_nothing_before_leaves_stale_samples_that_a_rebuild_corrects(
    spark: Any, make_home: Any
) -> None:
    expected, home = oldest_first(with_log(make_home, "oldest-first"), 0, 2), with_log(make_home)
    for number in (2, 1, 0):
        assert build(home, number, "--ingest-missing") == 0
        assert list(home.lake.days("events")) == DAYS[number:3]
        later = DAYS[number + 1 : 3]
        assert [one.day for one in stale_partitions(home.lake, home.config, ("samples",))] == later
        if later:
            words = ("--start", str(later[0]), "--end", str(later[-1]), "--ingest-missing")
            assert longreel(home, "data build-samples", *words) == 0
    assert stale_partitions(home.lake, home.config) == []
    assert digests(home) == digests(expected)


def test_a_range_is_ingested_too_and_what_is_published_is_left_as_it_is(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(home, DAYS[0], [row(9, 9, 9)])  # a corrected raw day is not this step's business
    capsys.readouterr()
    words = ("--start", str(DAYS[2]), "--end", str(DAYS[3]), "--ingest-missing")
    assert longreel(home, "data build-samples", *words) == 0
    output = capsys.readouterr().out
    assert [day for day in DAYS if f"events {day}: " in output] == DAYS[1:4]
    assert list(home.lake.days("events")) == DAYS[:4]
    assert list(home.lake.days("samples")) == [DAYS[0], *DAYS[2:4]]
    assert {event["user_id"] for event in published(home, "events", DAYS[0])} == {1, 2, 3}
    assert longreel(home, "data build-samples", *words) == 0
    assert "events" not in capsys.readouterr().out


def test_a_raw_day_that_has_not_arrived_is_reported_and_nothing_after_it_is_ingested(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home.path / "raw" / f"date={DAYS[2]}")
    assert build(home, 4, "--ingest-missing") == 3
    output = capsys.readouterr()
    assert f"events {DAYS[2]}: not published, and its raw log has not arrived" in output.out
    assert f"{DAYS[2]} is not published" in output.err
    assert list(home.lake.days("events")) == [DAYS[0], DAYS[1], DAYS[4]]
    # A range up to the missing day is built as far as it goes.
    assert longreel(home, "data build-samples", "--start", str(DAYS[1]), "--end", str(DAYS[2]), "--ingest-missing") == 3
    assert list(home.lake.days("samples")) == DAYS[:2]


def test_a_day_that_its_checkpoint_stops_stops_the_build(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(home, DAYS[1], [row(None), row(2, at=DAY_MS)])
    assert build(home, 3, "--ingest-missing") == 4
    assert f"events of {DAYS[1]} failed 1 of" in capsys.readouterr().err
    assert (home.path / "reports" / str(DAYS[1]) / "data-docs" / "events" / "index.html").exists()
    assert list(home.lake.days("events")) == [DAYS[0], DAYS[3]]
    assert list(home.lake.days("samples")) == DAYS[:1]


@pytest.mark.slow
def test_processes_that_ingest_the_same_missing_days_at_once_end_with_the_same_rows(spark: Any, make_home: Any) -> None:
    expected, home = oldest_first(with_log(make_home, "oldest-first"), 0, 3), with_log(make_home)
    assert build(home, 0) == 0
    at_once = [
        step(home, "data build-samples", "--date", str(DAYS[number]), "--ingest-missing") for number in (2, 3, 3)
    ]
    assert [process.wait(timeout=300) for process in at_once] == [0, 0, 0]
    assert stale_partitions(home.lake, home.config) == []
    # No process was asked for the samples of the second day.
    assert digests(home) == {name: digest for name, digest in digests(expected).items() if name != f"samples/{DAYS[1]}"}
    for name in ("events", "users", "quarantine", "samples"):
        for day in home.lake.days(name):
            assert len(published(home, name, day)) == home.lake.require(name, day).rows
