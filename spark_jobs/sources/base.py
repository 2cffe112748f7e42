"""The interface of a source of raw rows, its columns, and reading of CSV files."""

import gzip
import hashlib
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.actions import ACTIONS
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# A raw row's fields as text, null where the source has none; ingest parses and validates them.
REQUIRED = ("user_id", "item_id", "time_ms")
OPTIONAL = ("request_id", "author_id", "tag", "surface", "play_ms", "duration_ms", "actions")
RAW_COLUMNS = (*REQUIRED, *OPTIONAL, *ACTIONS)

CORRUPT = "_corrupt_record"  # Spark's name for a line that does not fit its header
FILE = "_source_file"  # the name of the file that a row was read from
CSV_SUFFIXES = (".csv", ".csv.gz")


class Source(ABC):
    """A raw log, by log day. `days`, `has_day`, `files` and `digest` need no Spark."""

    hashes_text_ids: bool  # ids may be text, then hashed; otherwise text is unparsable
    user_column = "user_id"  # the raw column that names the user
    arrives_with = ""  # what a day needs to count as arrived, as a message ends with it

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def days(self) -> list[date]:
        """The log's days, oldest first."""

    @abstractmethod
    def has_day(self, day: date) -> bool:
        """Whether the log has arrived for a day, be it without rows."""

    @abstractmethod
    def files(self, day: date) -> list[Path]:
        """Every file that a day is made from, users' features included."""

    def digest(self, day: date) -> str:
        """Digest of the raw bytes that a day is made from, file names included, folders not."""
        return _digest_of_files(self.files(day))

    @abstractmethod
    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        """The day's rows as they are: `row` (a struct of every raw column), `source_file`, `unreadable` (why the
        row cannot even be dated or split into columns, else null)."""

    @abstractmethod
    def bootstrap_files(self) -> list[Path]:
        """Every file of the older history before the log's first day, items' descriptions included; none where there
        is no older history."""

    def bootstrap_digest(self) -> str:
        """As `digest`, of the older history."""
        return _digest_of_files(self.bootstrap_files())

    @abstractmethod
    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        """The rows of the older history, as `rows` gives those of a day. The log's days have none of them."""

    @abstractmethod
    def standard(self, rows: "DataFrame") -> "DataFrame":
        """Adds RAW_COLUMNS, as text, to rows that carry `row`."""

    @abstractmethod
    def users(self, spark: "SparkSession") -> tuple[list[str], "DataFrame | None"]:
        """Names of the categorical user features, and a table of `user_id` and those columns, all as text."""


def find_csv(folder: Path, stem: str) -> list[Path]:
    """The CSV files, plain or gzipped, whose name begins with `stem`."""
    return sorted(p for p in folder.glob(f"{stem}*") if p.name.endswith(CSV_SUFFIXES) and p.is_file())


def header_of(path: Path) -> list[str]:
    """The column names of a CSV file.

    Raises:
        LongreelError: the file cannot be read or is empty.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as stream:  # spreadsheets write a byte order mark
            line = stream.readline()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LongreelError(f"{path} cannot be read as CSV: {error}") from error
    names = [name.strip().strip('"') for name in line.split(",")]
    if names == [""]:
        raise LongreelError(f"{path} is empty; expected a header line")
    require_distinct(path, names)
    return names


def require_distinct(path: Path, names: Iterable[str]) -> None:
    """Raises LongreelError where two columns of a file have one name; Spark's names have no case."""
    lower = [name.lower() for name in names]
    if twice := sorted({name for name in lower if lower.count(name) > 1}):
        raise LongreelError(f"{path} has more than one column {', '.join(twice)}; rename all but one")


@contextmanager
def name_damaged_file(files: Iterable[Path]) -> Iterator[None]:
    """Name the damaged file, if there is one, when a block that has Spark read these files fails.

    Raises:
        LongreelError: a file cannot be read to its end.
    """
    try:
        yield
    except LongreelError:
        raise
    except Exception:
        for path in files:
            try:
                _read_through(path)
            except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
                raise LongreelError(f"{path} cannot be read to its end: {error}; fetch the file again") from error
        raise


def _read_through(path: Path) -> None:
    if path.name.endswith(".parquet"):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    elif path.name.endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(2**24):
                pass


def require_columns(path: Path, have: Iterable[str], needed: Iterable[str]) -> None:
    """Raises LongreelError where a file lacks needed columns, naming both."""
    have = list(have)
    missing = [name for name in needed if name not in have]
    if missing:
        raise LongreelError(f"{path} has no column {', '.join(missing)}; its columns are {', '.join(have)}")


def literal(paths: Iterable[Path | str]) -> list[str]:
    """Paths as Spark's readers take them, in which a bracket or an asterisk is no pattern."""
    return [re.sub(r"([][{}*?\\])", r"\\\1", str(path)) for path in paths]


def file_name() -> "Column":
    """Of each row read, its file's name, as FILE."""
    from pyspark.sql import functions as F

    return F.col("_metadata.file_name").alias(FILE)


def read_csv(spark: "SparkSession", paths: list[Path]) -> "DataFrame":
    """CSV files as text columns, by header. A line that does not fit its header keeps its text in CORRUPT."""
    frames: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        frames.setdefault(tuple(header_of(path)), []).append(str(path))
    read = []
    for names, files in frames.items():
        schema = ", ".join(f"`{name}` STRING" for name in (*names, CORRUPT))
        reader = spark.read.schema(schema).option("header", True).option("escape", '"')
        read.append(reader.option("columnNameOfCorruptRecord", CORRUPT).csv(literal(files)).select("*", file_name()))
    whole = read[0]
    for frame in read[1:]:
        whole = whole.unionByName(frame, allowMissingColumns=True)
    return whole


def _digest_of_files(paths: list[Path]) -> str:
    return digest_of([(path.name, _sha256(path, *_version(path))) for path in paths])


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001  # parts of the cache's key
    """Content hash, remembered within a process while the file's size and time stay."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
