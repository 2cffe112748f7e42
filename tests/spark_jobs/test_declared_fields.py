"""Ingest of a shop's log: every kind and place, timed actions, SQL, and what is refused with the setting named."""

import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F
from spark_helpers import DAY, DAY_MS, MIDNIGHT_MS, Row, longreel, published

from longreel.contracts.clock import local_day, midnight_ms, transitions
from longreel.lake.home import Home
from longreel.spark_jobs.typed_values import known_ms

HOUR_MS = 3_600_000
BERLIN_MS = MIDNIGHT_MS - HOUR_MS  # midnight of DAY in Berlin

SOURCE = """
user_id = "uid"
item_id = "sku"
time_ms = "shown_at"
request_id = "page_view"
where = "surface <> 'ads'"
outcome_hours = 48
derived = {categories = "split(path, '>')"}
"""
SCHEMA = """
[fields.item]
brand = {kind = "id", from = "lower(brand)", match = true}
price = {kind = "number", from = "price"}
path = {kind = "multi", from = "categories", size = 2}
title = {kind = "vector", from = "embedding", size = 3}
[fields.request]
device = {kind = "category"}
[fields.event]
dwell_ms = {kind = "number", optional = true}
paid = {kind = "number", of = "purchase"}
[fields.user]
country = {kind = "category"}
age = {kind = "number", optional = true}
[actions]
click = "clicked"
like = "coalesce(stars >= 4, false)"
cart = {when = "carted_at IS NOT NULL", at = "carted_at"}
purchase = {when = "bought_at IS NOT NULL", at = "bought_at"}
[history]
events = "purchase OR (cart AND NOT like) OR click"
[labels]
click = "click"
like = "like AND device LIKE 'pho%'"
bought = {when = "purchase", within = "2 h"}
spent = {value = "if(purchase, paid, 0)", within = "2 h"}
age_of_nothing = {value = "price / 0"}
"""


def shown(number: int, **more: Any) -> Row:
    """A raw row, `number` minutes after the midnight of DAY in Berlin."""
    at = BERLIN_MS + number * 60_000
    base = {"uid": "anna", "sku": f"sku-{number}", "shown_at": at, "page_view": f"p{number}", "surface": "search"}
    base |= {"brand": " ACME", "price": 9.5, "path": "home>garden>tools", "embedding": [1.0, 2.0, 3.0]}
    base |= {"device": "phone", "dwell_ms": 700, "paid": 19.0, "country": "DE", "age": 31, "clicked": 0, "stars": 2}
    return base | {"carted_at": None, "bought_at": None} | more


TYPES = {
    "shown_at": pa.timestamp("ms"),  # without a zone: the log's
    "carted_at": pa.timestamp("ms", "UTC"),
    "bought_at": pa.int64(),
    "embedding": pa.list_(pa.float32()),
}


def write(home: Home, rows: list[Row], **types: pa.DataType) -> None:
    folder = home.path / "raw" / f"date={DAY}"
    folder.mkdir(parents=True, exist_ok=True)
    columns = {}
    for name in rows[0]:
        values = [entry[name] for entry in rows]
        if name == "shown_at":  # the clock of Berlin
            values = [value + HOUR_MS for value in values]
        columns[name] = pa.array(values, (TYPES | types).get(name))
    pq.write_table(pa.table(columns), folder / "log.parquet")


@pytest.fixture
def shop(make_home: Any) -> Any:
    """A home of a shop."""

    def make(rows: list[Row] | None = None, replace: tuple[str, str] = ("", ""), **types: pa.DataType) -> Home:
        values = {"source": SOURCE, "schema": SCHEMA, "time_zone": "Europe/Berlin"}
        home: Home = make_home(**{name: text.replace(*replace) for name, text in values.items()})
        if rows is not None:
            write(home, rows, **types)
        return home

    return make


def ingest(home: Home) -> int:
    return longreel(home, "data ingest", "--date", str(DAY))


