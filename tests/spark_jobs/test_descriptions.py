"""Tables of items and users: every day has what they said at its beginning, be they static, daily or of a catalog."""

import json
import math
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spark_helpers import DAY, DAY_MS, MIDNIGHT_MS, longreel, published

from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.spark_jobs.items import with_items
from longreel.spark_jobs.sources import open_source
from longreel.spark_jobs.validate import distinct_rows

DAYS = [DAY + timedelta(days=number) for number in range(4)]
SCHEMA = """
[source.derived]
tag_list = "split(tags, ',')"
[fields.item]
price = {kind = "number", optional = true}
tags = {kind = "multi", from = "tag_list", size = 2, optional = true}
[fields.request]
surface = {kind = "category", optional = true}
[fields.user]
age = {kind = "number", optional = true}
country = {kind = "category", optional = true}
city = {kind = "id", optional = true}
langs = {kind = "multi", size = 2, optional = true}
taste = {kind = "vector", size = 2, optional = true}
[actions]
click = "click"
like = "false"
[history]
events = "impressions"
[labels]
click = "click"
like = "like"
"""


@pytest.fixture
def home(make_home: Any) -> Home:
    """A home whose log has ids only: user 1 saw item 7 at noon of each of DAYS, and three others on the last."""
    new: Home = make_home(schema=SCHEMA, source='item_id = "sku"')
    for number, day in enumerate(DAYS):
        skus = ["007", "8", "9", "7.0"] if day == DAYS[-1] else ["007"]
        times = [MIDNIGHT_MS + number * DAY_MS + DAY_MS // 2 + place for place in range(len(skus))]
        columns = {"user_id": [1] * len(skus), "sku": skus, "time_ms": times, "click": [1] * len(skus)}
        write(new, f"date={day}", columns | {"surface": ["home"] * len(skus)})
    return new


def write(home: Home, folder: str, columns: dict[str, Any]) -> Path:
    path = home.path / "raw" / folder / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def write_items(home: Home, day: date, price: float) -> None:
    """A table in which item 8 is described twice, and 9 is not."""
    columns = {"sku": [7, 8, 8], "price": [price, 6.0, 5.0], "tags": ["1,2", "4", "3"], "surface": ["x"] * 3}
    write(home, f"items/date={day}", columns | {"unread": [1, 2, 3]})


def write_users(home: Home, day: date, age: Any, country: Any) -> None:
    lists = {"langs": [["de", "fr"]], "taste": [[1.0, float(age)]]}
    write(home, f"users/date={day}", {"user_id": ["1.0"], "age": [age], "country": [country], "city": ["Riga"]} | lists)


def prices(home: Home, day: date) -> dict[int, float]:
    return {event["item_id"]: event["price"] for event in published(home, "events", day)}


def ingest(home: Home, *days: date) -> int:
    return longreel(home, "data ingest", "--start", str(days[0]), "--end", str(days[-1]))


def test_a_day_has_what_the_newest_table_said_at_its_beginning(spark: Any, home: Home, capsys: Any) -> None:
    write_items(home, DAYS[1], 10.0)
    write_items(home, DAYS[3], 20.0)
    write_users(home, DAYS[1], 33, 33)
    write_users(home, DAYS[3], 34.0, "33.0")
    assert ingest(home, *DAYS) == 0
    assert math.isnan(prices(home, DAYS[0])[7])
    assert [prices(home, day)[7] for day in DAYS[1:]] == [10.0, 10.0, 20.0]
    last = {event["item_id"]: event for event in published(home, "events", DAYS[3])}
    assert (last[8]["price"], last[8]["tags"], last[7]["tags"]) == (5.0, [3, -1], [1, 2])
    assert math.isnan(last[9]["price"])

    (first, *_, third, fourth) = [published(home, "users", day)[0] for day in DAYS]
    assert (first["user_country"], first["user_city"]) == (-1, -1)
    assert (third["user_age"], third["user_country"], third["user_taste"]) == (33.0, 33, [1.0, 33.0])
    assert (fourth["user_age"], fourth["user_country"], fourth["user_taste"]) == (34.0, 33, [1.0, 34.0])
    assert fourth["user_langs"] == third["user_langs"]
    assert -1 not in (fourth["user_city"], *fourth["user_langs"])
    names = [home.lake.require("users", day).details["categories"]["country"] for day in DAYS[2:]]
    assert names == [[[33, "33", 1]]] * 2

    details = home.lake.require("events", DAYS[0]).details
    for what in ("items", "users"):
        line = f"no table of {what} in {home.path / 'raw' / what} is dated {DAYS[0]} or before"
        assert line in details["warnings"]
    manifest = home.lake.require("events", DAYS[3])
    assert (manifest.counts["items"], manifest.counts["items_without_description"]) == (3, 1)
    assert f"1 of 3 items are not in {home.path / 'raw/items' / f'date={DAYS[3]}'}" in manifest.details["notes"]
    assert [name for _, name, _ in manifest.details["categories"]["surface"]] == ["home"]  # as the log's own rows say

    assert longreel(home, "data build-samples", "--start", str(DAYS[0]), "--end", str(DAYS[3])) == 0
    (samples,) = published(home, "samples", DAYS[3])
    history = dict(zip(samples["history_time_ms"], samples["history_price"], strict=True))
    assert [str(history[at]) for at in sorted(history)] == [
        "nan",
        "10.0",
        "10.0",
        *map(str, [20.0, 5.0, math.nan, 20.0]),
    ]
    targets = dict(zip(samples["target_item_id"], samples["target_price"], strict=True))
    assert (targets[7], targets[8], samples["user_age"]) == (20.0, 5.0, 34.0)

    before = {day: open_source(home).digest(day) for day in DAYS}
    write_items(home, DAYS[2], 15.0)
    assert [day for day in DAYS if open_source(home).digest(day) != before[day]] == [DAYS[2]]
    capsys.readouterr()
    assert longreel(home, "data stale", "--start", str(DAYS[0])) == 0
    out = capsys.readouterr().out
    assert [day for day in DAYS if f"events {day}: made from another raw log or table of items" in out] == [DAYS[2]]
    assert json.loads(out.strip().splitlines()[-1])["start"] == str(DAYS[2])
    assert ingest(home, *DAYS[2:]) == 0
    assert [prices(home, day)[7] for day in DAYS[1:]] == [10.0, 15.0, 20.0]
    digest = home.lake.require("events", DAYS[2]).digest
    assert longreel(home, "data ingest", "--date", str(DAYS[2]), "--force") == 0
    assert home.lake.require("events", DAYS[2]).digest == digest


def test_older_history_is_described_by_its_last_day(spark: Any, home: Home) -> None:
    through = DAYS[0] - timedelta(days=1)
    for day, price in ((through - timedelta(days=9), 1.0), (through, 2.0), (DAYS[0], 3.0)):
        write_items(home, day, price)
    old = {"user_id": [1], "sku": [7.0], "time_ms": [MIDNIGHT_MS - 30 * DAY_MS], "click": [1], "surface": ["home"]}
    write(home, "history", old)
    assert longreel(home, "data import-history", "--through", str(through)) == 0
    (snapshot,) = published(home, "history", through)
    assert (snapshot["history_item_id"], snapshot["history_price"]) == ([7], [2.0])


def test_an_item_that_no_table_has_is_a_warning_and_a_required_field_an_error(
    spark: Any, home: Home, capsys: Any
) -> None:
    path = home.path / "raw" / "items.csv"
    path.write_bytes(b"sku,price,tags\nx,1,2\ny,1\nJos\xe9,1,2\n")
    assert ingest(home, DAYS[0]) == 0
    output = capsys.readouterr().out
    assert f"warning: 1 of 1 items are not in {path}" in output
    assert f"warning: 2 rows of {path} are left out: they do not fit the header or are no UTF-8" in output
    config = home.path / "longreel.toml"
    config.write_text(
        config.read_text().replace('{kind = "number", optional = true}', '{kind = "number", from = "cost"}')
    )
    assert longreel(Home(home.path), "data ingest", "--date", str(DAYS[0])) == 2
    message = capsys.readouterr().err
    assert f"[fields.item] price = 'cost': there is no column cost in the rows of {DAYS[0]} and the items of" in message


def test_what_is_no_table_is_named(spark: Any, home: Home) -> None:
    raw = home.path / "raw"

    def read_day() -> None:
        source = open_source(home)
        source.files(DAYS[1])
        source.items.read(spark, DAYS[1])

    def refused(text: str) -> None:
        with pytest.raises(LongreelError, match=text):
            read_day()

    (raw / "items").mkdir()
    refused(r"items is empty; expected date=YYYY-MM-DD folders with tables")
    (raw / "items" / "2026-03-01").mkdir()
    refused(r"items holds 2026-03-01; expected a folder date=YYYY-MM-DD for each daily table")
    (raw / "items" / "2026-03-01").rename(raw / "items" / "date=20260301")
    refused(r"date=20260301: expected a folder date=YYYY-MM-DD; rename it")
    (raw / "items" / "date=20260301").rename(raw / "items" / f"date={DAYS[1]}")
    refused(rf"items/date={DAYS[1]} holds no table; write its files, or remove the folder")
    (raw / "items.csv").write_text("sku\n")
    refused(r"has both items\.csv and items/; expected one table for all days, or daily ones")
    (raw / "items.csv").rename(raw / "items.CSV")
    refused(r"holds items\.CSV; expected files \.parquet")
    (raw / "items.CSV").unlink()
    path = write(home, f"items/date={DAYS[1]}", {"item": [7]})
    refused(r"part\.parquet has no column sku; its columns are item")
    path.write_bytes(b"PAR1")
    refused(r"part\.parquet is not a Parquet file")
    write(home, f"items/date={DAYS[3]}", {"sku": [7]})
    refused(r"part\.parquet is not a Parquet file")
    path.unlink()
    path.parent.rmdir()
    assert open_source(home).files(DAYS[1]) == [raw / f"date={DAYS[1]}" / "part.parquet"]  # before the first table


def test_a_popular_item_does_not_become_one_task(spark: Any, home: Home) -> None:
    """Tables that are too large for a broadcast are shuffled, and Spark splits the rows of an item that half of them
    have."""
    settings = {
        "spark.sql.shuffle.partitions": "16",
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "1KB",
        "spark.sql.adaptive.advisoryPartitionSizeInBytes": "1KB",
        "spark.sql.adaptive.coalescePartitions.enabled": "false",
    }
    before = {name: spark.conf.get(name) for name in settings}
    raw = spark.range(20_000, numPartitions=8).selectExpr(
        "if(id % 2 = 0, 0, id) AS sku", "id AS time_ms", "1 AS user_id"
    )
    rows = raw.selectExpr("struct(*) AS row", "'f' AS source_file", "CAST(NULL AS STRING) AS unreadable")
    items = spark.range(20_000).selectExpr("id AS sku", "id AS price", "map('a', id) AS tags")
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        joined = with_items(distinct_rows(rows), items, home.config, "items")
        assert joined.where("described.price <> row.sku OR described IS NULL").count() == 0
        joined = joined.selectExpr("row", "described.price")
        joined.collect()
        assert "skew=true" in joined._jdf.queryExecution().executedPlan().toString()
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)


