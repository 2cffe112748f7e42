"""Logs whose rows say their day: catalog tables, one file, or a folder without date= folders."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spark_helpers import DAY, MIDNIGHT_MS, REPOSITORY, longreel, published

from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.spark_jobs.sources import open_source
from longreel.spark_jobs.sources.flat import FlatSource
from longreel.spark_jobs.sources.table import TableSource

DAYS = [DAY + timedelta(days=number) for number in range(4)]
SCHEMA = """
[fields.item]
price = {kind = "number", optional = true}
[actions]
click = "click"
like = "click"
[labels]
click = "click"
like = "like"
"""
HEADER = "uid,sku,shown_at,day,click\n"


def line(number: int, day: str, tail: str = "") -> str:
    return f"u{number},{number},{MIDNIGHT_MS + number},{day},1{tail}\n"


def events_sql(day: date, users: range) -> str:
    """Rows of a day, as SQL."""
    at_ms = MIDNIGHT_MS + (day - DAY).days * 86_400_000
    return (
        f"SELECT concat('u', id) AS uid, id AS sku, {at_ms} + id AS shown_at, true AS click, '{day}' AS day "
        f"FROM range({users.start}, {users.stop})"
    )


@pytest.fixture
def home_of(make_home: Callable[..., Home]) -> Callable[..., Home]:
    """A home for a log with a column for the day."""

    def make(log: str = "", table: str = "", day: str = "day", name: str = "home") -> Home:
        names = f'user_id = "uid"\nitem_id = "sku"\ntime_ms = "shown_at"\ntable = "{table}"\nday = "{day}"'
        return make_home(name, log=log, source=names, schema=SCHEMA)

    return make


@pytest.fixture
def table(spark: Any, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Makes a warehouse table with the first and third of DAYS, four rows each."""
    names = []

    def make(name: str, partitioned: bool) -> str:
        frame = spark.sql(f"{events_sql(DAYS[0], range(4))} UNION ALL {events_sql(DAYS[2], range(2, 6))}")
        writer = frame.coalesce(1).write.option("path", str(tmp_path / name)).format("parquet")
        (writer.partitionBy("day") if partitioned else writer).saveAsTable(name)
        names.append(name)
        return f"default.{name}"

    yield make
    for name in names:
        spark.sql(f"DROP TABLE {name}")


def users_of(source: Any, spark: Any, day: date) -> dict[str | None, list[str]]:
    """Users of a day's rows, by why they are unreadable."""
    by_reason: dict[str | None, list[str]] = {}
    for row in source.rows(spark, day).select("row.uid", "unreadable").collect():
        by_reason.setdefault(row["unreadable"], []).append(row["uid"])
    return {reason: sorted(users) for reason, users in by_reason.items()}


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_warehouse_table_has_every_day_from_its_first_to_its_last(
    spark: Any, home_of: Any, table: Any, partitioned: bool, capsys: Any
) -> None:
    home = home_of(table=table(f"events_{partitioned}".lower(), partitioned))
    source = open_source(home)
    assert isinstance(source, TableSource)
    assert source.days() == DAYS[:3]
    assert users_of(source, spark, DAYS[2]) == {None: ["u2", "u3", "u4", "u5"]}
    assert users_of(source, spark, DAYS[1]) == {}
    assert (source.files(DAY), source.bootstrap_files(), source.users.read(spark, DAY)) == ([], [], None)
    for day, code in zip(DAYS, (0, 0, 0, 3), strict=True):
        assert longreel(home, "data check-arrival", "--date", str(day)) == code
    assert f"raw log in {source.root} has days {DAYS[0]} .. {DAYS[2]}, not {DAYS[3]}" in capsys.readouterr().err
    assert longreel(home, "data ingest", "--start", str(DAYS[0]), "--end", str(DAYS[2])) == 0
    assert [home.lake.require("events", day).counts["events"] for day in DAYS[:3]] == [4, 0, 4]
    assert {row["item_id"] for row in published(home, "events", DAYS[2])} == {2, 3, 4, 5}
    capsys.readouterr()
    assert longreel(home, "data ingest", "--date", str(DAYS[0])) == 0
    assert "unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_tables_digest_changes_with_the_files_of_the_day(
    spark: Any, home_of: Any, table: Any, partitioned: bool, tmp_path: Path
) -> None:
    name = table(f"digest_{partitioned}".lower(), partitioned)
    home = home_of(table=name)

    def digests() -> list[str]:
        return [open_source(home).digest(day) for day in DAYS[:3]]

    before = digests()
    assert digests() == before
    assert before[0] != before[1]
    spark.sql(f"{events_sql(DAYS[2], range(9, 10))}").write.insertInto(name)
    after = digests()
    assert after[:2] == before[:2]
    assert after[2] != before[2]
    for path in (tmp_path / f"digest_{partitioned}".lower()).rglob("*.parquet"):
        os.utime(path, (1, 1))  # written again, as long as before
    spark.catalog.refreshTable(name)
    assert digests()[0] != before[0]


