"""The commit protocol on a real folder: nothing is half-visible, a rebuild changes nothing, readers never see a gap."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longreel.contracts.errors import DataNotReadyError, LongreelError, TransientError
from longreel.contracts.schemas import QUARANTINE, SCHEMA_VERSION
from longreel.lake.lease import EXPIRES_AFTER_S, LEASE_FILE
from longreel.lake.maintenance import orphaned_builds, remove_orphans
from longreel.lake.manifest import MANIFEST, Manifest
from longreel.lake.table import Lake, PartitionWriter

DAY = date(2026, 1, 5)


def rows(*reasons: str) -> pa.Table:
    columns = [list(reasons), ["a.csv"] * len(reasons), ["{}"] * len(reasons)]
    return pa.table(columns, schema=QUARANTINE)


def staged(lake: Lake, table: pa.Table) -> PartitionWriter:
    writer = lake.writer("quarantine", DAY)
    pq.write_table(table, f"{writer.path}/part-0.parquet")
    return writer


def test_a_build_is_invisible_until_published(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = staged(lake, rows("x"))
    assert lake.manifest("quarantine", DAY) is None
    assert list(lake.days("quarantine")) == []
    writer.commit(digest="d1", inputs={"raw": "r1"})
    assert list(lake.days("quarantine")) == [DAY]
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))


def test_replacing_swaps_the_whole_partition(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    staged(lake, rows("x", "y")).commit(digest="d1", inputs={})
    before = lake.require("quarantine", DAY)
    after = staged(lake, rows("z")).commit(digest="d2", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("z"))
    assert after.rows == 1
    # A reader that opened the old manifest still finds its files.
    assert lake.read(before).equals(rows("x", "y"))


def test_same_digest_keeps_the_published_files_untouched(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    staged(lake, rows("x")).commit(digest="d1", inputs={"raw": "r1"})
    folder = tmp_path / "quarantine" / f"date={DAY}"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    staged(lake, rows("x")).commit(digest="d1", inputs={"raw": "r1"})
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [
        lake.require("quarantine", DAY).files[0].path.split("/")[0]
    ]


def test_same_rows_from_new_inputs_update_only_the_manifest(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = staged(lake, rows("x")).commit(digest="d1", inputs={"raw": "r1"})
    second = staged(lake, rows("x")).commit(digest="d1", inputs={"raw": "r2"})
    assert second.files == first.files
    assert lake.require("quarantine", DAY).inputs == {"raw": "r2"}


def test_abandoned_builds_are_swept_once_old_and_young_ones_kept(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    old, young = staged(lake, rows("old")), staged(lake, rows("young"))
    gave_up(old)
    staged(lake, rows("x")).commit(digest="d1", inputs={})
    assert Path(old.path).exists(), "a commit deletes no build but its own"
    assert list(remove_orphans(lake)) == [old.path]
    assert not Path(old.path).exists()
    assert Path(young.path).exists()


def gave_up(writer: PartitionWriter) -> None:
    """The build's process died: its last sign of life is old. What its folder's time says does not matter."""
    (Path(writer.path) / LEASE_FILE).write_text(str(time.time() - EXPIRES_AFTER_S - 60))


def test_a_sweep_takes_what_nobody_works_on_and_leaves_what_is_read_or_being_built(tmp_path: Path) -> None:
    lake, other = Lake(tmp_path), date(2026, 1, 6)
    published = staged(lake, rows("x"))
    published.commit(digest="d1", inputs={})
    died, lives = staged(lake, rows("y")), staged(lake, rows("z"))
    never = lake.writer("events", other)  # of a day that was never published
    for writer in (died, never):
        gave_up(writer)
    long_ago = time.time() - 10 * EXPIRES_AFTER_S
    for writer in (published, lives):
        os.utime(writer.path, (long_ago, long_ago))
    assert sorted(orphaned_builds(lake)) == sorted(remove_orphans(lake)) == sorted([died.path, never.path])
    assert list(remove_orphans(lake)) == []
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))
    assert lives.commit(digest="d2", inputs={}).rows == 1


def test_a_writer_that_stood_still_until_it_was_swept_publishes_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = staged(lake, rows("x"))
    gave_up(writer)
    assert list(remove_orphans(lake)) == [writer.path]
    with pytest.raises(TransientError, match="another process removed it"):
        writer.commit(digest="d1", inputs={})
    assert lake.manifest("quarantine", DAY) is None


def test_a_sign_that_a_full_disk_or_a_power_cut_left_empty_is_as_old_as_its_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = staged(lake, rows("x"))
    sign = Path(writer.path) / LEASE_FILE
    sign.write_text("")
    assert list(remove_orphans(lake)) == []
    long_ago = time.time() - EXPIRES_AFTER_S - 60
    os.utime(sign, (long_ago, long_ago))
    assert list(remove_orphans(lake)) == [writer.path]
    with pytest.raises(TransientError, match="another process removed it"):
        writer.commit(digest="d1", inputs={})


def test_a_build_says_that_it_lives_while_its_process_does(tmp_path: Path) -> None:
    """With a beat of 50 ms: a second process writes a build, is killed, and the signs end."""
    code = """
