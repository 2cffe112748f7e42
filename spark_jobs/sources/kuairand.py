"""The KuaiRand source: the published files of Pure, 1K and 27K, their days and columns.

A row's log day is the published `date` column, which for about 1 % of Pure is not the day of its time stamp. The log
must have every day from its first to its last; one without rows is an empty day. Lines that have no readable `date`,
or do not fit the header, belong to the log's first day, where ingest quarantines them. Files log_history*.csv are
older history and not part of the log's days.
"""

from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import FILE, UNREADABLE, Source, column, require_keys
from longreel.spark_jobs.sources.csv_files import find_csv
from longreel.spark_jobs.sources.csv_records import batches_of, header_of
from longreel.spark_jobs.sources.data_files import read_data_files
from longreel.spark_jobs.sources.descriptions import FileDescriptions
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

DATE = r"^(19[9]\d|20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"  # 1990 .. 2099: a typing error must not be a day


class KuaiRandSource(Source):
    """The folder with log_*.csv, with the items in video_features_basic_*.csv and the users in user_features_*.csv, or
    .csv.gz."""

    root: Path

    def __init__(self, root: Path, columns: RawColumns = RawColumns()) -> None:  # noqa: B008  # frozen
        super().__init__(root)
        self._columns = columns
        self.older_logs = find_csv(root, "log_history")
        self.logs = [path for path in find_csv(root, "log_") if path not in self.older_logs]
        self.videos = find_csv(root, "video_features_basic")
        self.user_files = find_csv(root, "user_features")
        if not self.logs:
            raise LongreelError(f"no log_*.csv or log_*.csv.gz in {root}; expected KuaiRand's data folder")
        for path in (*self.logs, *self.older_logs):
            require_keys(path, header_of(path).names, [frozenset({"date"}), *columns.keys])
        self.items = FileDescriptions(root, lambda: self.videos, columns, columns.item_keys)
        self.users = FileDescriptions(root, lambda: self.user_files, columns, columns.user_keys)

    @cached_property
    def _span(self) -> tuple[date, date]:
        """First and last day of the log."""
        texts: set[str] = set()
        for path in self.logs:
            texts.update(_dates_in(path))
        days = sorted(day for text in texts if (day := _parse(text)) is not None)
        if not days:
            raise LongreelError(f"no readable date (YYYYMMDD) in the logs of {self.root}")
        return days[0], days[-1]

    def days(self) -> list[date]:
        first, last = self._span
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]

    def has_day(self, day: date) -> bool:
        first, last = self._span
        return first <= day <= last

    def log_files(self, day: date) -> list[Path]:
        # Files hold many days, so a new file makes every day be read again; the same rows then publish nothing new.
        return self.logs

    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        from pyspark.sql import functions as F

        # A plain comparison of the date, by which the reader of CSV leaves out other days' lines unconverted.
        of_day = (F.col("date") == f"{day:%Y%m%d}") & F.col(UNREADABLE).isNull()
        unreadable = _unreadable()
        if day == self._span[0]:
            of_day = of_day | unreadable.isNotNull()
        else:
            unreadable = F.lit(None).cast("string")
        return self._rows(self._read(spark, self.logs).where(of_day), unreadable)

    def bootstrap_files(self) -> list[Path]:
        return self.older_logs

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        return self._rows(self._read(spark, self.older_logs), _unreadable())

    def _read(self, spark: "SparkSession", files: list[Path]) -> "DataFrame":
        return read_data_files(spark, files, self._columns, self._columns.keys)

    def _rows(self, log: "DataFrame", unreadable: "Column") -> "DataFrame":
        from pyspark.sql import functions as F

        row = F.struct(*(column(name) for name in log.columns if name not in (FILE, UNREADABLE)))
        return log.select(row.alias("row"), F.col(FILE).alias("source_file"), unreadable.alias("unreadable"))


def _unreadable() -> "Column":
    """Why a line can be neither split into columns nor dated, else null."""
    from pyspark.sql import functions as F

    # 20220231 fits the pattern, so the calendar decides too.
    dated = F.when(F.col("date").rlike(DATE), F.try_to_timestamp("date", F.lit("yyyyMMdd")))
    return F.coalesce(F.col(UNREADABLE), F.when(dated.isNull(), "unreadable_date"))


def _parse(text: str) -> date | None:
    try:
        day = datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
    return day if 1990 <= day.year < 2100 and len(text) == 8 else None


def _dates_in(path: Path) -> list[str]:
    """The different texts in the `date` column."""
    texts: set[str] = set()
    rows = header_of(path)
    for batch in batches_of(rows, tuple(name for name in rows.names if name.lower() == "date")):
        texts.update(text for text in pc.unique(batch.column(0)).to_pylist() if text)
    return sorted(texts)
