"""Ingest: every row is accounted for, what is wrong is named, and nothing changes when nothing changed."""

import gzip
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spark_helpers import DAY, MIDNIGHT_MS, contents, longreel, published, row, write_raw

from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.spark_jobs.sources.generic import GenericSource

DAY_MS = 86_400_000
BAD: dict[str, dict[str, Any]] = {
    "missing_user": {"user_id": " "},
    "missing_item": {"item_id": None},
    "missing_time": {"time_ms": None},
    "unparsable_time_ms": {"time_ms": "noon"},
    "unparsable_play_ms": {"play_ms": "long"},
    "future_time": {"time_ms": str(MIDNIGHT_MS + DAY_MS)},
    "stale_time": {"time_ms": str(MIDNIGHT_MS - DAY_MS - 1)},
    "bad_click": {"click": "2"},
}
KEPT: list[dict[str, Any]] = [
    {"time_ms": str(MIDNIGHT_MS + DAY_MS - 1)},
    {"time_ms": str(MIDNIGHT_MS - DAY_MS)},
    {"user_id": "anna", "play_ms": None, "click": "true"},
    {"user_id": "8.0", "click": None},
]


def text_row(number: int, **changes: Any) -> dict[str, Any]:
    base = row(item=100 + number, at=number)
    return {name: str(value) for name, value in base.items()} | changes


def test_every_row_is_an_event_a_quarantined_row_or_an_exact_duplicate(spark: Any, make_home: Any) -> None:
    home = make_home()
    bad = [text_row(number, **changes) for number, changes in enumerate(BAD.values())]
    good = [text_row(50 + number, **changes) for number, changes in enumerate(KEPT)]
    write_raw(home, DAY, [*bad, *good, good[0], good[0], bad[0]])
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0

    counts = home.lake.require("events", DAY).counts
    assert counts["input_rows"] == len(BAD) + len(KEPT) + 3
    assert (counts["events"], counts["quarantined"], counts["exact_duplicates"]) == (len(KEPT), len(BAD), 3)
    assert {name: counts[f"quarantined_{name}"] for name in BAD} == dict.fromkeys(BAD, 1)
    rejected = {event["reason"]: event for event in published(home, "quarantine", DAY)}
    for name, raw in zip(BAD, bad, strict=True):
        assert json.loads(rejected[name]["row"]) == raw
        assert rejected[name]["source_file"] == "log.parquet"
    events = {event["item_id"]: event for event in published(home, "events", DAY)}
    assert events[152]["user_id"] not in (0, None)
    assert (events[152]["actions"], events[152]["author_id"]) == (1, -1)
    assert math.isnan(events[152]["play_ms"])
    assert (events[153]["user_id"], events[153]["actions"]) == (8, 0)
    assert len(published(home, "users", DAY)) == counts["users"] == 3


def test_a_failing_checkpoint_stops_the_day_and_leaves_a_summary(spark: Any, make_home: Any, capsys: Any) -> None:
    home = make_home(share=0.2)
    write_raw(home, DAY, [row(item=number) for number in range(3)] + [row(user=None)])
    assert longreel(home, "data ingest", "--date", str(DAY)) == 4
    message = capsys.readouterr().err
    assert "share of rows quarantined (1 missing_user): expected 0 .. 0.2, got 0.25" in message
    summary = json.loads((home.reports / str(DAY) / "quality-events.json").read_text())
    assert not summary["success"]
    assert [c["column"] for c in summary["checks"] if not c["success"]] == ["quarantined_share"]
    assert (home.reports / str(DAY) / "data-docs" / "events" / "index.html").is_file()
    for dataset in ("events", "users", "quarantine"):
        assert home.lake.manifest(dataset, DAY) is None
        assert not list((home.path / "lake" / dataset).rglob("*.parquet"))


def test_the_same_raw_day_publishes_nothing_new_and_a_corrected_one_does(
    spark: Any, make_home: Any, capsys: Any
) -> None:
    home = make_home()
    rows = [row(user, item, at=user * 7) for user in range(5) for item in range(3)]
    write_raw(home, DAY, rows)
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    before, first = contents(home.path / "lake"), home.lake.require("events", DAY)
    capsys.readouterr()
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert "unchanged" in capsys.readouterr().out
    assert longreel(home, "data ingest", "--date", str(DAY), "--force") == 0
    assert contents(home.path / "lake") == before

    write_raw(home, DAY, rows[::-1])  # other bytes, the same rows
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    again = home.lake.require("events", DAY)
    assert (again.digest, again.files) == (first.digest, first.files)
    assert again.inputs != first.inputs
    write_raw(home, DAY, [*rows[1:], rows[0] | {"play_ms": 501}])
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert home.lake.require("events", DAY).digest != first.digest


