"""The commit protocol on a real folder: nothing is half-visible, a rebuild changes nothing, readers never see a gap."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_helpers import DAY, rows, stored_values, write_build

from longreel.contracts.errors import DataNotReadyError, LongreelError, TransientError
from longreel.contracts.log_schema import Field, LogSchema
from longreel.contracts.schemas import SCHEMA_VERSION
from longreel.lake.manifest import MANIFEST, Manifest, with_checksum
from longreel.lake.table import Lake, discard_on_error


def test_a_build_is_invisible_until_its_commit(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = write_build(lake, rows("x"))
    assert lake.manifest("quarantine", DAY) is None
    assert list(lake.days("quarantine")) == []
    writer.commit(digest="d1", inputs={"raw": "r1"})
    assert list(lake.days("quarantine")) == [DAY]
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))


def test_a_commit_replaces_the_whole_partition(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_build(lake, rows("x", "y")).commit(digest="d1", inputs={})
    before = lake.require("quarantine", DAY)
    after = write_build(lake, rows("z")).commit(digest="d2", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("z"))
    assert after.rows == 1
    # A reader that opened the old manifest still finds its files.
    assert lake.read(before).equals(rows("x", "y"))


def test_same_digest_keeps_the_published_files_untouched(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_build(lake, rows("x")).commit(digest="d1", inputs={"raw": "r1"})
    folder = tmp_path / "quarantine" / f"date={DAY}"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    write_build(lake, rows("x")).commit(digest="d1", inputs={"raw": "r1"})
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [
        lake.require("quarantine", DAY).files[0].path.split("/")[0]
    ]


def test_same_rows_from_new_inputs_update_only_the_manifest(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = write_build(lake, rows("x")).commit(digest="d1", inputs={"raw": "r1"})
    second = write_build(lake, rows("x")).commit(digest="d1", inputs={"raw": "r2"})
    assert second.files == first.files
    assert lake.require("quarantine", DAY).inputs == {"raw": "r2"}


def test_a_dropped_partition_is_gone(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.drop_partition(write_build(lake, rows("x")).commit(digest="d1", inputs={}))
    assert list(lake.days("quarantine")) == []
    assert list(tmp_path.rglob("*.parquet")) == []


def test_wrong_columns_are_not_committed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = write_build(lake, pa.table({"reason": ["x"]}))
    with pytest.raises(LongreelError, match="expected columns"):
        writer.commit(digest="d1", inputs={})
    assert lake.manifest("quarantine", DAY) is None


def test_a_missing_day_error_lists_the_published_days(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(DataNotReadyError, match="nothing is published"):
        lake.require("quarantine", DAY)
    write_build(lake, rows("x")).commit(digest="d1", inputs={})
    with pytest.raises(DataNotReadyError, match=r"published: 2026-01-05 \.\. 2026-01-05 \(1\)"):
        lake.require("quarantine", date(2026, 1, 6))
    with pytest.raises(LongreelError, match="unknown dataset"):
        lake.require("sample", DAY)


def test_a_newer_schema_and_a_broken_manifest_are_errors(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = write_build(lake, rows("x")).commit(digest="d1", inputs={})
    assert Manifest.from_json(manifest.to_json()) == manifest
    newer_version = SCHEMA_VERSION + 1
    newer = stored_values(manifest.to_json()) | {"schema_version": newer_version, "readable_since": newer_version}
    path = tmp_path / "quarantine" / f"date={DAY}" / MANIFEST
    path.write_text(with_checksum(newer))
    with pytest.raises(LongreelError, match="upgrade longreel"):
        lake.require("quarantine", DAY)
    path.write_text('{"dataset": "quarantine"')
    with pytest.raises(LongreelError, match="not a partition manifest"):
        lake.require("quarantine", DAY)


def test_a_broken_manifest_is_named_and_removing_it_repairs_the_day(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_build(lake, rows("x")).commit(digest="d1", inputs={})
    path = tmp_path / "quarantine" / f"date={DAY}" / MANIFEST
    path.write_text(path.read_text()[:200])
    with pytest.raises(LongreelError, match=f"{path}: not a partition manifest .* remove the file and run"):
        lake.manifest("quarantine", DAY)
    path.unlink()
    write_build(lake, rows("x")).commit(digest="d1", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))


def test_a_damaged_file_is_named_and_removing_the_manifest_repairs_the_day(tmp_path: Path) -> None:
    """Publishing the same rows again would keep the files that are there."""
    lake = Lake(tmp_path)
    manifest = write_build(lake, rows("x")).commit(digest="d1", inputs={})
    path = Path(lake.paths(manifest)[0])
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"PAR1" + bytes(40) + content[44:]):
        path.write_bytes(damaged)
        with pytest.raises(LongreelError, match=f"{path} is damaged .*or remove .*_manifest.json"):
            lake.read(manifest)
    path.unlink()
    with pytest.raises(TransientError, match=f"{path} is gone"):
        lake.read(manifest)
    (path.parent.parent / MANIFEST).unlink()
    assert lake.read(write_build(lake, rows("x")).commit(digest="d1", inputs={})).equals(rows("x"))


def test_a_folder_that_is_no_day_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples" / "date=2026-03-01 (copy)").mkdir(parents=True)
    with pytest.raises(LongreelError, match=r"2026-03-01 \(copy\).*remove it"):
        list(Lake(tmp_path).days("samples"))


def test_an_empty_partition_reads_as_no_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = lake.writer("quarantine", DAY).commit(digest="empty", inputs={})
    assert lake.read(manifest).num_rows == 0
    assert lake.read(manifest, ["reason"]).column_names == ["reason"]


def test_a_lake_on_an_fsspec_url() -> None:
    lake = Lake("fsspec+memory://lake-test")
    writer = lake.writer("quarantine", DAY)
    pq.write_table(rows("x"), f"{writer.path}/part-0.parquet", filesystem=lake.filesystem)
    writer.commit(digest="d1", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))
    assert list(lake.days("quarantine")) == [DAY]


def test_an_error_discards_the_builds_that_are_not_committed(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first, second = write_build(lake, rows("x")), write_build(lake, rows("y"))

    def fail() -> None:
        with discard_on_error(first, second):
            first.commit(digest="d1", inputs={})
            raise RuntimeError("the second fails")

    with pytest.raises(RuntimeError):
        fail()
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))
    assert [path.name for path in Path(first.path).parent.iterdir() if path.is_dir()] == [first.build]


def test_a_manifest_is_rewritten_only_for_the_files_that_it_names(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = write_build(lake, rows("x")).commit(digest="d1", inputs={})
    lake.rewrite_manifest(replace(manifest, inputs={"raw": "r2"}))
    assert lake.require("quarantine", DAY).inputs == {"raw": "r2"}
    newest = write_build(lake, rows("y")).commit(digest="d2", inputs={})
    with pytest.raises(TransientError, match="published again meanwhile"):
        lake.rewrite_manifest(manifest)
    assert lake.require("quarantine", DAY) == newest


def test_same_rows_under_another_column_name_replace_the_files(tmp_path: Path) -> None:
    """A digest of rows may not hold the names of their columns, as where a field was renamed."""
    for name in ("price", "cost"):
        log = LogSchema(fields=(*LogSchema().fields, Field(name=name, place="user", kind="number")))
        lake = Lake(tmp_path, log)
        writer = lake.writer("users", DAY)
        pq.write_table(pa.table([[1], [2.0]], schema=lake.schemas.users), f"{writer.path}/part-0.parquet")
        manifest = writer.commit(digest="d1", inputs={})
        assert manifest.builds == {writer.build}
        assert lake.read(manifest).to_pylist() == [{"user_id": 1, f"user_{name}": 2.0}]


def test_publishing_a_damaged_day_again_repairs_it(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = write_build(lake, rows("x")).commit(digest="d1", inputs={})
    Path(lake.paths(manifest)[0]).write_bytes(b"PAR1")
    assert lake.read(write_build(lake, rows("x")).commit(digest="d1", inputs={})).equals(rows("x"))
