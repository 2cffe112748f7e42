"""The table source: a table of Spark's catalog, also one of Iceberg or Delta."""

from collections.abc import Callable
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, require
from longreel.spark_jobs.session import QUICK_BYTES
from longreel.spark_jobs.sources.base import FILE, require_keys
from longreel.spark_jobs.sources.day_column import DayColumnSource
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class TableSource(DayColumnSource):
    """A table of Spark's catalog, `catalog.database.table`, or of a path, as in parquet.`/path`.

    A process finds the tables of its Spark catalog: in spark-defaults.conf of the folder $SPARK_CONF_DIR, set
    spark.sql.catalogImplementation to hive with the metastore's address (embedded Derby serves one process at a time),
    or spark.sql.catalog.NAME. `digest` starts a Spark session, as `days` and `has_day` do.
    """

    def __init__(
        self,
        table: str,
        day: str,
        session: "Callable[[], SparkSession]",
        columns: RawColumns = RawColumns(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__(table, day, session, columns)
        self.table = table

    def files(self, day: date) -> list[Path]:
        return []

    def input_bytes(self, day: date) -> int:
        return QUICK_BYTES  # unknown, so not taken for little

    def digest(self, day: date) -> str:
        """Digest of the snapshot of an Iceberg or Delta table; of other tables, of the names, sizes and times of the
        files that have rows of the day.

        Raises:
            LongreelError: the table has neither, as a view.
        """
        from pyspark.sql import functions as F

        provider, spark = self._provider, self._session()
        if provider == "iceberg":
            rows = spark.sql(f"SELECT snapshot_id FROM {self.table}.refs WHERE name = 'main'").collect()
            return digest_of([provider, self.table, *(row[0] for row in rows)])
        if provider == "delta":
            rows = spark.sql(f"DESCRIBE HISTORY {self.table} LIMIT 1").select("version").collect()
            return digest_of([provider, self.table, *(row[0] for row in rows)])
        require(
            self._has_files,
            f"[source] table: expected a table of files, of Iceberg or of Delta, which say when a day changes; "
            f"{self.table} is {provider or 'a view'}",
        )
        names = [F.col(f"_metadata.file_{name}").cast("string") for name in ("path", "size", "modification_time")]
        files = self._opened.where(self._of_day(day)).select(*names).distinct().collect()
        return digest_of(sorted(list(file) for file in files))

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        raise LongreelError(f"no older history beside the table {self.table}")

    def users(self, spark: "SparkSession") -> "DataFrame | None":
        return None

    @cached_property
    def _table(self) -> "DataFrame":
        from pyspark.sql import functions as F

        require_keys(self.table, self._opened.columns, self._columns.keys)
        file = F.col("_metadata.file_name") if self._has_files else F.lit(self.table)
        return self._opened.select("*", file.alias(FILE))

    @cached_property
    def _opened(self) -> "DataFrame":
        from pyspark.errors import AnalysisException

        try:
            return self._session().table(self.table)
        except AnalysisException as error:
            raise LongreelError(
                f"[source] table {self.table} cannot be opened ({error.getCondition()}); name it as "
                "catalog.database.table, and give Spark its catalog in spark-defaults.conf of $SPARK_CONF_DIR"
            ) from error

    @cached_property
    def _has_files(self) -> bool:
        """Whether rows know their files."""
        from pyspark.errors import AnalysisException

        if self._provider == "iceberg":
            return False
        try:
            self._opened.select("_metadata.file_name")
        except AnalysisException:
            return False
        return True

    @cached_property
    def _provider(self) -> str:
        """The format of the table, in lower case: parquet, iceberg, delta, view."""
        from pyspark.errors import AnalysisException

        try:
            described = self._session().sql(f"DESCRIBE TABLE EXTENDED {self.table}").collect()
        except AnalysisException:  # a path: parquet.`/path`
            return self.table.partition(".")[0].lower()
        values = {row["col_name"]: row["data_type"] for row in described}
        return str(values.get("Provider") or values.get("Type") or "").lower()
