"""The files of a generic log: its rows, the older history and the tables of items and users beside them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.spark_jobs.sources.base import FILE, UNREADABLE, column
from longreel.spark_jobs.sources.data_files import find_data_files, is_data, read_data_files
from longreel.spark_jobs.sources.descriptions import FileDescriptions, find_tables
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

HISTORY = "history"


ITEMS, USERS = "items", "users"


@dataclass(frozen=True)
class LogFolder:
    """A folder with tables of items and users and a folder `history/`, where there are any, beside a log's rows."""

    path: Path
    columns: RawColumns
    ready_file: str = ""

    def items(self) -> FileDescriptions:
        """`items.<format>`, or `items/date=YYYY-MM-DD/`."""
        return self._descriptions(ITEMS, self.columns.item_keys)

    def users(self) -> FileDescriptions:
        """`users.<format>`, or `users/date=YYYY-MM-DD/`."""
        return self._descriptions(USERS, self.columns.user_keys)

    def _descriptions(self, name: str, keys: tuple[frozenset[str], ...]) -> FileDescriptions:
        find = partial(find_tables, self.path, name)
        return FileDescriptions(self.path / name, find, self.columns, keys, self.ready_file)

    def table_names(self) -> list[str]:
        """Names in the folder that are none of the log's rows."""
        tables = [path.name for name in (ITEMS, USERS) for path in self.path.glob(f"{name}.*") if is_data(path)]
        return [HISTORY, ITEMS, USERS, *tables]

    def history_files(self) -> list[Path]:
        """The files of the older history."""
        folder = self.path / HISTORY
        return find_data_files(folder) if folder.is_dir() else []

    def rows(self, spark: "SparkSession", files: list[Path]) -> "DataFrame":
        """As `Source.rows`, of files with a folder's rows."""
        from pyspark.sql import functions as F

        raw = read_data_files(spark, files, self.columns, self.columns.keys)
        row = F.struct(*(column(name) for name in raw.columns if name not in (FILE, UNREADABLE)))
        return raw.select(row.alias("row"), F.col(FILE).alias("source_file"), F.col(UNREADABLE).alias("unreadable"))