def test_a_table_with_rows_of_no_day_gives_them_to_its_first(spark: Any, home_of: Any, table: Any) -> None:
    name = table("undated", False)
    spark.sql("SELECT 'x', 1, 1, true, '2026-3-2' UNION ALL SELECT 'y', 1, 1, true, NULL").write.insertInto(name)
    spark.sql("SELECT 'z', 1, 1, true, '2026-02-31' UNION ALL SELECT 'w', 1, 1, true, '9999-12-31'").write.insertInto(
        name
    )
    source = open_source(home_of(table=name))
    assert source.days() == DAYS[:3]
    assert users_of(source, spark, DAYS[0]) == {None: ["u0", "u1", "u2", "u3"], "unreadable_date": ["w", "x", "y", "z"]}
    assert users_of(source, spark, DAYS[2]) == {None: ["u2", "u3", "u4", "u5"]}


@pytest.mark.parametrize(
    ("day", "text"),
    [
        ("shown_at", r"\[source\] day: expected a date or text YYYY-MM-DD, got bigint from 'shown_at'"),
        ("timestamp_millis(shown_at)", r"got timestamp from .* use to_date\(\.\.\.\)"),
        ("dt", r"\[source\] day: 'dt' does not fit the columns of default\.wrong: .*`dt`"),
        ("day = = 1", r"\[source\] day: 'day = = 1' does not fit"),
    ],
)
def test_a_day_that_is_none_is_refused(spark: Any, home_of: Any, table: Any, day: str, text: str) -> None:
    source = open_source(home_of(table=table("wrong", False), day=day))
    with pytest.raises(LongreelError, match=text):
        source.days()


def test_a_table_that_cannot_be_used_is_named(spark: Any, home_of: Any, table: Any, capsys: Any) -> None:
    home = home_of(table="nowhere.events")
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == 2
    assert "[source] table nowhere.events cannot be opened (TABLE_OR_VIEW_NOT_FOUND)" in capsys.readouterr().err
    name = table("seen", False)
    spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW looked AS SELECT * FROM {name}")
    view = open_source(home_of(table="looked", name="view"))
    assert users_of(view, spark, DAYS[2]) == {None: ["u2", "u3", "u4", "u5"]}
    with pytest.raises(LongreelError, match=r"expected a table of files, of Iceberg or of Delta, .* looked is a view"):
        view.digest(DAY)
    spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW short AS SELECT uid, sku, day FROM {name}")
    with pytest.raises(LongreelError, match="short has no column shown_at; its columns are uid, sku, day"):
        open_source(home_of(table="short", name="short")).days()