def test_an_empty_day_is_published_empty_and_said_so(spark: Any, make_home: Any, capsys: Any) -> None:
    home, tomorrow = make_home(), DAY + timedelta(days=1)
    (home.path / "raw" / f"date={DAY}").mkdir(parents=True)
    write_raw(home, tomorrow, [])
    assert longreel(home, "data ingest", "--start", str(DAY), "--end", str(tomorrow)) == 0
    assert "warning" in capsys.readouterr().out
    assert longreel(home, "data build-samples", "--start", str(DAY), "--end", str(tomorrow)) == 0
    for day in (DAY, tomorrow):
        for dataset in ("events", "users", "quarantine", "samples"):
            manifest = home.lake.require(dataset, day)
            assert manifest.rows == 0
            assert home.lake.read(manifest).num_rows == 0
        assert "warnings" in home.lake.require("samples", day).details


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--date", "2026-03-09"], 3, "not 2026-03-09"),
        (["--date", "yesterday"], 2, "YYYY-MM-DD, got 'yesterday'"),
        (["--start", "2026-03-02"], 2, "both --start and --end"),
        (["--start", "2026-03-02", "--end", "2026-03-01"], 2, "before it starts"),
    ],
)
def test_wrong_days_are_rejected(make_home: Any, capsys: Any, words: list[str], code: int, text: str) -> None:
    home = make_home()
    write_raw(home, DAY, [row()])
    assert longreel(home, "data ingest", *words) == code
    assert text in capsys.readouterr().err


def broken_parquet(folder: Path) -> None:
    (folder / "log.parquet").write_bytes(b"PAR1 but not really")


def no_item(folder: Path) -> None:
    pq.write_table(pa.table({"user_id": [1], "time_ms": [1]}), folder / "log.parquet")


def no_time(folder: Path) -> None:
    (folder / "more.csv").write_text("user_id,item_id\n1,2\n")


def twice(folder: Path) -> None:
    (folder / "more.csv").write_text("user_id,item_id,time_ms,click,Click\n1,2,3,0,0\n")


def twice_in_parquet(folder: Path) -> None:
    rest = {"user_id": [1], "item_id": [1], "time_ms": [MIDNIGHT_MS]}
    pq.write_table(pa.table(rest | {"click": [1], "Click": [0]}), folder / "more.parquet")


