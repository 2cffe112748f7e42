"""The files of a generic log: its rows, the user table and the older history beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import CORRUPT, FILE, column
from longreel.spark_jobs.sources.data_files import (
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

HISTORY = "history"


@dataclass(frozen=True)
class LogFolder:
    """A folder with `users.<format>` and a folder `history/`, where there are any, beside the rows of a log."""

    path: Path
    columns: RawColumns

    def user_files(self) -> list[Path]:
        """The user table, if there is one.

        Raises:
            LongreelError: there are several, or it is of an unsupported format.
        """
        candidates = sorted(self.path.glob("users.*"))
        refuse_unread(self.path, [path.name for path in candidates if has_unread_rows(path)])
        files = [path for path in candidates if is_data(path)]
        if len(files) > 1:
            raise LongreelError(f"expected one user table in {self.path}, found {', '.join(p.name for p in files)}")
        return files

    def users(self, spark: "SparkSession") -> "DataFrame | None":
        """As `Source.users`."""
        files = self.user_files()
        return well_formed(read_data_files(spark, files, self.columns, self.columns.user_keys)) if files else None

    def history_files(self) -> list[Path]:
        """The files of the older history."""
        folder = self.path / HISTORY
        return find_data_files(folder) if folder.is_dir() else []

    def rows(self, spark: "SparkSession", files: list[Path]) -> "DataFrame":
        """As `Source.rows`, of files with a folder's rows."""
        from pyspark.sql import functions as F

        raw, unreadable = read_data_files(spark, files, self.columns, self.columns.keys), F.lit(None).cast("string")
        if CORRUPT in raw.columns:
            unreadable = F.when(F.col(CORRUPT).isNotNull(), "malformed_row")
        row = F.struct(*(column(name) for name in raw.columns if name != FILE))
        return raw.select(row.alias("row"), F.col(FILE).alias("source_file"), unreadable.alias("unreadable"))
