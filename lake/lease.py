"""Leases on builds: a writer renews one while its process lives, so that others know an orphaned build.

A build folder that no manifest names is being written, or was left behind by a process that died. The two look alike
from another process or machine. So a build holds a lease file with the time (seconds since 1970) of its writer's last
heartbeat. A build whose last heartbeat is EXPIRES_AFTER_S old may be deleted. If its writer was only suspended, it
finds the lease file gone when it wants to commit, and does not commit.
"""

import contextlib
import threading
import time
from calendar import timegm
from pathlib import PurePosixPath

import pyarrow.fs as pafs

LEASE_FILE = "_lease"
HEARTBEAT_INTERVAL_S = 600.0
EXPIRES_AFTER_S = 6 * 3600  # many heartbeats, and a margin for clocks that differ

_held: dict[str, pafs.FileSystem] = {}
_heartbeat_thread = threading.Lock()  # held by the thread that renews leases: one a process


def acquire(fs: pafs.FileSystem, build: str) -> None:
    """Take the lease of a new build, and renew it until `release`, or while this process lives."""
    _renew(fs, build)
    _held[build] = fs
    if _heartbeat_thread.acquire(blocking=False):
        threading.Thread(target=_renew_all, name="lease heartbeats", daemon=True).start()


def release(fs: pafs.FileSystem, build: str) -> bool:
    """End a lease, to commit a build or to delete it. Of several processes that try, one gets True."""
    _held.pop(build, None)
    try:
        fs.delete_file(f"{build}/{LEASE_FILE}")
    except FileNotFoundError:
        return False
    return True


def last_heartbeat(fs: pafs.FileSystem, build: pafs.FileInfo) -> tuple[float, bool]:
    """When a build's writer was last alive, in seconds since 1970, and whether the build still has a lease.

    A build without a lease counts from the last change of its folder or, where a store has no folders, from its begin,
    which its name has. A lease file without a time (it is being written at this moment, or a full disk or a power cut
    came between) is as old as the file.
    """
    info, has_lease = build, False
    try:
        with fs.open_input_stream(f"{build.path}/{LEASE_FILE}") as stream:
            text = stream.read()
        if text:
            return float(text), True
        info, has_lease = fs.get_file_info(f"{build.path}/{LEASE_FILE}"), True
    except FileNotFoundError:
        pass
    if info.mtime is not None:
        return float(info.mtime.timestamp()), has_lease
    began = PurePosixPath(build.path).name.removeprefix("build-")[: len("20260101T000000")]
    return float(timegm(time.strptime(began, "%Y%m%dT%H%M%S"))), has_lease


def _renew(fs: pafs.FileSystem, build: str) -> None:
    with fs.open_output_stream(f"{build}/{LEASE_FILE}") as stream:
        stream.write(f"{time.time():.0f}".encode())


def _renew_all() -> None:
    while True:
        time.sleep(HEARTBEAT_INTERVAL_S)
        for build, fs in list(_held.items()):
            with contextlib.suppress(OSError):  # a store that is away now may be back at the next heartbeat
                if fs.get_file_info(f"{build}/{LEASE_FILE}").type == pafs.FileType.File:  # not committed or deleted
                    _renew(fs, build)