def cut_gz(folder: Path) -> None:
    text = "user_id,item_id,time_ms\n" + "".join(f"{n * 7919},{n * 104729},{MIDNIGHT_MS + n}\n" for n in range(20_000))
    packed = gzip.compress(text.encode())
    (folder / "more.csv.gz").write_bytes(packed[: len(packed) // 2])


def cut_page(folder: Path) -> None:
    """A whole footer, and data pages that are zeros."""
    path = folder / "log.parquet"
    path.write_bytes(b"PAR1" + bytes(100) + path.read_bytes()[104:])


def packed_otherwise(folder: Path) -> None:
    (folder / "log.parquet").rename(folder / "log.parquet.zst")


def extra_file(name: str) -> Callable[[Path], None]:
    """A file of rows that would be overlooked next to good ones."""

    def damage(folder: Path) -> None:
        (folder / name).write_text("user_id,item_id,time_ms\n1,1,1\n")

    return damage


def nested(folder: Path) -> None:
    """As text, every user would be the same one."""
    table = pq.read_table(folder / "log.parquet")
    users = pa.array([{"id": 1}])
    pq.write_table(table.set_column(0, "user_id", users), folder / "log.parquet")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (broken_parquet, "not a Parquet file"),
        (no_item, "no column item_id"),
        (no_time, "more.csv has no column time_ms"),
        (twice, "more.csv has more than one column click"),
        (twice_in_parquet, "more.parquet has more than one column click"),
        (cut_gz, "more.csv.gz cannot be read to its end"),
        (cut_page, "log.parquet: column user_id cannot be read: "),
        (packed_otherwise, "holds log.parquet.zst; expected"),
        (extra_file("part-2.CSV"), "holds part-2.CSV; expected"),
        (extra_file("part-2.csv.zst"), "holds part-2.csv.zst; expected"),
        (extra_file("late.tsv"), "holds late.tsv; expected"),
        (nested, "[source] user_id, the rows of 2026-03-02: expected a number or text, got struct<id:bigint>"),
    ],
)
def test_wrong_files_are_named(make_home: Any, capsys: Any, damage: Any, text: str) -> None:
    home = make_home()
    damage(write_raw(home, DAY, [row()]))
    assert longreel(home, "data ingest", "--date", str(DAY)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert text in line


def test_notes_and_checksums_next_to_the_rows_are_left_alone(make_home: Any) -> None:
    folder = write_raw(make_home(), DAY, [row()])
    for name in ("README.txt", "log.parquet.md5", ".log.parquet.crc", "_SUCCESS"):
        (folder / name).write_text("about the rows")
    assert [path.name for path in GenericSource(folder.parent).files(DAY)] == ["log.parquet"]


def test_a_user_table_that_no_command_would_read_is_named(make_home: Any) -> None:
    folder = write_raw(make_home(), DAY, [row()])
    (folder.parent / "users.parquet.md5").write_text("0")
    assert [path.name for path in GenericSource(folder.parent).files(DAY)] == ["log.parquet"]
    (folder.parent / "users.CSV").write_text("user_id,city\n1,Riga\n")
    source = GenericSource(folder.parent)
    with pytest.raises(LongreelError, match=r"holds users\.CSV; expected files \.parquet"):
        source.files(DAY)


def test_a_wrong_folder_is_named(make_home: Any, capsys: Any) -> None:
    home = make_home(log="nowhere")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 3
    assert "no raw log at" in capsys.readouterr().err
    (home.path / "nowhere" / "other").mkdir(parents=True)
    assert longreel(home, "data ingest", "--date", str(DAY)) == 2
    assert "no date=YYYY-MM-DD folder" in capsys.readouterr().err


def mount_point(home: Home, log: Path) -> None:
    log.mkdir()


def other_day(home: Home, log: Path) -> None:
    (log / "date=2026-03-01").mkdir(parents=True)


def wrong_folder(home: Home, log: Path) -> None:
    (log / "2026-03-01").mkdir(parents=True)


def bootstrap_only(home: Home, log: Path) -> None:
    (log / "history").mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [1], "item_id": [1], "time_ms": [1]}), log / "history" / "old.parquet")


def a_file(home: Home, log: Path) -> None:
    log.write_text("")


def other_spelling(home: Home, log: Path) -> None:
    """Read as one day, one of the two would hide the other."""
    for name in ("date=2026-03-02", "date=20260302"):
        (log / name).mkdir(parents=True)


def no_log_set(home: Home, log: Path) -> None:
    config = home.path / "longreel.toml"
    config.write_text(config.read_text().replace('log = "raw"', 'log = ""'))


@pytest.mark.parametrize("kind", ["generic", "kuairand"])
@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (lambda home, log: None, 3, "yet: no such folder; mount it, or correct [source] log"),
        (mount_point, 3, "yet: an empty folder; mount it, or correct [source] log"),
        (wrong_folder, 2, "expected KuaiRand's data folder|no date=YYYY-MM-DD folder in .*, but 2026-03-01"),
        (no_log_set, 2, r"log is not set in .*longreel\.toml"),
    ],
)
def test_arrived_waits_for_a_missing_log_and_rejects_a_wrong_one(
    make_home: Any, capsys: Any, kind: str, make: Any, code: int, text: str
) -> None:
    home = make_home(kind=kind)
    make(home, home.path / "raw")
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == code
    assert re.search(text.replace("[source]", r"\[source\]"), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (other_day, 3, "not 2026-03-02"),
        (bootstrap_only, 3, "has no day yet, not 2026-03-02"),
        (a_file, 2, "is not a folder"),
        (other_spelling, 2, "date=20260302: expected a folder date=YYYY-MM-DD"),
    ],
)
def test_arrived_of_a_log_with_day_folders(make_home: Any, capsys: Any, make: Any, code: int, text: str) -> None:
    home = make_home()
    make(home, home.path / "raw")
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == code
    assert text in capsys.readouterr().err


CLICKS = """
[fields.item]
tag = {kind = "id", optional = true}
[actions]
click = "click"
like = "coalesce(click, 0) > 5"
[labels]
click = "click"
like = "like"
"""