def test_a_path_is_a_table_too(spark: Any, home_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "by-path"
    spark.sql(events_sql(DAYS[1], range(3))).write.partitionBy("day").parquet(str(path))
    source = open_source(home_of(table=f"parquet.`{path}`"))
    assert source.days() == [DAYS[1]]  # Spark reads the folders as dates
    assert users_of(source, spark, DAYS[1]) == {None: ["u0", "u1", "u2"]}
    assert source.digest(DAYS[1]) != source.digest(DAYS[0])


@pytest.mark.parametrize("log", ["raw", "raw/log.csv"])
def test_a_log_without_date_folders_is_split_by_its_day(spark: Any, home_of: Any, log: str, capsys: Any) -> None:
    home = home_of(log=log)
    raw = home.path / "raw"
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == 3
    raw.mkdir()
    text = line(1, str(DAYS[2])) + line(2, "soon") + line(3, str(DAYS[0]), ",2") + line(4, str(DAYS[0])) + line(5, "")
    (raw / "log.csv").write_text(HEADER + text)
    (raw / "users.csv").write_text("uid,city\nu1,Riga\n")
    (raw / "history").mkdir()
    (raw / "history" / "old.csv").write_text(HEADER + line(9, "2025-01-01"))
    source = open_source(home)
    assert isinstance(source, FlatSource)
    assert source.days() == DAYS[:3]
    assert users_of(source, spark, DAYS[0]) == {None: ["u4"], "malformed_row": [None], "unreadable_date": ["u2", "u5"]}
    assert users_of(source, spark, DAYS[2]) == {None: ["u1"]}
    assert [path.name for path in source.files(DAY)] == ["log.csv", "users.csv"]
    users = source.users.read(spark, DAY)
    assert users is not None
    assert users.columns == ["uid", "city"]
    assert source.bootstrap_rows(spark).select("row.uid").first()["uid"] == "u9"
    assert longreel(home, "data ingest", "--start", str(DAYS[0]), "--end", str(DAYS[2])) == 0
    assert [home.lake.require("events", day).counts["input_rows"] for day in DAYS[:3]] == [4, 0, 1]
    digest = source.digest(DAY)
    (raw / "log.csv").write_text(HEADER + text + line(6, str(DAYS[3])))
    assert open_source(home).digest(DAY) != digest
    (raw / f"date={DAY}").mkdir()
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == (2 if log == "raw" else 0)
    assert (log != "raw") or "leave [source] day out" in capsys.readouterr().err


def test_a_flat_folder_of_several_formats(spark: Any, home_of: Any) -> None:
    home = home_of(log="raw", day="to_date(timestamp_millis(shown_at))")
    raw = home.path / "raw"
    raw.mkdir()
    columns = {"uid": ["a", "b"], "sku": [1, 2], "shown_at": [MIDNIGHT_MS, MIDNIGHT_MS + 86_400_000]}
    pq.write_table(pa.table(columns), raw / "one.parquet")
    (raw / "two.jsonl").write_text(f'{{"uid": "c", "sku": 3, "shown_at": {MIDNIGHT_MS + 1}}}\n')
    source = open_source(home)
    assert source.days() == DAYS[:2]
    assert users_of(source, spark, DAYS[0]) == {None: ["a", "c"]}
    (raw / "more").mkdir()
    with pytest.raises(LongreelError, match="holds more; expected files"):
        source.files(DAY)


def test_a_log_of_no_day_folder_and_no_day_says_what_to_set(home_of: Any, capsys: Any) -> None:
    home = home_of(log="raw", day="")
    (home.path / "raw").mkdir()
    (home.path / "raw" / "log.csv").write_text(HEADER)
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == 2
    assert "or set [source] day to SQL for the log day of a row" in capsys.readouterr().err


MAKE_TABLE = """
import sys
from longreel.spark_jobs.session import spark_session
spark = spark_session("make")
spark.sql("CREATE DATABASE shop LOCATION '{folder}/shop'")
spark.sql("{sql}").write.partitionBy("day").saveAsTable("shop.events")
"""


@pytest.mark.slow
def test_a_new_process_finds_a_table_through_the_settings_of_spark_conf_dir(home_of: Any, tmp_path: Path) -> None:
    """A metastore in a folder: what a process has put there, the commands of the next ones see."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text(
        "spark.sql.catalogImplementation hive\n"
        f"spark.hadoop.javax.jdo.option.ConnectionURL jdbc:derby:{tmp_path}/metastore;create=true\n"
        f"spark.driver.extraJavaOptions -Dderby.stream.error.file={tmp_path}/derby.log\n"
    )
    home = home_of(table="shop.events")

    def ended(*words: str) -> subprocess.CompletedProcess[str]:
        variables = os.environ | {"SPARK_CONF_DIR": str(conf)}
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=REPOSITORY, env=variables, check=False, capture_output=True, text=True)

    script = MAKE_TABLE.format(folder=tmp_path, sql=events_sql(DAY, range(3)))
    writer = ended("-c", script)
    assert writer.returncode == 0, writer.stderr
    commands = (("ingest", DAY, 0), ("check-arrival", DAYS[1], 3))
    for command, day, code in commands:
        step = ended("-m", "longreel", "data", command, "--home", str(home.path), "--date", str(day))
        assert step.returncode == code, step.stderr
    assert home.lake.require("events", DAY).counts["events"] == 3
