"""The commit protocol on a real folder: nothing is half-visible, a rebuild changes nothing, readers never see a gap."""

import json
import os
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import DataNotReadyError, LongreelError
from contracts.lake import ABANDONED_AFTER_S, MANIFEST, Lake, Manifest, Stage
from contracts.schemas import QUARANTINE, SCHEMA_VERSION

DAY = date(2026, 1, 5)


def rows(*reasons: str) -> pa.Table:
    columns = [list(reasons), ["a.csv"] * len(reasons), ["{}"] * len(reasons)]
    return pa.table(columns, schema=QUARANTINE)


def staged(lake: Lake, table: pa.Table) -> Stage:
    stage = lake.stage("quarantine", DAY)
    pq.write_table(table, f"{stage.path}/part-0.parquet")
    return stage


def test_a_build_is_invisible_until_published(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    stage = staged(lake, rows("x"))
    assert lake.manifest("quarantine", DAY) is None
    assert list(lake.days("quarantine")) == []
    stage.publish(digest="d1", inputs={"raw": "r1"})
    assert list(lake.days("quarantine")) == [DAY]
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))


def test_replacing_swaps_the_whole_partition(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    staged(lake, rows("x", "y")).publish(digest="d1", inputs={})
    before = lake.require("quarantine", DAY)
    after = staged(lake, rows("z")).publish(digest="d2", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("z"))
    assert after.rows == 1
    # A reader that opened the old manifest still finds its files.
    assert lake.read(before).equals(rows("x", "y"))


def test_same_digest_keeps_the_published_files_untouched(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    staged(lake, rows("x")).publish(digest="d1", inputs={"raw": "r1"})
    folder = tmp_path / "quarantine" / f"date={DAY}"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    staged(lake, rows("x")).publish(digest="d1", inputs={"raw": "r1"})
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [
        lake.require("quarantine", DAY).files[0].path.split("/")[0]
    ]


def test_same_rows_from_new_inputs_update_only_the_manifest(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = staged(lake, rows("x")).publish(digest="d1", inputs={"raw": "r1"})
    second = staged(lake, rows("x")).publish(digest="d1", inputs={"raw": "r2"})
    assert second.files == first.files
    assert lake.require("quarantine", DAY).inputs == {"raw": "r2"}


def test_abandoned_builds_are_swept_once_old_and_young_ones_kept(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    old, young = staged(lake, rows("old")), staged(lake, rows("young"))
    past = Path(old.path).stat().st_mtime - ABANDONED_AFTER_S - 60
    os.utime(old.path, (past, past))
    staged(lake, rows("x")).publish(digest="d1", inputs={})
    assert not Path(old.path).exists()
    assert Path(young.path).exists()


def test_wrong_columns_are_not_published(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    stage = staged(lake, pa.table({"reason": ["x"]}))
    with pytest.raises(LongreelError, match="expected columns"):
        stage.publish(digest="d1", inputs={})
    assert lake.manifest("quarantine", DAY) is None


def test_missing_day_says_what_there_is(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(DataNotReadyError, match="nothing is published"):
        lake.require("quarantine", DAY)
    staged(lake, rows("x")).publish(digest="d1", inputs={})
    with pytest.raises(DataNotReadyError, match=r"published: 2026-01-05 \.\. 2026-01-05 \(1\)"):
        lake.require("quarantine", date(2026, 1, 6))
    with pytest.raises(LongreelError, match="unknown dataset"):
        lake.require("sample", DAY)


def test_a_newer_schema_and_a_broken_manifest_are_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = staged(lake, rows("x")).publish(digest="d1", inputs={})
    assert Manifest.from_json(manifest.to_json()) == manifest
    later = SCHEMA_VERSION + 1
    newer = json.loads(manifest.to_json()) | {"schema_version": later, "readable_since": later}
    path = tmp_path / "quarantine" / f"date={DAY}" / MANIFEST
    path.write_text(json.dumps(newer))
    with pytest.raises(LongreelError, match="upgrade longreel"):
        lake.require("quarantine", DAY)
    path.write_text('{"dataset": "quarantine"')
    with pytest.raises(LongreelError, match="not a partition manifest"):
        lake.require("quarantine", DAY)


def test_empty_partition_reads_as_no_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = lake.stage("quarantine", DAY).publish(digest="empty", inputs={})
    assert lake.read(manifest).num_rows == 0
    assert lake.read(manifest, ["reason"]).column_names == ["reason"]


def test_lake_on_an_fsspec_url(tmp_path: Path) -> None:
    lake = Lake("fsspec+memory://lake-test")
    stage = lake.stage("quarantine", DAY)
    pq.write_table(rows("x"), f"{stage.path}/part-0.parquet", filesystem=lake.filesystem)
    stage.publish(digest="d1", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))
    assert list(lake.days("quarantine")) == [DAY]
