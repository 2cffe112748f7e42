"""Storage primitives: atomic writes, create-once, reads and deletes on a local folder or an object store.

This is the only module that asks whether a lake is local. A local disk replaces a file in one step by a rename; an
object store shows an object only once it is complete.
"""

import fcntl
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pyarrow.fs as pafs


def utc_stamp(at_s: float | None = None) -> str:
    """A time in seconds since 1970, by default now, as the names of builds and erasure requests spell it (UTC); such
    names sort by time."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(at_s))


class Storage:
    """Files below one root: a local folder, or any URL that pyarrow or (as `fsspec+PROTOCOL://`) fsspec opens.

    Paths are strings on `filesystem`; `path` makes them.
    """

    def __init__(self, root: str | Path) -> None:
        if "://" in str(root):
            self.filesystem, base = pafs.FileSystem.from_uri(str(root))
        else:
            self.filesystem, base = pafs.LocalFileSystem(), str(Path(root).absolute())
        self._base = PurePosixPath(base)

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """A path below the root."""
        return str(self._base.joinpath(*parts))

    def list(self, folder: str) -> list[pafs.FileInfo]:
        """What lies in a folder, sorted by path; nothing where there is no such folder."""
        infos = self.filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        return sorted(infos, key=lambda info: str(info.path))

    def has_file(self, path: str) -> bool:
        """Whether there is such a file."""
        return bool(self.filesystem.get_file_info(path).type == pafs.FileType.File)

    def has_folder(self, path: str) -> bool:
        """Whether there is such a folder."""
        return bool(self.filesystem.get_file_info(path).type == pafs.FileType.Directory)

    def read_text(self, path: str) -> str | None:
        """A small file's text, or None where there is none."""
        if not self.has_file(path):
            return None
        with self.filesystem.open_input_stream(path) as stream:
            return str(stream.read().decode(errors="replace"))  # what is damaged is no longer what was written

    def write_atomic(self, path: str, text: str, draft: str | None = None) -> None:
        """Write a small file in one atomic step; a local disk holds it as `draft` until it is complete."""
        if self._is_local:
            draft = draft or f"{path}.draft"
            self._write(draft, text)
            Path(draft).replace(path)
        else:
            self._write(path, text)

    def create_once(self, path: str, text: str) -> str:
        """Write a small file unless there is one; returns the text that the file has then.

        Of several processes that do so at once, one wins on a disk with hard links. Elsewhere the last one wins of
        those that looked before any of them had written.
        """
        existing = self.read_text(path)
        if existing is not None:
            return existing
        self.create_folder(str(PurePosixPath(path).parent))
        if self._is_local:
            draft = Path(f"{path}.{uuid.uuid4().hex}.draft")
            draft.write_text(text)
            try:
                Path(path).hardlink_to(draft)
            except FileExistsError:
                pass
            except OSError:  # no hard links here
                draft.replace(path)
            draft.unlink(missing_ok=True)
        else:
            self._write(path, text)
        written = self.read_text(path)
        assert written is not None
        return written

    @contextmanager
    def locked(self, path: str, waiting: str) -> Iterator[None]:
        """Hold a file's lock, which ends with this process at the latest; print `waiting` where another process has it.

        An object store has no locks: there, this does nothing.
        """
        if not self._is_local:
            yield
            return
        self.create_folder(str(PurePosixPath(path).parent))
        with Path(path).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(waiting, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def create_folder(self, folder: str) -> None:
        """Make a folder, and those above it."""
        self.filesystem.create_dir(folder, recursive=True)

    def delete_file(self, path: str) -> None:
        """Delete a file.

        Raises:
            FileNotFoundError: there is none.
        """
        self.filesystem.delete_file(path)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder and all that is in it.

        Raises:
            OSError: something is left.
        """
        self.filesystem.delete_dir(folder)

    def try_delete_folder(self, folder: str) -> None:
        """As `delete_folder`, but a local disk may keep what cannot be deleted, as where another process deletes it."""
        if self._is_local:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self.delete_folder(folder)

    def _write(self, path: str, text: str) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(text.encode())
