"""Tables of Spark's catalog that describe items or users."""

from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.sql_names import names_in
from longreel.spark_jobs.sources.base import FILE, UNREADABLE
from longreel.spark_jobs.sources.catalog_table import CatalogTable
from longreel.spark_jobs.sources.day_column import DayColumn
from longreel.spark_jobs.sources.descriptions import Descriptions

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


class CatalogDescriptions(Descriptions):
    """A table of Spark's catalog. It holds daily tables if it has the columns that [source] day reads: then these give
    the date of the table that a row belongs to."""

    def __init__(self, table: CatalogTable, day: str) -> None:
        self._table, self._day = table, day
        self._newest_of: dict[date, date | None] = {}

    @property
    def exist(self) -> bool:
        return True

    def describe(self, day: date) -> bool:
        return not self._is_daily or self._newest(day) is not None

    def name(self, day: date) -> str:
        newest = self._newest(day) if self._is_daily else None
        return self._table.name if newest is None else f"{self._table.name} of {newest}"

    def files(self, day: date) -> list[Path]:
        return []

    def digest(self, day: date) -> str:
        return self._table.digest(self._where(day))

    def read(self, spark: "SparkSession", day: date) -> "DataFrame | None":
        return self._table.rows.where(self._where(day)).drop(FILE, UNREADABLE)

    def _where(self, day: date) -> "Column":
        """Whether a row describes a day."""
        from pyspark.sql import functions as F

        if not self._is_daily:
            return F.lit(True)
        newest = self._newest(day)
        return F.lit(False) if newest is None else self._dates.is_day(newest)

    def _newest(self, day: date) -> date | None:
        """The date of the newest daily table dated a day or before."""
        from pyspark.sql import functions as F

        if day not in self._newest_of:
            value = self._dates.value
            (self._newest_of[day],) = self._table.rows.where(value <= F.lit(day)).agg(F.max(value)).collect()[0]
        return self._newest_of[day]

    @cached_property
    def _is_daily(self) -> bool:
        columns = {name.lower() for name in self._table.opened.columns}
        names = names_in(self._day)
        return bool(names) and names <= columns

    @cached_property
    def _dates(self) -> DayColumn:
        return DayColumn(self._day, self._table.rows, self._table.name)
