"""Tables that describe items or users beside a log: one for all days, or dated ones, the newest of which describes a
day."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import UNREADABLE, digest_of_files
from longreel.spark_jobs.sources.data_files import (
    TEXT_SUFFIXES,
    find_data_files,
    has_unread_rows,
    is_data,
    read_data_files,
    refuse_unread,
    well_formed,
)
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Keys = tuple[frozenset[str], ...]  # names of columns, of which a file must have one each
Tables = list[Path] | dict[date, Path]  # the files of a static table, or the folders of daily ones


class Descriptions(ABC):
    """A static table of items or users, daily ones, or none. A table dated D holds from the beginning of D on."""

    @property
    @abstractmethod
    def exist(self) -> bool:
        """Whether there is a table, of whatever date."""

    @abstractmethod
    def describe(self, day: date) -> bool:
        """Whether a log day is described: there is a static table, or one dated the day or before."""

    @abstractmethod
    def name(self, day: date) -> str:
        """The table that describes a day, as a message names it; the place of all tables where none does."""

    @abstractmethod
    def files(self, day: date) -> list[Path]:
        """The files of the table that describes a day."""

    @abstractmethod
    def digest(self, day: date) -> str:
        """Digest of the table that describes a day; tables of other dates do not change it."""

    @abstractmethod
    def read(self, spark: "SparkSession", day: date) -> "DataFrame | None":
        """The raw columns of the table that describes a day. Before the first table, those of the first, without rows;
        None without a table of any date. What is described may be in several rows.

        Raises:
            LongreelError: a file has no column for what it describes, or is damaged.
        """

    def unreadable_rows(self, spark: "SparkSession", day: date) -> int:  # files override it
        """How many rows of the table that describes a day are left out, since they cannot be split into columns."""
        return 0


class FileDescriptions(Descriptions):
    """A table in files of any format."""

    def __init__(
        self, place: Path, find: Callable[[], Tables], columns: RawColumns, keys: Keys, ready_file: str = ""
    ) -> None:
        self.place = place  # where the tables are, as messages name it
        self._find, self._columns, self._keys, self._ready_file = find, columns, keys, ready_file

    @property
    def exist(self) -> bool:
        return bool(self._tables)

    def describe(self, day: date) -> bool:
        return bool(self.files(day))

    def name(self, day: date) -> str:
        if isinstance(self._tables, list):
            return str(self._tables[0] if len(self._tables) == 1 else self.place)
        return str(self._newest(day) or self.place)

    def files(self, day: date) -> list[Path]:
        if isinstance(self._tables, list):
            return self._tables
        newest = self._newest(day)
        return [] if newest is None else _files_of(newest)

    def digest(self, day: date) -> str:
        return digest_of_files(self.files(day))

    def read(self, spark: "SparkSession", day: date) -> "DataFrame | None":
        if files := self.files(day):
            return self._read(spark, files)
        first = self._newest(min(self._ready, default=day))
        return None if first is None else self._read(spark, _files_of(first)).limit(0)

    def unreadable_rows(self, spark: "SparkSession", day: date) -> int:
        texts = [path for path in self.files(day) if path.name.endswith(TEXT_SUFFIXES)]
        if not texts:
            return 0
        return read_data_files(spark, texts, self._columns, self._keys).where(f"{UNREADABLE} IS NOT NULL").count()

    def _read(self, spark: "SparkSession", files: list[Path]) -> "DataFrame":
        return well_formed(read_data_files(spark, files, self._columns, self._keys))

    def _newest(self, day: date) -> Path | None:
        """The folder of the newest daily table dated a day or before."""
        newest = max((other for other in self._ready if other <= day), default=None)
        return None if newest is None else self._ready[newest]

    @cached_property
    def _ready(self) -> dict[date, Path]:
        """The folders of the daily tables that are complete."""
        if isinstance(self._tables, list):
            return {}
        ready = self._ready_file
        return {day: folder for day, folder in self._tables.items() if not ready or (folder / ready).is_file()}

    @cached_property
    def _tables(self) -> Tables:
        return self._find()


def find_tables(folder: Path, name: str) -> Tables:
    """The table `<name>.<format>` of a folder, or the daily ones in its folder `<name>/`, by date.

    Raises:
        LongreelError: there are both, several static ones, or what would be ignored.
    """
    candidates = sorted(folder.glob(f"{name}.*"))
    refuse_unread(folder, [path.name for path in candidates if has_unread_rows(path)])
    files = [path for path in candidates if is_data(path)]
    daily = folder / name
    if daily.is_dir() and files:
        raise LongreelError(
            f"{folder} has both {files[0].name} and {name}/; expected one table for all days, or daily ones in "
            f"{name}/date=YYYY-MM-DD/: remove either"
        )
    if len(files) > 1:
        raise LongreelError(f"expected one table {name} in {folder}, found {', '.join(p.name for p in files)}")
    return tables_in(daily) if daily.is_dir() else files


def tables_in(path: Path) -> Tables:
    """The table that is a file, or a folder of files; or the daily ones of a folder with date= folders.

    Raises:
        LongreelError: there is none, or something that would be ignored.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise LongreelError(f"expected a table at {path}, a file or a folder, but nothing is there: correct [source]")
    inside = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith((".", "_"))]
    dated = [entry for entry in inside if entry.is_dir() and entry.name.startswith("date=")]
    if not dated and inside and all(entry.is_file() for entry in inside):
        return find_data_files(path)
    others = [entry for entry in inside if entry not in dated]
    if strange := [entry.name for entry in others if entry.is_dir() or is_data(entry) or has_unread_rows(entry)]:
        raise LongreelError(
            f"{path} holds {', '.join(strange[:3])}; expected a folder date=YYYY-MM-DD for each daily table: "
            "rename it, or take it out"
        )
    if not dated:
        raise LongreelError(f"{path} is empty; expected date=YYYY-MM-DD folders with tables: fill it, or remove it")
    return {_date_of(entry): entry for entry in dated}


def _files_of(table: Path) -> list[Path]:
    files = find_data_files(table)
    if not files:
        raise LongreelError(
            f"{table} holds no table; write its files, or remove the folder if nothing changed that day"
        )
    return files


def _date_of(path: Path) -> date:
    try:
        return parse_day(path.name.removeprefix("date="))
    except LongreelError as error:
        raise LongreelError(f"{path}: expected a folder date=YYYY-MM-DD; rename it, or take it out") from error