@pytest.fixture
def table(spark: Any, tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Makes a table of the catalog from SQL."""
    names = []

    def make(name: str, sql: str) -> str:
        spark.sql(sql).coalesce(1).write.option("path", str(tmp_path / name)).format("parquet").saveAsTable(name)
        names.append(name)
        return f"default.{name}"

    yield make
    for name in names:
        spark.sql(f"DROP TABLE {name}")


def test_tables_of_a_catalog_describe_a_log_in_files_or_in_a_table(spark: Any, make_home: Any, table: Any) -> None:
    """With the columns that [source] day reads a table is daily, and static without."""
    row = "SELECT 1 AS user_id, 7 AS sku, {at} AS time_ms, 1 AS click, DATE'{day}' AS dt"
    times = {day: MIDNIGHT_MS + number * DAY_MS for number, day in enumerate(DAYS)}
    log = table("shown", " UNION ALL ".join(row.format(at=at, day=day) for day, at in times.items()))
    values = " UNION ALL ".join(f"SELECT 7, {p}, '1', DATE'{d}'" for d, p in ((DAYS[1], 10.0), (DAYS[3], 20.0)))
    items = table("things", f"SELECT * FROM ({values}) AS v(sku, price, tags, dt)")
    users = table("people", "SELECT '1' AS user_id, 30 AS age")
    source = f'item_id = "sku"\nday = "dt"\nitems = "{items}"\nusers = "{users}"'
    home = make_home(schema=SCHEMA, source=f'table = "{log}"\n{source}', log="")
    assert (ingest(home, DAYS[0]), ingest(home, *DAYS[2:])) == (0, 0)
    assert math.isnan(prices(home, DAYS[0])[7])
    assert [prices(home, day)[7] for day in DAYS[2:]] == [10.0, 20.0]
    assert [published(home, "users", day)[0]["user_age"] for day in (DAYS[0], DAYS[2])] == [30.0] * 2
    before = {day: open_source(home).digest(day) for day in DAYS}
    spark.sql(f"INSERT INTO {items} SELECT 7, 15.0, '1', DATE'{DAYS[2]}'")
    assert [day for day in DAYS if open_source(home).digest(day) != before[day]] == [DAYS[2]]

    flat = make_home("flat", schema=SCHEMA, source=f"{source.replace(users, './raw/people.csv')}")
    (flat.path / "raw").mkdir()
    (flat.path / "raw" / "log.csv").write_text(f"user_id,sku,time_ms,click,dt\n1,7,{times[DAYS[2]]},1,{DAYS[2]}\n")
    (flat.path / "raw" / "people.csv").write_text("user_id,age\n1,40\n")
    assert ingest(flat, DAYS[2]) == 0
    assert prices(flat, DAYS[2]) == {7: 15.0}
    assert published(flat, "users", DAYS[2])[0]["user_age"] == 40.0
