"""The generic source: a log in the layout that docs/generic-log.md describes."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import Source
from longreel.spark_jobs.sources.data_files import find_data_files
from longreel.spark_jobs.sources.log_folder import LogFolder
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class GenericSource(Source):
    """A folder with `date=YYYY-MM-DD/` folders of data files, and perhaps tables of items and users and a folder
    `history/` with older history. With a `ready_file`, a day has arrived once its folder holds that file."""

    def __init__(self, root: Path, ready_file: str = "", columns: RawColumns = RawColumns()) -> None:  # noqa: B008  # frozen
        super().__init__(root)
        if not root.is_dir():
            raise LongreelError(
                f"{root} is not a folder; expected one with date=YYYY-MM-DD folders, or [source] day with SQL for the "
                "log day of a row of the file"
            )
        self._folder, folders = LogFolder(root, columns, ready_file), day_folders(root)
        self.items, self.users = self._folder.items(), self._folder.users()
        if not folders and not (self.bootstrap_files() or self.items.exist or self.users.exist):
            names = ", ".join(sorted(path.name for path in root.iterdir())[:5])
            raise LongreelError(
                f"no date=YYYY-MM-DD folder in {root}, but {names}; docs/generic-log.md describes the layout: put the "
                "log into it, correct [source] log, or set [source] day to SQL for the log day of a row"
            )
        self._days = {day: path for day, path in folders.items() if not ready_file or (path / ready_file).is_file()}
        self.arrives_with = f"; a day has arrived once its folder holds {ready_file}" if ready_file else ""

    def days(self) -> list[date]:
        return sorted(self._days)

    def has_day(self, day: date) -> bool:
        return day in self._days

    def log_files(self, day: date) -> list[Path]:
        return find_data_files(self._days[day])

    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        return self._folder.rows(spark, self.log_files(day))

    def bootstrap_files(self) -> list[Path]:
        return self._folder.history_files()

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        return self._folder.rows(spark, self.bootstrap_files())


def day_folders(root: Path) -> dict[date, Path]:
    """The date=YYYY-MM-DD folders by day.

    Raises:
        LongreelError: a folder's name is that of no day.
    """
    return {_day_of(path): path for path in sorted(root.glob("date=*")) if path.is_dir()}


def _day_of(path: Path) -> date:
    try:
        return parse_day(path.name.removeprefix("date="))
    except LongreelError as error:
        raise LongreelError(
            f"{path}: expected a folder date=YYYY-MM-DD; rename it, or take it out of the log"
        ) from error
