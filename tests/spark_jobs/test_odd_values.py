"""Values that logs hold by mistake: refused, quarantined with a reason that a reader can act on, or warned of."""

import json
from datetime import timedelta
from typing import Any

import pytest
from pyspark.sql import functions as F
from pyspark.sql import types as T
from spark_helpers import DAY, DAY_MS, MIDNIGHT_MS, longreel

from longreel.contracts.log_schema import Field
from longreel.lake.home import Home
from longreel.spark_jobs.field_checks import outcome_report
from longreel.spark_jobs.rejected_rows import EXAMPLES_FILE
from longreel.spark_jobs.typed_values import as_long, cleaned, id_of, parse

SCHEMA = """
[fields.item]
price = {kind = "number", optional = true}
[fields.user]
age = {kind = "category", optional = true}
[actions]
click = "click"
like = {when = "like", optional = true}
[history]
events = "impressions"
[labels]
click = "click"
like = "like"
"""
HEADER = "user_id,item_id,time_ms,click,price"


def write_csv(home: Home, path: str, *lines: str) -> None:
    file = home.path / "raw" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def ingest(home: Home, number: int) -> int:
    return longreel(home, "data ingest", "--date", str(DAY + timedelta(days=number)))


WHOLE = {
    "7": 7,
    "007": 7,
    "7.0": 7,
    "7.": 7,
    "1.65E12": 1_650_000_000_000,  # as Java writes fractions
    "1e+16": 10**16,  # as C and Python do
    "1e3": None,  # digits of a hexadecimal number
    "1E3": None,
    "0e1": None,
    "12e5": None,
    "39.5": None,
    "99999999999999999999": None,
}


def test_text_is_a_whole_number_only_as_writers_of_numbers_spell_it(spark: Any) -> None:
    rows = spark.createDataFrame([(text,) for text in WHOLE], "text string")
    category = parse(Field(name="x", place="item", kind="category"), F.col("text"), T.StringType(), "x")
    columns = (as_long(F.col("text")), id_of(F.col("text"), T.StringType()), category.value)
    for text, (number, identity, name) in zip(WHOLE, rows.select(*columns).collect(), strict=True):
        whole = WHOLE[text]
        assert number == whole, text
        assert identity != 1_000, text
        assert whole is None or identity == whole, text
        assert name == (text if whole is None or text.isdigit() else str(whole)), text


def test_all_white_space_around_text_is_trimmed_and_blank_text_is_missing(spark: Any) -> None:
    texts = ["\t", "\u00a0", "\u3000\r\n", "\ta b\u2003", " 7\u200a", "\x1fx\x85"]
    rows = spark.createDataFrame([(text,) for text in texts], "text string")
    trimmed = [row[0] for row in rows.select(cleaned(F.col("text"), T.StringType())).collect()]
    assert trimmed == [text.strip() or None for text in texts] == [None, None, None, "a b", "7", "x"]


def test_odd_ids_and_repeated_descriptions_are_named_with_their_counts(spark: Any, make_home: Any, capsys: Any) -> None:
    home = make_home(schema=SCHEMA.replace('"impressions"', '"like"'))
    users = [f"u{number}" for number in range(110)] + ["NULL"] * 900 + ["\\N"] * 20
    rows = [
        f"{user},{'None' if n < 3 else n % 50},{MIDNIGHT_MS + n},0,1,{'nan' if n < 2 else n}"
        for n, user in enumerate(users)
    ]
    write_csv(home, f"date={DAY}/a.csv", f"{HEADER},request_id", *rows)
    write_csv(home, "users.csv", "user_id,age", "u1,33", "u1,34", "u2,33.0", "u3,33")
    write_csv(home, "items.csv", "item_id,title", "7,a", "007,b", "8,c")
    assert ingest(home, 0) == 0
    printed, details = capsys.readouterr().out, home.lake.require("events", DAY).details
    for line in (
        "warning: user_id is 'NULL' in 900, '\\N' in 20 of 1,030 events, and each such text is one user like any other",
        """set [source] user_id = 'if(user_id IN ("NULL", r"\\N"), NULL, user_id)'""",
        "warning: item_id is 'None' in 3 of 1,030 events",
        "warning: request_id is 'nan' in 2 of 1,030 events, and each such text is one request like any other",
        "warning: one of 112 users has about 900 of 1,030 events (87%)",
        "warning: none of 1,030 events has the label click ([labels] click = 'click'); is the column right of "
        "[actions] click = 'click'?",
        "warning: none of 1,030 events enters a history ([history] events = 'like'); is the column right of [actions] "
        "like = 'like'?",
        f"note: items in more than one row of {home.path / 'raw' / 'items.csv'}: 1; the smallest row counts",
        f"note: users in more than one row of {home.path / 'raw' / 'users.csv'}: 1; the smallest row counts",
    ):
        assert line in printed, printed
        recorded = "\n".join([*details["warnings"], *details["notes"]])
        assert line.removeprefix("warning: ").removeprefix("note: ") in recorded

    config = home.path / "longreel.toml"  # the advice is a setting that works
    advice = """user_id = 'if(user_id IN ("NULL", r"\\N"), NULL, user_id)'"""
    config.write_text(config.read_text().replace("[source]", f"[source]\n{advice}", 1))
    assert ingest(Home(home.path), 0) == 0
    assert Home(home.path).lake.require("events", DAY).counts["quarantined_missing_user"] == 920