def events(home: Home) -> dict[int, Row]:
    """Published events by minutes after midnight."""
    return {(entry["time_ms"] - BERLIN_MS) // 60_000: entry for entry in published(home, "events", DAY)}


def test_every_kind_and_place_is_stored_as_declared(spark: Any, shop: Any) -> None:
    rows = [
        shown(1, clicked=1, stars=5, device="phone"),
        shown(2, brand="Zenith", price=None, path="a", embedding=None, device=None, dwell_ms=None),
        shown(3, surface="ads"),
        shown(4, device="7", paid=None, stars=None),
        shown(5, price=1e300, path=None),
    ]
    home = shop([*rows, rows[2], rows[0]])
    assert ingest(home) == 0
    manifest, by_minute = home.lake.require("events", DAY), events(home)
    assert (manifest.counts["input_rows"], manifest.counts["events"]) == (7, 4)
    assert (manifest.counts["filtered_rows"], manifest.counts["exact_duplicates"]) == (1, 2)
    first, second, fourth, fifth = (by_minute[minute] for minute in (1, 2, 4, 5))
    assert first["brand"] == fourth["brand"] != second["brand"]
    assert (first["price"], first["request_id"], first["title"]) == (9.5, "p1", [1.0, 2.0, 3.0])
    assert math.isnan(second["price"])
    assert math.isnan(fifth["price"])  # float32 has no such number
    assert second["path"][1] == -1 != second["path"][0]
    assert fifth["path"] == [-1, -1]
    assert len({*first["path"]}) == 2
    assert manifest.counts["dropped_path"] == 2
    assert all(map(math.isnan, [*second["title"], second["dwell_ms"]]))
    assert (second["device"], fourth["device"]) == (-1, 7)
    assert math.isnan(first["paid"])  # nothing was bought
    assert [first["actions"], fourth["actions"]] == [3, 0]
    assert [first["labels"], second["labels"]] == [3, 0]
    assert manifest.counts["action_like"] == manifest.counts["label_like"] == 1
    assert manifest.counts["label_spent"] == 4
    assert manifest.counts["label_age_of_nothing"] == 0
    assert manifest.details["categories"] == {"device": [[first["device"], "phone", 2], [7, "7", 1]]}
    assert manifest.details["definitions"]["actions"][1]["when"] == "coalesce(stars >= 4, false)"
    (user,) = published(home, "users", DAY)
    assert user["user_age"] == 31
    assert home.lake.require("users", DAY).details["categories"] == {"country": [[user["user_country"], "DE", 1]]}


def test_timed_actions_have_their_times_labels_a_window_and_histories_no_future(spark: Any, shop: Any) -> None:
    at = {minute: BERLIN_MS + minute * 60_000 for minute in range(400)}
    rows = [
        shown(1, bought_at=at[31], carted_at=at[11]),
        shown(2, bought_at=at[300]),
        shown(3, carted_at=at[13], stars=4),
        shown(4, clicked=1, stars=4, carted_at=at[14], bought_at=at[15]),
        shown(5, bought_at=at[4]),
    ]
    home = shop(rows)
    assert ingest(home) == 0
    by_minute = events(home)
    assert sorted(by_minute) == [1, 2, 3, 4]
    assert home.lake.require("events", DAY).counts["quarantined_bad_purchase_ms"] == 1
    times = {minute: (entry["cart_ms"], entry["purchase_ms"]) for minute, entry in by_minute.items()}
    assert times == {1: (at[11], at[31]), 2: (None, at[300]), 3: (at[13], None), 4: (at[14], at[15])}
    # Bit 0 the impression, 1 the cart, 2 the purchase; a cart of something liked does not count.
    history = {minute: entry["history"] for minute, entry in by_minute.items()}
    assert history == {1: 0b110, 2: 0b100, 3: 0, 4: 0b111}
    bought = home.config.log_schema.label_bit("bought")
    assert [minute for minute, entry in by_minute.items() if entry["labels"] & bought] == [1, 4]
    spent = {minute: entry["label_spent"] for minute, entry in by_minute.items()}
    assert spent == {1: 19.0, 2: 0.0, 3: 0.0, 4: 19.0}
    assert [by_minute[2]["paid"], math.isnan(by_minute[3]["paid"])] == [19.0, True]


def test_an_action_is_known_after_its_delay_and_labels_count_from_when_it_happened(spark: Any, shop: Any) -> None:
    at = {minute: BERLIN_MS + minute * 60_000 for minute in range(0, 3_000, 1)}
    rows = [
        shown(1, clicked=1),
        shown(2, clicked=1, carted_at=at[5], bought_at=at[121]),
        shown(3, bought_at=at[123], carted_at=at[130]),
        shown(4, bought_at=at[125]),
        shown(5, bought_at=2**62),
    ]
    declared = """click = {when = "clicked", known_after = "10 min"}
like = "coalesce(stars >= 4, false)"
cart = {when = "carted_at IS NOT NULL", at = "carted_at", known_after = "2 h"}
purchase = {when = "bought_at IS NOT NULL", at = "bought_at", known_after = "next day"}
"""
    old = SCHEMA[SCHEMA.index('click = "clicked"') : SCHEMA.index("[history]")]
    history = 'events = "purchase OR (cart AND NOT like) OR click"'
    home = shop(replace=(old, declared))
    config = home.path / "longreel.toml"
    config.write_text(config.read_text().replace(history, 'events = "(purchase AND cart_ms > time_ms) OR click"'))
    home = Home(home.path)
    write(home, rows)
    assert ingest(home) == 0
    by_minute = events(home)
    assert home.lake.require("events", DAY).counts["quarantined_bad_purchase_ms"] == 1
    names = [f"{name}_ms" for name in ("click", "cart", "purchase")]
    assert {minute: [entry[name] for name in names] for minute, entry in by_minute.items()} == {
        1: [at[11], None, None],
        2: [at[12], at[125], at[1_440]],
        3: [None, at[250], at[1_440]],
        4: [None, None, at[1_440]],
    }
    # Nothing is known with the impression; a cart alone does not count, but after a click it does.
    assert {minute: entry["history"] for minute, entry in by_minute.items()} == {1: 0b10, 2: 0b1110, 3: 0b1000, 4: 0}
    bought = home.config.log_schema.label_bit("bought")  # within 2 h after the impression
    assert [minute for minute, entry in by_minute.items() if entry["labels"] & bought] == [2, 3]


def test_next_day_in_sql_is_the_midnight_of_the_calendar(spark: Any) -> None:
    """Over random times and around every change of the clock, in zones that skip midnight or have it twice."""
    zones = ("UTC", "Asia/Shanghai", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "America/St_Johns")
    draw = random.Random(20)
    for zone in zones:
        changes = [t for t in transitions(zone)[0] if 10**12 < t < 19 * 10**11]
        near = [t + step for t in changes for step in (-DAY_MS, -HOUR_MS, -60_000, -1, 0, 1, 60_000, HOUR_MS)]
        times = np.array([*(draw.randrange(10**12, 19 * 10**11) for _ in range(500)), *near], np.int64)
        frame = spark.createDataFrame(pd.DataFrame({"t": times}))
        actual = frame.select(known_ms(F.col("t"), "next day", zone)).toPandas().to_numpy()[:, 0]
        expected = np.maximum(midnight_ms(local_day(times, zone) + 1, zone), times)
        assert np.array_equal(actual, expected), zone
        assert (actual > times).all() or zone == "America/St_Johns"


def test_the_newest_row_of_a_user_or_else_the_table_of_users_says_what_they_are(spark: Any, shop: Any) -> None:
    home = shop([shown(1, country="FR"), shown(3, country="IT", age=None), shown(2, uid="bob", country=None)])
    assert ingest(home) == 0
    named = {name: code for code, name, _ in home.lake.require("users", DAY).details["categories"]["country"]}
    users = {user["user_country"]: user["user_age"] for user in published(home, "users", DAY)}
    assert set(users) == {named["IT"], -1}
    assert math.isnan(users[named["IT"]])
    table = pa.table({"uid": ["anna", "anna", "carl"], "country": ["PT", "AT", "US"]})
    pq.write_table(table, home.path / "raw" / "users.parquet")
    assert ingest(home) == 0
    assert [name for _, name, _ in home.lake.require("users", DAY).details["categories"]["country"]] == ["AT"]
    assert all(math.isnan(user["user_age"]) for user in published(home, "users", DAY))
    assert len(published(home, "users", DAY)) == 2


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            '"lower(brand)"',
            '"lower(brnd)"',
            "[fields.item] brand = 'lower(brnd)': there is no column brnd (is it brand?) in the rows of ",
        ),
        ('"lower(brand)"', '"lower(brand"', "[fields.item] brand = 'lower(brand': "),
        ('"lower(brand)"', '"brand + array(1)"', "[fields.item] brand = 'brand + array(1)': "),
        ('"lower(brand)"', '"explode(categories)"', "[fields.item] brand = 'explode(categories)': "),
        ('"lower(brand)"', '"max(brand)"', "[fields.item] brand = 'max(brand)': "),
        (
            '"embedding", size = 3',
            '"price", size = 3',
            "[fields.item] title, the rows of 2026-03-02: expected a list, got d",
        ),
        (
            '"categories", size',
            '"path", size',
            "[fields.item] path, the rows of 2026-03-02: expected a list, got string",
        ),
        (
            '"price"}',
            '"embedding"}',
            "[fields.item] price, the rows of 2026-03-02: expected a number, got array<float>",
        ),
        (
            'click = "clicked"',
            'click = "array(stars)"',
            "[actions] click, the rows of 2026-03-02: expected true/false or 1/0",
        ),
        ('"shown_at"', '"shown"', "no column shown"),
        (
            '"shown_at"',
            '"surface IS NULL"',
            "[source] time_ms, the rows of 2026-03-02: expected milliseconds since 1970",
        ),
        ('at = "bought_at"', 'at = "bought"', "[actions] purchase at = 'bought': there is no column bought"),
        (
            "\"surface <> 'ads'\"",
            "\"surfaces <> 'ads'\"",
            "[source] where = \"surfaces <> 'ads'\": there is no column surf",
        ),
        (
            "split(path, '>')",
            "split(paths, '>')",
            "[source.derived] categories = \"split(paths, '>')\": there is no column",
        ),
        (
            'click = "click"\nlike',
            'click = "price"\nlike',
            "[labels] click = 'price': expected true or false, got double",
        ),
        ('"price / 0"', '"device > array(1)"', "[labels] age_of_nothing = 'device > array(1)': "),
        ("country = {kind", "land = {kind", "[fields.user] land = 'land': there is no column land in the rows of"),
    ],
)
def test_an_expression_that_does_not_fit_is_named(
    spark: Any, shop: Any, capsys: pytest.CaptureFixture[str], old: str, new: str, text: str
) -> None:
    home = shop([shown(1)], replace=(old, new))
    assert ingest(home) == 2
    message = capsys.readouterr().err
    assert text in message
    assert "Traceback" not in message
    assert "org.apache" not in message
    assert not list((home.path / "lake").rglob("*.parquet"))


