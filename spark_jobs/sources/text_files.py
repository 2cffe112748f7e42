"""Bytes of text files, plain or gzipped."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from longreel.contracts.errors import LongreelError

MARK = b"\xef\xbb\xbf"  # spreadsheets begin a file with it


def open_file(path: Path) -> BinaryIO:
    """A file's bytes, unpacked. Members of gzip follow each other, and zeros may follow them."""
    return cast("BinaryIO", gzip.open(path) if path.name.endswith(".gz") else path.open("rb"))


def read_bytes(stream: BinaryIO, path: Path, size: int) -> bytes:
    """As many bytes as are asked for, fewer at the end only.

    Raises:
        LongreelError: the file is damaged.
    """
    try:
        return stream.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise LongreelError(f"{path} cannot be read to its end: {error}; fetch the file again") from error


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