def test_columns_of_types_that_spark_has_not_and_of_names_that_it_uses_are_read(spark: Any, make_home: Any) -> None:
    home = make_home(schema=CLICKS)
    columns = {
        "user_id": pa.array([7, 7], pa.uint32()),
        "item_id": pa.array([2**64 - 1, 3], pa.uint64()),
        "time_ms": pa.array([MIDNIGHT_MS, MIDNIGHT_MS + 1]),
        "tag": pa.array(["a", "b"]).dictionary_encode(),
        "click": pa.array([1, 0], pa.uint8()),
        "like": pa.nulls(2),
        "author.id": pa.array([1, 2], pa.uint16()),
        "at": pa.array([1, 2], pa.timestamp("ns")),  # as pandas has them
        "at_utc": pa.array([1, 2], pa.timestamp("ns", "UTC")),
        "hour": pa.array([1, 2], pa.time64("us")),
        "minute": pa.array([1, 2], pa.time32("ms")),
        "file_name": ["a.mp4", "b.mp4"],
    }
    pq.write_table(pa.table(columns), write_raw(home, DAY, [row()]) / "log.parquet")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    counts = home.lake.require("events", DAY).counts
    assert (counts["input_rows"], counts["events"], counts["action_click"]) == (2, 2, 1)


def test_a_fraction_that_is_not_a_number_is_a_missing_value(spark: Any, make_home: Any) -> None:
    """Hashed as a text, all of them would be one user."""
    home, nan = make_home(schema=CLICKS), float("nan")
    columns = {"user_id": [1.0, nan, 3.0], "item_id": [nan, 2.0, 3.0], "tag": [1.0, 1.0, nan], "click": [1.0, nan, 0.0]}
    folder = write_raw(home, DAY, [row()])
    pq.write_table(pa.table(columns | {"time_ms": [MIDNIGHT_MS] * 3}), folder / "log.parquet")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    counts = home.lake.require("events", DAY).counts
    assert (counts["quarantined_missing_user"], counts["quarantined_missing_item"]) == (1, 1)
    assert [(e["user_id"], e["item_id"], e["tag"]) for e in published(home, "events", DAY)] == [(3, 3, -1)]


def test_brackets_in_the_names_of_files_and_of_the_home_are_no_patterns(spark: Any, make_home: Any) -> None:
    home = make_home("home[1]")
    folder = write_raw(home, DAY, [row(item=1)])
    (folder / "log.parquet").rename(folder / "log[1].parquet")
    (folder / "more {2}.csv").write_text(f"user_id,item_id,time_ms\n1,2,{MIDNIGHT_MS}\n")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    assert home.lake.require("samples", DAY).counts["targets"] == 2


def test_a_file_that_begins_with_a_mark_is_read(spark: Any, make_home: Any) -> None:
    home = make_home()
    write_raw(home, DAY, [row()]).joinpath("more.csv").write_bytes(
        b"\xef\xbb\xbf" + f"user_id,item_id,time_ms\n1,2,{MIDNIGHT_MS}\n".encode()
    )
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert home.lake.require("events", DAY).counts["events"] == 2


def test_csv_and_parquet_of_one_day_are_read_together(spark: Any, make_home: Any) -> None:
    home = make_home()
    folder = write_raw(home, DAY, [row(item=1)])
    text = f"user_id,item_id,time_ms,click,long_view\n1,2,{MIDNIGHT_MS},1,true\n1,3,{MIDNIGHT_MS},0,0,9\n"
    (folder / "more.csv").write_text(text)
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert [(e["item_id"], e["actions"]) for e in published(home, "events", DAY)] == [(1, 1), (2, 65)]
    assert home.lake.require("events", DAY).counts["quarantined_malformed_row"] == 1


def test_without_a_java_the_step_says_how_to_get_one(make_home: Any) -> None:
    """In a separate process: a Java that runs already would be used."""
    home = make_home()
    write_raw(home, DAY, [row()])
    command = [sys.executable, "-m", "longreel", "data", "ingest", "--home", str(home.path), "--date", str(DAY)]
    ended = subprocess.run(
        command, env=os.environ | {"JAVA_HOME": "/nowhere"}, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "Spark needs Java 17, and none could be started (JAVA_HOME is /nowhere)" in ended.stderr
    assert "Traceback" not in ended.stderr
