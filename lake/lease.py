"""Is a build still being written? Whoever writes one says so in it, every few minutes while its process lives.

A build folder that no manifest names is being written, or was given up by a process that died. The two look alike from
another process, or another machine. So a build holds a file `_lease` with the time (seconds since 1970) at which its
writer was last known to live. One whose last sign is EXPIRES_AFTER_S old may be swept away; its writer, had it only
stood still, finds the file gone when it wants to publish, and does not.
"""

import contextlib
import threading
import time
from calendar import timegm
from pathlib import PurePosixPath

import pyarrow.fs as pafs

LEASE_FILE = "_lease"
HEARTBEAT_INTERVAL_S = 600.0
EXPIRES_AFTER_S = 6 * 3600  # many beats, and clocks that differ

_held: dict[str, pafs.FileSystem] = {}
_heart = threading.Lock()  # held by the thread that beats


def acquire(fs: pafs.FileSystem, build: str) -> None:
    """Say that a build is being written, and go on saying so until `release`, or while this process lives."""
    _sign(fs, build)
    _held[build] = fs
    if _heart.acquire(blocking=False):
        threading.Thread(target=_beat, name="builds are alive", daemon=True).start()


def release(fs: pafs.FileSystem, build: str) -> bool:
    """Take a build, to publish it or to sweep it away: of several that try one may."""
    _held.pop(build, None)
    try:
        fs.delete_file(f"{build}/{LEASE_FILE}")
    except FileNotFoundError:
        return False
    return True


def last_heartbeat(fs: pafs.FileSystem, build: pafs.FileInfo) -> tuple[float, bool]:
    """When a build was last known to be worked on, in seconds since 1970, and whether it is its writer who says so.

    A build that was claimed says nothing any more: then it is when its folder was last changed or, where a store has no
    folders, when it was begun, as its name has it. A sign without a time (it is being written at this moment, or a full
    disk or a power cut came between) is as old as its file.
    """
    told, has_writer = build, False
    try:
        with fs.open_input_stream(f"{build.path}/{LEASE_FILE}") as stream:
            text = stream.read()
        if text:
            return float(text), True
        told, has_writer = fs.get_file_info(f"{build.path}/{LEASE_FILE}"), True
    except FileNotFoundError:
        pass
    if told.mtime is not None:
        return float(told.mtime.timestamp()), has_writer
    began = PurePosixPath(build.path).name.removeprefix("build-")[: len("20260101T000000")]
    return float(timegm(time.strptime(began, "%Y%m%dT%H%M%S"))), has_writer


def _sign(fs: pafs.FileSystem, build: str) -> None:
    with fs.open_output_stream(f"{build}/{LEASE_FILE}") as stream:
        stream.write(f"{time.time():.0f}".encode())


def _beat() -> None:
    while True:
        time.sleep(HEARTBEAT_INTERVAL_S)
        for build, fs in list(_held.items()):
            with contextlib.suppress(OSError):  # a store that is away now may be back at the next beat
                if fs.get_file_info(f"{build}/{LEASE_FILE}").type == pafs.FileType.File:  # neither published nor swept
                    _sign(fs, build)
