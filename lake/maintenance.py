"""Deletion of builds that no manifest names: orphaned ones, and those with rows of erased users.

`spark_jobs/vacuum.py` removes orphaned builds before each step that writes.
"""

import time
from collections.abc import Iterator
from datetime import date
from pathlib import PurePosixPath

import pyarrow.fs as pafs

from longreel.contracts.schemas import DATASETS
from longreel.lake import lease
from longreel.lake.storage import utc_stamp
from longreel.lake.table import Lake


def orphaned_builds(lake: Lake) -> Iterator[str]:
    """The path of every build that no manifest names and whose lease has expired (`lease.EXPIRES_AFTER_S`). One whose
    last heartbeat is as far in the future has no writer with a right clock, and counts as expired."""
    for path, _ in _orphans(lake):
        yield path


def is_being_built(lake: Lake, dataset: str, day: date) -> bool:
    """Whether a process that still renews its lease writes a build of a partition."""
    beats = [lease.last_heartbeat(lake.filesystem, info) for info in _unreferenced(lake, dataset, day)]
    return any(held and time.time() - at < 2 * lease.HEARTBEAT_INTERVAL_S for at, held in beats)


def remove_orphans(lake: Lake) -> Iterator[str]:
    """Delete every orphaned build; gives the path of each that was deleted."""
    for path, has_lease in _orphans(lake):
        # a suspended writer may want to commit it at this moment: only one of the two can end the lease
        if lease.release(lake.filesystem, path) or not has_lease:
            lake.storage.try_delete_folder(path)
            yield path


def delete_unreferenced(lake: Lake, dataset: str, day: date, begun_by: str) -> int:
    """Delete at once, whatever its lease, every build of a partition that no manifest names and that was begun by a
    time (`storage.utc_stamp`), or by its name will begin long after now: no clock says when it began. Returns how many.
    A reader that holds an older manifest loses its files."""
    deleted, latest = 0, utc_stamp(time.time() + lease.EXPIRES_AFTER_S)
    for info in _unreferenced(lake, dataset, day):
        began = PurePosixPath(info.path).name.removeprefix("build-").partition("-")[0]
        if not begun_by < began <= latest:
            lake.storage.delete_folder(info.path)
            deleted += 1
    return deleted


def _orphans(lake: Lake) -> Iterator[tuple[str, bool]]:
    """Every orphaned build's path, and whether it still has a lease file."""
    for dataset in DATASETS:
        for day in lake.folders(dataset):
            for info in _unreferenced(lake, dataset, day):
                heartbeat, has_lease = lease.last_heartbeat(lake.filesystem, info)
                if abs(time.time() - heartbeat) > lease.EXPIRES_AFTER_S:
                    yield info.path, has_lease


def _unreferenced(lake: Lake, dataset: str, day: date) -> Iterator[pafs.FileInfo]:
    """Build folders of a partition that its manifest does not name."""
    entries = lake.storage.list(lake.partition_path(dataset, day))
    builds = [info for info in entries if info.type == pafs.FileType.Directory]
    if not builds:
        return
    manifest = lake.manifest(dataset, day)
    referenced = manifest.builds if manifest else set()
    yield from (info for info in builds if PurePosixPath(info.path).name not in referenced)
