"""Leases keep builds in progress; without one, an old build that no manifest names is removed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from lake_helpers import DAY, expire_lease, rows, write_build

from longreel.contracts.errors import TransientError
from longreel.lake.lease import EXPIRES_AFTER_S, LEASE_FILE
from longreel.lake.maintenance import delete_unreferenced, orphaned_builds, remove_orphans
from longreel.lake.storage import utc_stamp
from longreel.lake.table import Lake


def test_orphans_are_removed_and_committed_or_leased_builds_stay(tmp_path: Path) -> None:
    lake, other = Lake(tmp_path), date(2026, 1, 6)
    published = write_build(lake, rows("x"))
    published.commit(digest="d1", inputs={})
    died, lives = write_build(lake, rows("y")), write_build(lake, rows("z"))
    never = lake.writer("events", other)  # of a day that was never published
    for writer in (died, never):
        expire_lease(writer)
    long_ago = time.time() - 10 * EXPIRES_AFTER_S
    for writer in (published, lives):
        os.utime(writer.path, (long_ago, long_ago))
    assert sorted(orphaned_builds(lake)) == sorted(remove_orphans(lake)) == sorted([died.path, never.path])
    assert list(remove_orphans(lake)) == []
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("x"))
    assert lives.commit(digest="d2", inputs={}).rows == 1


def test_a_commit_deletes_no_build_but_its_own(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    old, young = write_build(lake, rows("old")), write_build(lake, rows("young"))
    expire_lease(old)
    write_build(lake, rows("x")).commit(digest="d1", inputs={})
    assert Path(old.path).exists()
    assert list(remove_orphans(lake)) == [old.path]
    assert not Path(old.path).exists()
    assert Path(young.path).exists()


def test_a_build_with_a_time_in_the_future_does_not_survive(tmp_path: Path) -> None:
    """Its writer's clock was wrong, or the name was edited; no clock says when it began."""
    lake = Lake(tmp_path)
    ahead, soon = write_build(lake, rows("x")), write_build(lake, rows("y"))
    (Path(ahead.path) / LEASE_FILE).write_text(str(time.time() + EXPIRES_AFTER_S + 60))
    (Path(soon.path) / LEASE_FILE).write_text(str(time.time() + 60))
    assert list(remove_orphans(lake)) == [ahead.path]
    future = Path(soon.path).with_name("build-29990101T000000-0123abcd")
    Path(soon.path).rename(future)
    live = write_build(lake, rows("z"))
    assert delete_unreferenced(lake, "quarantine", DAY, utc_stamp(time.time() - 60)) == 1
    assert not future.exists()
    assert Path(live.path).exists()


def test_a_suspended_writer_whose_build_was_removed_commits_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = write_build(lake, rows("x"))
    expire_lease(writer)
    assert list(remove_orphans(lake)) == [writer.path]
    with pytest.raises(TransientError, match="another process removed it"):
        writer.commit(digest="d1", inputs={})
    assert lake.manifest("quarantine", DAY) is None


def test_an_empty_lease_file_is_as_old_as_the_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    writer = write_build(lake, rows("x"))
    lease = Path(writer.path) / LEASE_FILE
    lease.write_text("")
    assert list(remove_orphans(lake)) == []
    long_ago = time.time() - EXPIRES_AFTER_S - 60
    os.utime(lease, (long_ago, long_ago))
    assert list(remove_orphans(lake)) == [writer.path]
    with pytest.raises(TransientError, match="another process removed it"):
        writer.commit(digest="d1", inputs={})


def test_a_lease_is_renewed_while_its_process_lives(tmp_path: Path) -> None:
    """With a heartbeat every 50 ms: a second process writes a build, is killed, and the heartbeats end."""
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
        lease = until(lambda: next(tmp_path.glob(f"quarantine/*/build-*/{LEASE_FILE}"), None))
        first = lease.stat().st_mtime_ns
        until(lambda: lease.stat().st_mtime_ns > first)
    finally:
        process.kill()
        process.wait()
    last = lease.stat().st_mtime_ns
    time.sleep(0.3)
    assert lease.stat().st_mtime_ns == last


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def test_an_object_store_keeps_a_build_under_lease() -> None:
    """Such a store has no folders, so none has a time of change."""
    lake = Lake("fsspec+memory://lake-lease")
    lives, died = lake.writer("quarantine", DAY), lake.writer("quarantine", DAY)
    with lake.filesystem.open_output_stream(f"{died.path}/{LEASE_FILE}") as stream:
        stream.write(b"1700000000")
    assert list(remove_orphans(lake)) == [died.path]
    lives.commit(digest="d1", inputs={})


def test_builds_begun_by_a_time_are_deleted_at_once_whatever_their_lease(tmp_path: Path) -> None:
    """An empty partition beside a build is the case in which no file name tells the two apart."""
    lake = Lake(tmp_path)
    lake.writer("quarantine", DAY).commit(digest="empty", inputs={})
    leased = write_build(lake, rows("x"))
    assert delete_unreferenced(lake, "quarantine", DAY, "20200101T000000") == 0
    assert delete_unreferenced(lake, "quarantine", DAY, utc_stamp()) == 1
    assert not Path(leased.path).exists()
    committed = write_build(lake, rows("y"))
    committed.commit(digest="d2", inputs={})
    assert delete_unreferenced(lake, "quarantine", DAY, utc_stamp()) == 0
    assert lake.read(lake.require("quarantine", DAY)).equals(rows("y"))