import sys, time
from datetime import date
from longreel.lake import lease
from longreel.lake.table import Lake
lease.HEARTBEAT_INTERVAL_S = 0.05
Lake(sys.argv[1]).writer("quarantine", date(2026, 1, 5))
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        sign = until(lambda: next(tmp_path.glob(f"quarantine/*/build-*/{LEASE_FILE}"), None))
        first = sign.stat().st_mtime_ns
        until(lambda: sign.stat().st_mtime_ns > first)
    finally:
        process.kill()
        process.wait()
    last = sign.stat().st_mtime_ns
    time.sleep(0.3)
    assert sign.stat().st_mtime_ns == last


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_build_on_an_object_store_is_not_swept_while_it_is_written() -> None:
    """Such a store has no folders whose time could be asked for."""
    lake = Lake("fsspec+memory://lake-alive")
    lives, died = lake.writer("quarantine", DAY), lake.writer("quarantine", DAY)
    with lake.filesystem.open_output_stream(f"{died.path}/{LEASE_FILE}") as stream:
        stream.write(b"1700000000")
    assert list(remove_orphans(lake)) == [died.path]
    lives.commit(digest="d1", inputs={})


def test_a_withdrawn_partition_is_gone(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.drop_partition(staged(lake, rows("x")).commit(digest="d1", inputs={}))
    assert list(lake.days("quarantine")) == []
    assert list(tmp_path.rglob("*.parquet")) == []


def test_wrong_columns_are_not_published(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = staged(lake, pa.table({"reason": ["x"]}))
    with pytest.raises(LongreelError, match="expected columns"):
        writer.commit(digest="d1", inputs={})
    assert lake.manifest("quarantine", DAY) is None


def test_missing_day_says_what_there_is(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(DataNotReadyError, match="nothing is published"):
        lake.require("quarantine", DAY)
    staged(lake, rows("x")).commit(digest="d1", inputs={})
    with pytest.raises(DataNotReadyError, match=r"published: 2026-01-05 \.\. 2026-01-05 \(1\)"):
        lake.require("quarantine", date(2026, 1, 6))
    with pytest.raises(LongreelError, match="unknown dataset"):
        lake.require("sample", DAY)


def test_a_newer_schema_and_a_broken_manifest_are_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = staged(lake, rows("x")).commit(digest="d1", inputs={})
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


def test_a_broken_manifest_is_named_and_its_removal_mends_the_day(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    staged(lake, rows("x")).commit(digest="d1", inputs={})
    path = tmp_path / "quarantine" / f"date={DAY}" / MANIFEST
    path.write_text(path.read_text()[:200])
    with pytest.raises(LongreelError, match=f"{path}: not a partition manifest .* remove the file and run"):
        lake.manifest("quarantine", DAY)
    path.unlink()
    staged(lake, rows("x")).commit(digest="d1", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))


def test_a_damaged_file_is_named_and_removing_the_manifest_mends_the_day(tmp_path: Path) -> None:
    """Publishing the same rows again would keep the files that are there."""
    lake = Lake(tmp_path)
    manifest = staged(lake, rows("x")).commit(digest="d1", inputs={})
    path = Path(lake.paths(manifest)[0])
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"PAR1" + bytes(40) + whole[44:]):
        path.write_bytes(damaged)
        with pytest.raises(LongreelError, match=f"{path} is damaged .*or remove .*_manifest.json"):
            lake.read(manifest)
    path.unlink()
    with pytest.raises(TransientError, match=f"{path} is gone"):
        lake.read(manifest)
    (path.parent.parent / MANIFEST).unlink()
    assert lake.read(staged(lake, rows("x")).commit(digest="d1", inputs={})).equals(rows("x"))


def test_what_does_not_belong_into_a_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "samples" / "date=2026-03-01 (copy)").mkdir(parents=True)
    with pytest.raises(LongreelError, match=r"2026-03-01 \(copy\).*remove it"):
        list(Lake(tmp_path).days("samples"))


def test_empty_partition_reads_as_no_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    manifest = lake.writer("quarantine", DAY).commit(digest="empty", inputs={})
    assert lake.read(manifest).num_rows == 0
    assert lake.read(manifest, ["reason"]).column_names == ["reason"]


def test_lake_on_an_fsspec_url(tmp_path: Path) -> None:
    lake = Lake("fsspec+memory://lake-test")
    writer = lake.writer("quarantine", DAY)
    pq.write_table(rows("x"), f"{writer.path}/part-0.parquet", filesystem=lake.filesystem)
    writer.commit(digest="d1", inputs={})
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))
    assert list(lake.days("quarantine")) == [DAY]


@pytest.mark.parametrize("links", [True, False])
def test_of_several_who_write_a_file_once_one_wins_and_all_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    at, lake = str(tmp_path / "lake/there/file"), Lake(tmp_path / "lake")
    barrier = Barrier(8)

    def write(n: int) -> str:
        barrier.wait()
        return lake.storage.create_once(at, f"number {n}")

    with ThreadPoolExecutor(8) as several:
        told = set(several.map(write, range(8)))
    assert lake.storage.read_text(at) in told
    if links:
        assert len(told) == 1
    assert lake.storage.create_once(at, "late") == lake.storage.read_text(at) != "late"
    assert [each.name for each in (tmp_path / "lake/there").iterdir()] == ["file"]
