"""The source of a generic log without date= folders: one file, or a folder of files."""

from collections.abc import Callable
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.data_files import find_data_files, read_data_files
from longreel.spark_jobs.sources.day_column import DayColumnSource
from longreel.spark_jobs.sources.descriptions import FileDescriptions
from longreel.spark_jobs.sources.generic import day_folders
from longreel.spark_jobs.sources.log_folder import LogFolder
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class FlatSource(DayColumnSource):
    """A file, or a folder of files, whose rows say their log day. Tables of items and users and a folder `history/` may
    lie beside.

    Every file holds rows of many days, so every day is read again when one changes; the same rows then publish nothing
    new.
    """

    def __init__(
        self,
        root: Path,
        day: str,
        session: "Callable[[], SparkSession]",
        columns: RawColumns = RawColumns(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(root, day, session, columns)
        self._folder, self._log = LogFolder(root if root.is_dir() else root.parent, columns), root
        self.items, self.users = self._folder.items(), self._folder.users()
        if day_folders(root):
            raise LongreelError(
                f"{root} has date=YYYY-MM-DD folders, which say the log day of their rows; leave [source] day out"
            )

    def log_files(self, day: date) -> list[Path]:  # every file holds rows of many days
        if self._log.is_file():
            return [self._log]
        tables = [table.place for table in (self.items, self.users) if isinstance(table, FileDescriptions)]
        named = (place.name for place in tables if place.parent == self._log)
        return find_data_files(self._log, besides=(*self._folder.table_names(), *named))

    def bootstrap_files(self) -> list[Path]:
        return self._folder.history_files()

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        return self._folder.rows(spark, self.bootstrap_files())

    @cached_property
    def _table(self) -> "DataFrame":
        return read_data_files(self._session(), self.log_files(date.min), self._columns, self._columns.keys)

    @property
    def _day_table(self) -> "DataFrame":
        only = RawColumns(expressions=(self._day,), only=True)
        return read_data_files(self._session(), self.log_files(date.min), only, ())
