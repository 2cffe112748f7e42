"""The generic source: a log in the layout that docs/generic-log.md describes."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import CORRUPT, FILE, Source
from longreel.spark_jobs.sources.csv_files import column
from longreel.spark_jobs.sources.data_files import (
    find_data_files,
    has_unread_rows,
    is_data,
    read_data_files,
    refuse_unread,
)
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class GenericSource(Source):
    """A folder with `date=YYYY-MM-DD/` folders of data files, and perhaps a user table and a folder `history/` with
    older history. With a `ready_file`, a day has arrived once its folder holds that file."""

    root: Path

    def __init__(self, root: Path, ready_file: str = "", columns: RawColumns = RawColumns()) -> None:  # noqa: B008  # frozen
        super().__init__(root)
        if not root.is_dir():
            raise LongreelError(f"{root} is not a folder; expected one with date=YYYY-MM-DD folders")
        folders = {_day_of(path): path for path in sorted(root.glob("date=*")) if path.is_dir()}
        if not folders and not (self.bootstrap_files() or self._user_files()):
            names = ", ".join(sorted(path.name for path in root.iterdir())[:5])
            raise LongreelError(
                f"no date=YYYY-MM-DD folder in {root}, but {names}; docs/generic-log.md describes the layout: put the "
                "log into it, or correct [source] log"
            )
        self._columns = columns
        self._days = {day: path for day, path in folders.items() if not ready_file or (path / ready_file).is_file()}
        self.arrives_with = f"; a day has arrived once its folder holds {ready_file}" if ready_file else ""

    def days(self) -> list[date]:
        return sorted(self._days)

    def has_day(self, day: date) -> bool:
        return day in self._days

    def files(self, day: date) -> list[Path]:
        return [*find_data_files(self._days[day]), *self._user_files()]

    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        return self._rows(spark, find_data_files(self._days[day]))

    def bootstrap_files(self) -> list[Path]:
        folder = self.root / "history"
        return find_data_files(folder) if folder.is_dir() else []

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        return self._rows(spark, self.bootstrap_files())

    def users(self, spark: "SparkSession") -> "DataFrame | None":
        files = self._user_files()
        if not files:
            return None
        table = read_data_files(spark, files, self._columns, self._columns.user_keys)
        if CORRUPT in table.columns:
            table = table.where(f"{CORRUPT} IS NULL")
        return table.drop(FILE, CORRUPT)

    def _rows(self, spark: "SparkSession", files: list[Path]) -> "DataFrame":
        from pyspark.sql import functions as F

        blank = F.lit(None).cast("string")
        if not files:
            row = F.struct(*(F.lit(None).alias(name) for name in self._columns.blank))
            return spark.range(0).select(row.alias("row"), blank.alias("source_file"), blank.alias("unreadable"))
        raw = read_data_files(spark, files, self._columns, self._columns.keys)
        unreadable = F.when(F.col(CORRUPT).isNotNull(), "malformed_row") if CORRUPT in raw.columns else blank
        return raw.select(
            F.struct(*(column(name) for name in raw.columns if name != FILE)).alias("row"),
            F.col(FILE).alias("source_file"),
            unreadable.alias("unreadable"),
        )

    def _user_files(self) -> list[Path]:
        candidates = sorted(self.root.glob("users.*"))
        refuse_unread(self.root, [path.name for path in candidates if has_unread_rows(path)])
        files = [path for path in candidates if is_data(path)]
        if len(files) > 1:
            raise LongreelError(f"expected one user table in {self.root}, found {', '.join(p.name for p in files)}")
        return files


def _day_of(path: Path) -> date:
    try:
        return parse_day(path.name.removeprefix("date="))
    except LongreelError as error:
        raise LongreelError(
            f"{path}: expected a folder date=YYYY-MM-DD; rename it, or take it out of the log"
        ) from error
