"""Any mix of what pyarrow, pandas, polars, DuckDB, Spark and text writers write, in any files of a day, gives the rows
that plain Python expects, and is published as the same rows in one plain Parquet file; or it is refused by name."""

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from spark_helpers import longreel

from longreel.lake.home import Home
from tests.fuzz_days.days import Day, draw_day
from tests.fuzz_days.files import File
from tests.fuzz_days.ingest import ingest, run_day, written

RANDOM = st.randoms(use_true_random=False)
SHARED: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],  # `python -m tests.fuzz_days` makes a fault smaller
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
}


@settings(max_examples=15, **SHARED)
@given(random=RANDOM)
def test_any_mix_of_types_gives_the_same_rows(spark: Any, random: Random) -> None:
    day = draw_day(random, odd=False)
    verdict = run_day(spark, day)
    assert not verdict.fault, f"{verdict} {day}"


@settings(max_examples=12, **SHARED)
@given(random=RANDOM)
def test_odd_headers_cells_and_damaged_files_never_crash_nor_lose_a_row(spark: Any, random: Random) -> None:
    day = draw_day(random, odd=True)
    verdict = run_day(spark, day)
    assert not verdict.fault, f"{verdict} {day}"


@pytest.mark.slow
def test_random_days(spark: Any) -> None:
    """As `python -m tests.fuzz_days`, which runs thousands."""
    verdicts = (run_day(spark, draw_day(Random(f"test {n}"), odd=n % 4 != 0)) for n in range(60))
    assert not [verdict for verdict in verdicts if verdict.fault]


def plain(day: Day) -> Day:
    """The same rows as one plain Parquet file."""
    rows = tuple(row for file in day.files for row in file.rows)
    columns = {name for row in rows for name in row}
    whole = tuple({name: row.get(name) for name in columns} for row in rows)
    return replace(day, files=(File("plain.parquet", "pyarrow", whole),))


def digests(home: Home, day: Day) -> dict[str, str]:
    """Digests of the day's published events and users."""
    manifests = {name: home.lake.require(name, day.settings.day) for name in ("events", "users")}
    return {name: manifest.digest for name, manifest in manifests.items()}


def test_a_mixed_day_is_published_as_the_plain_one(spark: Any, tmp_path: Path) -> None:
    """The whole command, of a day of files of four writers."""
    days = (draw_day(Random(f"published {number}"), odd=False) for number in range(1000))
    mixed = next(day for day in days if len({file.writer for file in day.files}) > 3 and len(day.expected().events) > 5)
    published = []
    for name, day in (("mixed", mixed), ("plain", plain(mixed))):
        home = day.settings.home(tmp_path / name)
        day.write(home.path)
        assert longreel(home, "data ingest", "--date", str(day.settings.day)) == 0
        published.append(digests(home, day))
    assert published[0] == published[1]


@pytest.mark.parametrize(
    ("name", "writer", "damage"),
    [
        ("a.parquet", "pyarrow", "cut"),
        ("a.parquet", "pyarrow", "empty"),
        ("a.csv.gz", "csv", "cut"),
        ("a.csv", "csv", "empty"),
        ("a.orc", "orc", "cut"),
        ("a.jsonl.gz", "json", "cut"),
    ],
)
def test_a_damaged_file_is_refused_by_name(spark: Any, name: str, writer: str, damage: str) -> None:
    day = next(day for n in range(99) if (day := draw_day(Random(n), odd=False)).settings.time == "ms")
    file = replace(plain(day).files[0], name=name, writer=writer, damage=damage)
    day = replace(
        day, settings=replace(day.settings, lists=False), files=(file, replace(file, damage="", name=f"b{name}"))
    )
    with written(day) as home:
        outcome = ingest(spark, day, home)
    assert re.match(rf"LongreelError: \S*/{re.escape(name)}\b", outcome.refusal), outcome
