"""Data files of published partitions, and the check that one is what its manifest says.

A manifest has the size of each file and a digest of its footer, which says how many values each column has. Each page
of values has a checksum (CRC-32, Parquet's own), and reading verifies it. A page's header has none: its encoding and
lengths have to fit the page, and its number of values has to add up to the footer's. So no changed file is read, at the
cost of a hash of the footer when it is opened. Files of a build that is not committed are opened by `pyarrow` alone.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.manifest import MANIFEST

TAIL_BYTES = 8  # the footer's length, 4 bytes, and "PAR1"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A data file of a published partition."""

    path: str  # absolute, on the lake's filesystem
    size_bytes: int
    footer: str  # as `footer_digest`
    bucket: int

    @property
    def remedy(self) -> str:
        """What to do about a file that is damaged or lost."""
        return f"remove {PurePosixPath(self.path).parent.parent / MANIFEST} and run the step of that day again"


def footer_digest(stream: pa.NativeFile) -> str:
    """Digest of an open Parquet file's footer: 16 hex digits of SHA-256.

    Raises:
        pa.ArrowInvalid: the file is too short for its footer.
    """
    size = stream.size()
    stream.seek(max(0, size - TAIL_BYTES))
    length = int.from_bytes(stream.read(TAIL_BYTES)[:4], "little") + TAIL_BYTES
    if size < length:
        raise pa.ArrowInvalid(f"it has {size:,} bytes, less than its footer")
    stream.seek(size - length)
    return hashlib.sha256(stream.read(length)).hexdigest()[:16]


class VerifiedParquetFile(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
    """A Parquet file whose columns, once read, have as many values as the footer says."""

    def read_row_group(self, i: int, columns: list[str] | None = None, **options: Any) -> pa.Table:
        """As pyarrow's. Raises pa.ArrowInvalid where a column has another number of values."""
        return self._verified(super().read_row_group(i, columns=columns, **options), [i])

    def read(self, columns: list[str] | None = None, **options: Any) -> pa.Table:
        """As pyarrow's. Raises pa.ArrowInvalid where a column has another number of values."""
        return self._verified(super().read(columns=columns, **options), range(self.num_row_groups))

    def _verified(self, table: pa.Table, groups: Iterable[int]) -> pa.Table:
        expected: Counter[str] = Counter()
        for group in map(self.metadata.row_group, groups):
            for column in map(group.column, range(group.num_columns)):
                expected[column.path_in_schema.split(".")[0]] += column.num_values
        for name, values in zip(table.column_names, table.columns, strict=True):
            if (count := _num_values(values)) != expected[name]:
                raise pa.ArrowInvalid(f"its column {name} has {count:,} values, its footer says {expected[name]:,}")
        return table


def _num_values(column: pa.ChunkedArray) -> int:
    """Values of a column, as Parquet counts them: an empty list is one."""
    if not pa.types.is_list(column.type):
        return len(column)
    empty = pc.sum(pc.equal(pc.list_value_length(column), 0)).as_py() or 0
    return sum(len(chunk.flatten()) for chunk in column.chunks) + int(empty)


@contextmanager
def open_parquet(filesystem: pafs.FileSystem, file: PublishedFile) -> Iterator[pq.ParquetFile]:
    """A published file, open for reading; reading verifies its pages.

    Raises:
        LongreelError: it is not what was published, or a page that the block reads is damaged.
        TransientError: it does not exist any more.
    """
    try:
        with filesystem.open_input_file(file.path) as stream:
            _require_published(stream, file)
            with VerifiedParquetFile(stream, page_checksum_verification=True) as parquet:
                yield parquet
    except FileNotFoundError as error:
        raise TransientError(
            f"{file.path} is gone. If the day was published again meanwhile, the same command finds the new files; "
            f"if the file was lost, {file.remedy}"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's fault
            raise
        cause = " ".join(str(error).split())
        raise LongreelError(f"{file.path} is damaged ({cause}); restore it, or {file.remedy}") from error


def check_file(filesystem: pafs.FileSystem, file: PublishedFile) -> None:
    """Check a published file's size and footer, for what reads its pages otherwise.

    Raises:
        LongreelError, TransientError: as `open_parquet`.
    """
    with open_parquet(filesystem, file):
        pass


def verify_pages(filesystem: pafs.FileSystem, file: PublishedFile) -> None:
    """Read a published file to its end.

    Raises:
        LongreelError, TransientError: as `open_parquet`.
    """
    with open_parquet(filesystem, file) as parquet:
        read_through(parquet)


def read_through(parquet: pq.ParquetFile) -> None:
    """Read every page of an open file, a row group at a time."""
    for number in range(parquet.num_row_groups):
        parquet.read_row_group(number)


def _require_published(stream: pa.NativeFile, file: PublishedFile) -> None:
    if (size := stream.size()) != file.size_bytes:
        raise pa.ArrowInvalid(f"it has {size:,} bytes, {file.size_bytes:,} were published")
    if (digest := footer_digest(stream)) != file.footer:
        raise pa.ArrowInvalid(f"its footer has digest {digest}, {file.footer} was published")
    stream.seek(0)