def test_casts_that_fail_in_sql_give_missing_values(spark: Any, shop: Any) -> None:
    home = shop([shown(1), shown(2, brand="12")], replace=('from = "price"', 'from = "cast(brand AS INT) / 0"'))
    assert ingest(home) == 4  # a field without any value
    home = shop([shown(1), shown(2, brand="12", stars=3)], replace=('from = "price"', 'from = "cast(brand AS INT)"'))
    assert ingest(home) == 0
    assert [str(entry["price"]) for entry in events(home).values()] == ["nan", "12.0"]


def test_vectors_of_another_size_and_text_for_numbers_are_quarantined(spark: Any, shop: Any) -> None:
    rows = [shown(1), shown(2, embedding=[1.0, 2.0]), shown(3, embedding=[1.0, None, 2.0]), shown(4, clicked=3)]
    home = shop(rows)
    assert ingest(home) == 0
    counts = home.lake.require("events", DAY).counts
    assert (counts["events"], counts["quarantined_unparsable_title"], counts["quarantined_bad_click"]) == (1, 2, 1)
    texts = [entry | {"price": price} for entry, price in zip(rows, ["1.5", "cheap", " ", "nan"], strict=True)]
    home = shop([entry | {"embedding": [1.0, 2.0, 3.0], "clicked": 0} for entry in texts])
    assert ingest(home) == 0
    assert home.lake.require("events", DAY).counts["quarantined_unparsable_price"] == 1
    assert [str(entry["price"]) for entry in events(home).values()] == ["1.5", "nan", "nan"]


