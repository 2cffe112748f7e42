"""The KuaiRand source: a hand-made folder with every oddity, and the real two weeks where they are at hand."""

import csv
import gzip
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from spark_helpers import REPOSITORY, longreel, published

from longreel.contracts.config import parse_config
from longreel.contracts.presets import preset
from longreel.contracts.sql_names import names_in
from longreel.lake.home import Home
from longreel.spark_jobs.items import with_items
from longreel.spark_jobs.sources import open_source
from longreel.spark_jobs.users import users_of_table
from longreel.spark_jobs.validate import distinct_rows

REAL = REPOSITORY.parent / "shared" / "data" / "kuairand-pure"
COLUMNS = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_video_author,follow_user_num_range,fans_user_num_range,"
    'friend_user_num_range,register_days_range\n1,full_active,0,1,500+,"[100,1k)",0,730+\n'
)
DAY = date(2022, 4, 25)
MIDNIGHT_MS = int(datetime(2022, 4, 24, 16, tzinfo=UTC).timestamp() * 1_000)  # of DAY at UTC+8


def line(day: str, at: int, user: str = "1", video: str = "5", click: int = 1, tail: str = "") -> str:
    return f"{user},{video},{day},0,{MIDNIGHT_MS + at},{click},0,0,0,0,0,{click},900,800,0,0,0,0,1{tail}\n"


@pytest.fixture
def new_home(tmp_path: Path) -> Any:
    """A home with the preset, which stops no day."""

    def make(name: str = "home", log: str = "raw") -> Home:
        (tmp_path / name).mkdir()
        text = preset("kuairand").replace('log = ""', f'log = "{log}"\nmax_quarantined_share = 1.0')
        (tmp_path / name / "longreel.toml").write_text(text)
        return Home(tmp_path / name)

    return make


def write_folder(home: Any) -> Path:
    """Two days in two files, one of them gzipped; three rows that cannot be dated; a tag with two numbers."""
    raw = home.path / "raw"
    raw.mkdir()
    (raw / "log_standard_a.csv").write_text(
        COLUMNS
        + "\n"
        + line("20220425", 5)
        + line("20220425", -7_200_000, video="6")  # two hours before its log day
        + line("20220426", 86_400_000 + 9, user="2")
        + line("2022042", 7)
        + line("20220231", 8)
        + line("20220426", 86_400_000 + 9, tail=",1,1")
    )
    with gzip.open(raw / "log_random_b.csv.gz", "wt") as stream:
        stream.write(COLUMNS + "\n" + line("20220425", 5) + line("20220428", 3 * 86_400_000, user="x"))
    (raw / "video_features_basic_1.csv").write_text('video_id,author_id,tag\n5,50,"12,65"\n')
    (raw / "user_features.csv").write_text(USERS)
    return raw


def test_every_row_of_the_folder_belongs_to_one_day(spark: Any, new_home: Any) -> None:
    home = new_home()
    write_folder(home)
    days = [DAY + timedelta(days=number) for number in range(4)]
    assert longreel(home, "data ingest", "--start", str(days[0]), "--end", str(days[-1])) == 0
    counts = [home.lake.require("events", day).counts for day in days]
    assert [c["input_rows"] for c in counts] == [6, 1, 0, 1]
    assert [c["events"] for c in counts] == [2, 1, 0, 1]
    assert counts[0]["exact_duplicates"] == 1  # across files
    assert (counts[0]["quarantined_unreadable_date"], counts[0]["quarantined_malformed_row"]) == (2, 1)
    assert {json.loads(r["row"])["date"] for r in published(home, "quarantine", DAY)} >= {"2022042", "20220231"}

    late, own = published(home, "events", DAY)
    assert (late["time_ms"], late["author_id"], late["tag"]) == (MIDNIGHT_MS - 7_200_000, -1, -1)
    assert (own["author_id"], own["tag"], own["surface"], own["actions"], own["play_ratio"]) == (50, 12, 1, 65, 1.125)
    assert (own["duration_ms"], own["history"]) == (800, 1)
    (described,), (unknown,) = published(home, "users", DAY), published(home, "users", days[1])
    assert (described["user_id"], described["user_is_video_author"]) == (1, 1)
    assert {value for name, value in unknown.items() if name != "user_id"} == {-1}
    assert longreel(home, "data ingest", "--date", str(DAY + timedelta(days=4))) == 3


def test_a_user_described_twice_has_the_same_fields_in_any_order(spark: Any, new_home: Any) -> None:
    head, first = USERS.splitlines()
    lines, features = [first, first.replace("full_active", "low_active")], []
    for order in (lines, lines[::-1]):
        home = new_home(f"home{len(features)}")
        (write_folder(home) / "user_features.csv").write_text("\n".join([head, *order]) + "\n")
        table = open_source(home).users.read(spark, DAY)
        assert table is not None
        features.append(users_of_table(table, home.config, "users").collect())
    assert features[0] == features[1]