def test_a_stopped_day_says_what_is_wrong_and_keeps_rejected_rows_until_it_passes(
    spark: Any, make_home: Any, capsys: Any
) -> None:
    home = make_home(schema=SCHEMA, share=0.01)
    bad = [f"1,2,{MIDNIGHT_MS},2,1", f"1,3,{MIDNIGHT_MS},yes,1", f"1,4,{MIDNIGHT_MS},1,cheap", "1,5,noon,1,1"]
    write_csv(home, f"date={DAY}/a.csv", HEADER, *bad, f"1,6,{MIDNIGHT_MS},1,1")
    times = [MIDNIGHT_MS + DAY_MS, MIDNIGHT_MS + 2 * DAY_MS - 1]  # of the second day, in seconds; of the third, late
    write_csv(home, f"date={DAY + timedelta(days=1)}/a.csv", HEADER, *(f"1,2,{at // 1000},1,1" for at in times))
    late = [at + DAY_MS + offset * 3_600_000 for at in times for offset in (28,)]
    write_csv(home, f"date={DAY + timedelta(days=2)}/a.csv", HEADER, *(f"1,2,{at},1,1" for at in late))

    assert ingest(home, 0) == 4
    message, path = capsys.readouterr().err, home.reports / str(DAY) / EXAMPLES_FILE
    for line in (
        "2 bad_click: [actions] click = 'click' gives '2', expected true/false or 1/0; give a condition",
        "1 unparsable_price: [fields.item] price = 'price' gives 'cheap', expected a number",
        "1 unparsable_time_ms: [source] time_ms = 'time_ms' gives 'noon', expected milliseconds since 1970 UTC",
        f"rejected rows, up to 20 of each reason: {path}",
    ):
        assert f"\n  {line}" in message
    examples = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["reason"] for one in examples].count("bad_click") == 2
    assert {one["row"]["item_id"] for one in examples} == {"2", "3", "4", "5"}

    assert ingest(home, 1) == 4
    assert "2 stale_time: read as seconds since 1970 they are of the day: set [source] time_ms = 'time_ms * 1000'" in (
        capsys.readouterr().err
    )
    assert ingest(home, 2) == 4
    assert "future_time: they are 4.0 to 28.0 h after the log day ended, by [source] time_zone = 'UTC'" in (
        capsys.readouterr().err
    )

    config = home.path / "longreel.toml"
    config.write_text(config.read_text().replace("[source]", "[source]\nuser_id = 'user_id'", 1).replace("0.01", "1.0"))
    assert ingest(Home(home.path), 0) == 0
    assert not path.exists()


def test_an_absent_action_names_the_nearest_column_unless_it_is_optional(
    spark: Any, make_home: Any, capsys: Any
) -> None:
    home = make_home(schema=SCHEMA)
    write_csv(home, f"date={DAY}/a.csv", "user_id,item_id,time_ms,clicks", f"1,2,{MIDNIGHT_MS},1")
    assert ingest(home, 0) == 2
    expected = "[actions] click = 'click': there is no column click (is it clicks?) in the rows of 2026-03-02; "
    assert expected in capsys.readouterr().err
    config = home.path / "longreel.toml"
    config.write_text(config.read_text().replace('click = "click"', 'click = {when = "click", optional = true}', 1))
    assert ingest(Home(home.path), 0) == 0
    assert Home(home.path).lake.require("events", DAY).counts["action_click"] == 0


@pytest.mark.parametrize(("events", "warnings"), [(99, 0), (100, 1)])
def test_a_small_day_may_lack_a_label(make_home: Any, events: int, warnings: int) -> None:
    config = make_home(schema=SCHEMA).config
    counts = {"events": events, "history_impressions": events, "label_click": 0, "label_like": 3}
    messages, notes = outcome_report(config, counts | {"action_click": 0, "action_like": 3})
    assert len(messages) == warnings
    assert not notes
