"""An optional field that the configuration gains: days without it read as unknown everywhere, and stay as they are."""

import math
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from spark_helpers import DAY, DAY_MS, Row, contents, event, longreel, publish_events, published

from longreel.lake.home import Home
from longreel.lake.lineage import stale_partitions
from tests.short_video import SHORT_VIDEO_TOML

TOMORROW = DAY + timedelta(days=1)
TAGS = 'tags = {kind = "multi", size = 2, optional = true}\nprice = {kind = "number", optional = true}\n'
GROWN = SHORT_VIDEO_TOML.replace("[fields.request]", f"{TAGS}\n[fields.request]").replace(
    "[fields.event]", '[fields.user]\ncity = {kind = "category", optional = true}\n\n[fields.event]'
)


def redeclare(home: Home, old: str, new: str) -> None:
    """Change the fields in the home's configuration."""
    path = home.path / "longreel.toml"
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def grown(spark: Any, make_home: Any) -> Home:
    """A home with a built day, and a configuration with further fields, which the events of TOMORROW have."""
    home: Home = make_home()
    publish_events(home, DAY, [event(user, 10 + user) for user in range(3)])
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    redeclare(home, SHORT_VIDEO_TOML, GROWN)
    rows = [event(1, 11, at=DAY_MS, tags=[4, -1], price=2.5), event(2, 12, at=DAY_MS, tags=[-1, -1], price=math.nan)]
    publish_events(home, TOMORROW, rows, users={1: {"user_city": 7}})
    return home


def test_spark_and_the_bucket_reader_read_both_days_together(spark: Any, grown: Home) -> None:
    from longreel.spark_jobs.array_io import read_bucket
    from longreel.spark_jobs.tables import read_partitions

    def texts(rows: list[Row]) -> list[str]:
        return sorted(str(sorted(row.items())) for row in rows)

    lake = grown.lake
    assert longreel(grown, "data build-samples", "--date", str(TOMORROW)) == 0
    for dataset in ("events", "users", "samples"):
        manifests = [lake.require(dataset, day) for day in (DAY, TOMORROW)]
        expected = pa.concat_tables([lake.read(manifest) for manifest in manifests]).to_pylist()
        rows = [row.asDict() for row in read_partitions(spark, lake, dataset, manifests).collect()]
        assert texts(rows) == texts(expected)
        names = lake.schemas[dataset].names
        tables = [table for manifest in manifests for table in read_bucket(lake, manifest, 0, 1, names)]
        assert str(pa.concat_tables(tables).to_pylist()) == str(expected)
    assert [row["tags"] for row in published(grown, "events", DAY)] == [[-1, -1]] * 3
    assert [row["user_city"] for row in published(grown, "users", DAY)] == [-1] * 3


def test_a_history_holds_events_of_days_without_the_field(grown: Home, capsys: pytest.CaptureFixture[str]) -> None:
    stored = contents(grown.path / "lake")
    capsys.readouterr()
    assert stale_partitions(grown.lake, grown.config) == []
    assert longreel(grown, "data build-samples", "--start", str(DAY), "--end", str(TOMORROW)) == 0
    assert f"samples {DAY}: unchanged" in capsys.readouterr().out
    one, two = published(grown, "samples", TOMORROW)
    assert (one["history_item_id"], two["history_item_id"]) == ([11, 11], [12, 12])
    assert one["history_tags"] == [-1, -1, 4, -1]
    assert str(one["history_price"]) == "[nan, 2.5]"
    assert (one["user_city"], two["user_city"]) == (7, -1)
    assert {name: data for name, data in contents(grown.path / "lake").items() if name in stored} == stored


def test_a_required_field_stops_the_build_over_days_without_it(grown: Home, capsys: pytest.CaptureFixture[str]) -> None:
    required = GROWN.replace('price = {kind = "number", optional = true}', 'price = {kind = "number"}')
    redeclare(grown, GROWN, required)
    for day in (DAY, TOMORROW):  # the day itself, and a day of the history
        capsys.readouterr()
        assert longreel(grown, "data build-samples", "--date", str(day)) == 2
        error = capsys.readouterr().err
        assert f"events of {DAY} were made by other definitions: field price was added, and is not optional" in error
        assert f"run `longreel data ingest --date {DAY}`" in error


def test_code_without_the_field_reads_days_with_it(spark: Any, make_home: Any) -> None:
    home = make_home(schema=GROWN)
    publish_events(home, DAY, [event(1, 10, tags=[1, 2], price=1.0)])
    redeclare(home, GROWN, SHORT_VIDEO_TOML)
    publish_events(home, TOMORROW, [event(1, 11, at=DAY_MS)])
    assert longreel(home, "data build-samples", "--date", str(TOMORROW)) == 0
    assert published(home, "samples", TOMORROW)[0]["history_item_id"] == [10, 11]