def test_a_row_has_what_the_configuration_reads_of_its_video(spark: Any, new_home: Any) -> None:
    home = new_home()
    raw = write_folder(home)
    videos = ["video_id,author_id,tag,video_type,tab", '5,50,"12,65",AD,9', '5,50,"12,7",NORMAL,9', "7,70,1,AD,9,9"]
    for order in (videos, [videos[0], *videos[:0:-1]]):
        (raw / "video_features_basic_1.csv").write_text("\n".join(order) + "\n")
        source = open_source(home)
        rows = distinct_rows(source.rows(spark, DAY).where("row.video_id IN (5, 6)"))
        rows = with_items(rows, source.items.read(spark, DAY), home.config, "items")
        by_video = {row["row"]["video_id"]: row for row in rows.collect()}
        assert by_video["5"]["described"].asDict() == {"author_id": "50", "tag": "12,65"}  # not tab: rows have it
        assert by_video["6"]["described"] is None
    (raw / "video_features_basic_1.csv").unlink()
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0  # author_id and tag are optional
    assert {event["author_id"] for event in published(home, "events", DAY)} == {-1}


def test_what_is_missing_is_named(new_home: Any, capsys: Any) -> None:
    home = new_home()
    raw = write_folder(home)
    (raw / "log_standard_a.csv").write_text(COLUMNS.replace("video_id", "item") + "\n")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 2
    assert "log_standard_a.csv has no column video_id; its columns are user_id, item, date" in capsys.readouterr().err
    (raw / "log_standard_a.csv").unlink()
    (raw / "log_random_b.csv.gz").write_bytes((raw / "log_random_b.csv.gz").read_bytes()[:-20])
    assert longreel(home, "data ingest", "--date", str(DAY)) == 2
    assert "log_random_b.csv.gz cannot be read" in capsys.readouterr().err
    (raw / "log_random_b.csv.gz").unlink()
    assert longreel(home, "data ingest", "--date", str(DAY)) == 2
    assert "no log_*.csv" in capsys.readouterr().err


def leaks_and_misses(table: Any) -> tuple[int, int]:
    """Over all requests: history elements seen at or after the request's time, and older ones not seen."""
    leaks = misses = 0
    for row in table.select(["history_time_ms", "request_time_ms", "request_history_end"]).to_pylist():
        times = row["history_time_ms"]
        for at, end in zip(row["request_time_ms"], row["request_history_end"], strict=True):
            leaks += sum(t >= at for t in times[:end])
            misses += sum(t < at for t in times[end:])
    return leaks, misses


@pytest.mark.skipif(not REAL.is_dir(), reason="KuaiRand-Pure is not beside this checkout")
def test_the_preset_names_columns_that_the_files_have() -> None:
    columns = set()
    for path in REAL.glob("*.csv.gz"):
        with gzip.open(path, "rt") as stream:
            columns.update(next(csv.reader(stream)))
    config = parse_config(preset("kuairand"))
    sources = [field.source or field.name for field in config.log_schema.fields[1:]]
    sources += [action.when or action.name for action in config.log_schema.actions]
    sources += [config.source.user_id, config.source.item_id, config.source.time_ms]
    assert {name for sql in sources for name in names_in(sql)} <= columns


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="KuaiRand-Pure is not beside this checkout")
def test_two_real_weeks_close_and_never_leak(spark: Any, new_home: Any) -> None:
    home = new_home(log=str(REAL))
    days = [date(2022, 4, 25) + timedelta(days=number) for number in range(14)]
    words = ("--start", str(days[0]), "--end", str(days[-1]))
    assert longreel(home, "data ingest", *words) == 0
    assert longreel(home, "data build-samples", *words) == 0
    total = {"input_rows": 0, "events": 0, "quarantined": 0, "exact_duplicates": 0}
    for day in days:
        counts = home.lake.require("events", day).counts
        total = {name: total[name] + counts[name] for name in total}
        samples = home.lake.read(home.lake.require("samples", day))
        assert pc.sum(pc.list_value_length(samples["target_item_id"])).as_py() == counts["events"]
        assert leaks_and_misses(samples) == (0, 0)
        for dataset in ("events", "samples"):  # a holiday and its weekends are ordinary days
            assert "warnings" not in home.lake.require(dataset, day).details
    assert total == {"input_rows": 228_329, "events": 222_869, "quarantined": 0, "exact_duplicates": 5_460}
