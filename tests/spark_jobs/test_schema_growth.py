"""Spark and the bucket reader see an added column as lake/schema_evolution.py does; steps go on over both."""

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spark_helpers import DAY, contents, event, longreel, publish_events, published

from longreel.contracts import schemas
from longreel.contracts.digests import digest_of
from longreel.contracts.schemas import DATASETS, AddedColumn, added_column

TOMORROW = DAY + timedelta(days=1)


def grow(patch: pytest.MonkeyPatch) -> None:
    """Events with a number and a nullable text that came later, and samples with a list."""
    patch.setattr(schemas, "SCHEMA_VERSION", 2)
    network = added_column("network", pa.int32(), AddedColumn(since=2, default=-1))
    city = added_column("city", pa.string(), AddedColumn(since=2, default=None))
    price = added_column(
        "target_price", pa.list_(pa.int32()), AddedColumn(since=2, default=3, parallel_to="target_item_id")
    )
    patch.setitem(DATASETS, "events", pa.schema([*DATASETS["events"], network, city]))
    patch.setitem(DATASETS, "samples", pa.schema([*DATASETS["samples"], price]))


def test_spark_reads_old_and_new_partitions_together(
    spark: Any, make_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longreel.spark_jobs.array_io import read_bucket
    from longreel.spark_jobs.tables import read_partitions

    home = make_home()
    lake = home.lake
    publish_events(home, DAY, [event(user, 10 + user) for user in range(3)])
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    stored = contents(home.path / "lake")
    (old_sample, *_) = published(home, "samples", DAY)
    grow(monkeypatch)
    publish_events(home, TOMORROW, [event(7, 70, network=5, city="Riga"), event(8, 80, network=0)])
    new_sample = old_sample | {"user_id": 99, "target_price": [40]}
    writer = lake.writer("samples", TOMORROW)
    pq.write_table(pa.Table.from_pylist([new_sample], schema=DATASETS["samples"]), f"{writer.path}/part-0.parquet")
    writer.commit(digest=digest_of(new_sample), inputs={})

    for dataset, order in (("events", "user_id"), ("samples", "user_id")):
        manifests = [lake.require(dataset, day) for day in (DAY, TOMORROW)]
        expected = pa.concat_tables([lake.read(manifest) for manifest in manifests]).to_pylist()
        actual = [row.asDict() for row in read_partitions(spark, lake, dataset, manifests).collect()]
        assert sorted(actual, key=lambda r: r[order]) == sorted(expected, key=lambda r: r[order])
        names = DATASETS[dataset].names
        tables = [table for manifest in manifests for table in read_bucket(lake, manifest, 0, 1, names)]
        assert pa.concat_tables(tables).to_pylist() == expected
    assert [(e["network"], e["city"]) for e in published(home, "events", DAY)] == [(-1, None)] * 3
    assert [s["target_price"] for s in published(home, "samples", DAY)] == [[3]] * 3
    assert {name: data for name, data in contents(home.path / "lake").items() if name in stored} == stored


def test_samples_are_built_over_older_and_newer_events(
    spark: Any, make_home: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home()
    publish_events(home, DAY, [event(1, 10)])
    with monkeypatch.context() as patch:
        grow(patch)
        publish_events(home, TOMORROW, [event(1, 11, at=86_400_000, network=5)])
    assert longreel(home, "data build-samples", "--start", str(DAY), "--end", str(TOMORROW)) == 0
    assert published(home, "samples", TOMORROW)[0]["history_item_id"] == [10, 11]
    capsys.readouterr()
    with monkeypatch.context() as patch:
        grow(patch)
        assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    assert "unchanged" in capsys.readouterr().out
