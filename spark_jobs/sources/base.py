"""The interface of a source of raw rows, and what sources share: checks, digests, names of columns and files."""

import gzip
import hashlib
import itertools
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.arrow_reader import task_refusal

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from longreel.spark_jobs.sources.descriptions import Descriptions

HOUR = re.compile(r"(hour|minute)=\d{1,2}")  # folders in which a day's folder may have its files

RESERVED = "_longreel_"  # how no raw column's name may begin: these are added to raw columns
FILE = f"{RESERVED}source_file"  # the name of the file that a row was read from
UNREADABLE = f"{RESERVED}unreadable"  # why a row cannot be split into columns, else null
TEXT = f"{RESERVED}text"  # the text of such a row


class Source(ABC):
    """A raw log, by log day. Columns keep the names and types of the log; CSV has text alone."""

    arrives_with = ""  # what a day needs to count as arrived, as a message ends with it
    items: "Descriptions"
    users: "Descriptions"

    def __init__(self, root: Path | str) -> None:
        self.root = root  # where the log is, as messages name it

    @abstractmethod
    def days(self) -> list[date]:
        """The log's days, oldest first."""

    @abstractmethod
    def has_day(self, day: date) -> bool:
        """Whether the log has arrived for a day, be it without rows."""

    @abstractmethod
    def log_files(self, day: date) -> list[Path]:
        """Every file that a day's rows are made from; none of a table."""

    def files(self, day: date) -> list[Path]:
        """`log_files`, and the files of the tables that describe the day's items and users."""
        return [*self.log_files(day), *self.items.files(day), *self.users.files(day)]

    def input_bytes(self, day: date) -> int:
        """About how many bytes a day is made from."""
        return sum(path.stat().st_size for path in self.files(day))

    def log_digest(self, day: date) -> str:
        """Digest of what a day's rows are made from. Of files: their names, without folders, and bytes."""
        return digest_of_files(self.log_files(day))

    def digest(self, day: date) -> str:
        """Digest of what a day is made from: its rows, and the tables that describe it."""
        return digest_of([self.log_digest(day), self.items.digest(day), self.users.digest(day)])

    @abstractmethod
    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        """The day's rows as they are: `row` (a struct of the raw columns), `source_file`, `unreadable` (why the row
        cannot even be dated or split into columns, else null).

        Raises:
            LongreelError: a file has no column for the user, item or time; or a column that the configuration reads
                is of a type that Spark lacks.
        """

    def bootstrap_files(self) -> list[Path]:
        """Every file of the older history before the log's first day; none where there is no older history."""
        return []

    def bootstrap_digest(self, through: date) -> str:
        """As `digest`, of the older history, whose items the tables of its last day describe."""
        return digest_of([digest_of_files(self.bootstrap_files()), self.items.digest(through)])

    @abstractmethod
    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        """The rows of the older history, as `rows` gives those of a day. The log's days have none of them."""


class RepeatedColumnError(LongreelError):
    """Two columns have one name without case."""


def require_distinct(where: Path | str, names: Iterable[str]) -> None:
    """Raises LongreelError where two columns have one name, or one a reserved name; Spark's names have no case."""
    lower = [name.lower() for name in names]
    if reserved := next((name for name in lower if name.startswith(RESERVED)), None):
        raise LongreelError(f"{where} has a column {reserved}; rename it: longreel adds columns {RESERVED}... to rows")
    if twice := sorted({name for name in lower if lower.count(name) > 1}):
        raise RepeatedColumnError(f"{where} has more than one column {', '.join(twice)}; rename all but one")


def require_keys(where: Path | str, names: Sequence[str], keys: Iterable[frozenset[str]]) -> None:
    """Raises LongreelError where a file or table has none of the columns of a key, naming both. No case, as in SQL."""
    lower = {name.lower() for name in names}
    for key in keys:
        if key and not key & lower:
            raise LongreelError(f"{where} has no column {' or '.join(sorted(key))}; its columns are {', '.join(names)}")


def one_line(error: Exception) -> str:
    """An error's text without line breaks and the full stop."""
    return " ".join(str(error).split()).rstrip(".")


@contextmanager
def name_damaged_file(files: Iterable[Path]) -> Iterator[None]:
    """Name the damaged file, if there is one, when a block that has Spark read these files fails.

    Raises:
        LongreelError: a task refused what it read, or a file cannot be read to its end.
    """
    try:
        yield
    except LongreelError:
        raise
    except Exception as failure:
        if (refusal := task_refusal(failure)) is not None:
            raise refusal from failure
        for path in files:
            try:
                _read_through(path)
            except (OSError, EOFError, zlib.error) as error:
                raise LongreelError(f"{path} cannot be read to its end: {error}; fetch the file again") from error
        raise


def _read_through(path: Path) -> None:
    if path.name.endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(2**24):
                pass


def literal(paths: Iterable[Path | str]) -> list[str]:
    """Paths as Spark's readers take them, in which a bracket or an asterisk is no pattern."""
    return [re.sub(r"([][{}*?\\])", r"\\\1", str(path)) for path in paths]


def source_name(path: Path) -> str:
    """A file's name with the hour=HH and minute=MM folders that it is in."""
    folders = itertools.takewhile(HOUR.fullmatch, (parent.name for parent in path.parents))
    return "/".join([*[*folders][::-1], path.name])


def file_name(frame: "DataFrame", paths: Iterable[Path]) -> "Column":
    """Of each row that Spark reads from some files, the name of its file with the hour=HH and minute=MM folders that it
    is in, as FILE."""
    from pyspark.sql import functions as F

    file = frame.metadataColumn("_metadata")  # also where a raw column has that name
    name = file["file_name"]
    if any(HOUR.fullmatch(path.parent.name) for path in paths):
        name = F.regexp_extract(file["file_path"], r"((?:hour=\d+/|minute=\d+/)*[^/]*)$", 1)
    return F.url_decode(F.replace(name, F.lit("+"), F.lit("%2B"))).alias(FILE)


def column(name: str) -> "Column":
    """A column by a name that may hold any character."""
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def digest_of_files(paths: list[Path]) -> str:
    """Digest of the names of files, without folders, and their bytes."""
    return digest_of([(path.name, _sha256(path, *_version(path))) for path in paths])


def _version(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:  # noqa: ARG001  # parts of the cache's key
    """Content hash, remembered within a process while the file's size and times stay."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
