"""Logs whose rows say their log day: a table of Spark's catalog, or files without date= folders."""

from abc import abstractmethod
from collections.abc import Callable
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError, require
from longreel.spark_jobs.sources.base import FILE, UNREADABLE, Source, column, name_damaged_file
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

YEARS = (1990, 2099)  # a typing error must not be a day
DATE = r"^\d{4}-\d{2}-\d{2}$"


class DayColumn:
    """SQL for the day of a table's rows: a date, or text YYYY-MM-DD."""

    def __init__(self, sql: str, table: "DataFrame", where: Path | str) -> None:
        self.sql, self._table, self._where = sql, table, where

    @cached_property
    def is_text(self) -> bool:
        """Whether `day` gives text, not dates.

        Raises:
            LongreelError: it is no expression over the raw columns, or gives neither.
        """
        from pyspark.errors import AnalysisException
        from pyspark.sql import functions as F

        try:
            kind = self._table.select(F.expr(self.sql).alias("day")).schema["day"].dataType.simpleString()
        except AnalysisException as error:
            raise LongreelError(
                f"[source] day: {self.sql!r} does not fit the columns of {self._where}: {error}"
            ) from error
        require(
            kind in ("date", "string", "void"),
            f"[source] day: expected a date or text YYYY-MM-DD, got {kind} from {self.sql!r}; use to_date(...) of the "
            "time in the log's time zone",
        )
        return kind != "date"

    @cached_property
    def value(self) -> "Column":
        """A row's day, null where it cannot be read or is none of YEARS."""
        from pyspark.sql import functions as F

        day = F.expr(self.sql)
        if self.is_text:
            day = F.when(day.rlike(DATE), day.try_cast("date"))
        return F.when(F.year(day).between(*YEARS), day)

    def is_day(self, day: date) -> "Column":
        """Whether a row is of a day; a plain comparison, by which Spark leaves out partitions and files."""
        from pyspark.sql import functions as F

        return F.expr(self.sql) == F.lit(day.isoformat() if self.is_text else day)


class DayColumnSource(Source):
    """Rows with their log day in a SQL expression: a date, or text YYYY-MM-DD.

    The log has every day from its first to its last. Rows whose day cannot be read belong to the first, where ingest
    quarantines them. `days` and `has_day` read the days of all rows, with a Spark session that `session` starts.
    """

    arrives_with = "; a day has arrived once the log has rows of it, or of a later day"

    def __init__(self, root: Path | str, day: str, session: "Callable[[], SparkSession]", columns: RawColumns) -> None:
        super().__init__(root)
        self._day, self._session, self._columns = day, session, columns

    @property
    @abstractmethod
    def _table(self) -> "DataFrame":
        """The raw columns, FILE and UNREADABLE."""

    @property
    def _day_table(self) -> "DataFrame":
        """The rows with at least the columns that the day is read from."""
        return self._table

    def days(self) -> list[date]:
        if self._span is None:
            return []
        first, last = self._span
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]

    def has_day(self, day: date) -> bool:
        return self._span is not None and self._span[0] <= day <= self._span[1]

    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        from pyspark.sql import functions as F

        names = [name for name in self._table.columns if name not in (FILE, UNREADABLE)]
        row, file = F.struct(*map(column, names)).alias("row"), F.col(FILE).alias("source_file")
        return self._table.where(self._of_day(day)).select(row, file, self._unreadable.alias("unreadable"))

    @cached_property
    def _span(self) -> tuple[date, date] | None:
        """First and last day of the log, None without a row of any."""
        from pyspark.sql import functions as F

        dated = self._day_table.where(self._unreadable.isNull()).select(self._dates.value.alias("day"))
        with name_damaged_file(self.log_files(date.min)):
            first, last = dated.agg(F.min("day"), F.max("day")).collect()[0]
        return None if first is None else (first, last)

    @cached_property
    def _dates(self) -> DayColumn:
        return DayColumn(self._day, self._table, self.root)

    @cached_property
    def _unreadable(self) -> "Column":
        """Why a row can be neither split into columns nor dated, else null."""
        from pyspark.sql import functions as F

        return F.coalesce(F.col(UNREADABLE), F.when(self._dates.value.isNull(), "unreadable_date"))

    def _of_day(self, day: date) -> "Column":
        """Whether a row belongs to a day."""
        from pyspark.sql import functions as F

        of_day = self._dates.is_day(day) & F.col(UNREADABLE).isNull()
        is_first = self._span is not None and day == self._span[0]
        return of_day | self._unreadable.isNotNull() if is_first else of_day