def many(**more: Any) -> list[Row]:
    """200 rows, every fourth of which is a click."""
    return [shown(n, clicked=int(n % 4 == 0), **{name: value(n) for name, value in more.items()}) for n in range(200)]


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ({}, 0, "note: [fields.item] price is 9.5 in all 200 rows that have a value"),
        ({"dwell_ms": lambda n: None}, 0, "note: [fields.event] dwell_ms has no value in any row"),
        (
            {"price": lambda n: None},
            4,
            "declared fields without a value in any row: expected none, got [fields.item] price",
        ),
        ({"country": lambda n: None}, 4, "expected none, got [fields.user] country"),
        ({"price": lambda n: 2.0 if n % 4 == 0 else 3.0}, 4, "[fields.item] price = click"),
        ({"price": lambda n: n if n % 4 == 0 else None}, 4, "[fields.item] price = click"),
        ({"device": lambda n: "tv" if n % 4 == 0 else "phone"}, 4, "[fields.request] device = click"),
        ({"price": lambda n: float(n % 7)}, 0, ""),
        ({"clicked": lambda n: 1}, 0, "warning: every one of 200 events has the label click"),
        ({"shown_at": lambda n: BERLIN_MS - 30 * HOUR_MS}, 0, ""),
    ],
)
def test_fields_that_tell_nothing_or_too_much_are_named(
    spark: Any, shop: Any, capsys: pytest.CaptureFixture[str], more: dict[str, Any], code: int, text: str
) -> None:
    clicked = more.pop("clicked", None)
    rows = many(**more)
    home = shop([entry | {"clicked": 1} for entry in rows] if clicked else rows)
    assert ingest(home) == code
    output = capsys.readouterr()
    assert text in output.out + output.err
    assert (home.lake.manifest("events", DAY) is None) == (code != 0)


def test_days_of_another_time_zone_are_told_from_bad_times(
    spark: Any, shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home = shop(many(), replace=("where", "max_quarantined_share = 0.1\nmax_lateness_hours = 0\nwhere"))
    config = home.path / "longreel.toml"
    config.write_text(config.read_text().replace("max_quarantined_share = 1.0\n", "").replace("Berlin", "Lisbon"))
    write(home, [entry | {"shown_at": entry["shown_at"] - 3 * HOUR_MS} for entry in many()])
    assert ingest(home) == 4
    message = capsys.readouterr().err
    assert "180 stale_time: they are " in message
    assert "older than a day's rows may be, by [source] time_zone = 'Europe/Lisbon' and max_lateness_h" in message
