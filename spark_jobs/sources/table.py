"""The table source: a table of Spark's catalog."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.session import QUICK_BYTES
from longreel.spark_jobs.sources.catalog_table import CatalogTable
from longreel.spark_jobs.sources.day_column import DayColumnSource
from longreel.spark_jobs.sources.descriptions import FileDescriptions
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class TableSource(DayColumnSource):
    """A `CatalogTable`. `digest` starts a Spark session, as `days` and `has_day` do."""

    def __init__(
        self,
        table: str,
        day: str,
        session: "Callable[[], SparkSession]",
        columns: RawColumns = RawColumns(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(table, day, session, columns)
        self.table = CatalogTable("table", table, session, columns.keys)
        self.items = FileDescriptions(Path("items"), list, columns, ())  # none, unless [source] names one
        self.users = FileDescriptions(Path("users"), list, columns, ())

    def log_files(self, day: date) -> list[Path]:
        return []

    def input_bytes(self, day: date) -> int:
        return QUICK_BYTES  # unknown, so not taken for little

    def log_digest(self, day: date) -> str:
        return self.table.digest(self._of_day(day))

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        raise LongreelError(f"no older history beside the table {self.table.name}")

    @property
    def _table(self) -> "DataFrame":
        return self.table.rows
