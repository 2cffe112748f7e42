"""A table of Spark's catalog, also one of Iceberg or Delta."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, require
from longreel.spark_jobs.sources.base import FILE, UNREADABLE, require_keys

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


class CatalogTable:
    """A table of Spark's catalog, `catalog.database.table`, or of a path, as in parquet.`/path`.

    A process finds the tables of its Spark catalog: in spark-defaults.conf of the folder $SPARK_CONF_DIR, set
    spark.sql.catalogImplementation to hive with the metastore's address (embedded Derby serves one process at a time),
    or spark.sql.catalog.NAME. Everything here starts a Spark session.
    """

    def __init__(
        self, setting: str, name: str, session: "Callable[[], SparkSession]", keys: tuple[frozenset[str], ...]
    ) -> None:
        """A table that a setting of [source] names; it must have a column of each of `keys`."""
        self.name = name
        self._setting, self._session, self._keys = setting, session, keys

    def digest(self, where: "Column") -> str:
        """Digest of the snapshot of an Iceberg or Delta table; of other tables, of the names, sizes and times of the
        files that have rows for which `where` holds.

        Raises:
            LongreelError: the table has neither, as a view.
        """
        provider, spark = self._provider, self._session()
        if provider == "iceberg":
            rows = spark.sql(f"SELECT snapshot_id FROM {self.name}.refs WHERE name = 'main'").collect()
            return digest_of([provider, self.name, *(row[0] for row in rows)])
        if provider == "delta":
            rows = spark.sql(f"DESCRIBE HISTORY {self.name} LIMIT 1").select("version").collect()
            return digest_of([provider, self.name, *(row[0] for row in rows)])
        require(
            self._has_files,
            f"[source] {self._setting}: expected a table of files, of Iceberg or of Delta, which say when a day "
            f"changes; {self.name} is {provider or 'a view'}",
        )
        file = self.opened.metadataColumn("_metadata")
        names = [file[f"file_{name}"].cast("string") for name in ("path", "size", "modification_time")]
        files = self._marked.where(where).select(*names).distinct().collect()
        return digest_of(sorted(list(file) for file in files))

    @cached_property
    def rows(self) -> "DataFrame":
        """The table's columns, FILE and UNREADABLE."""
        from pyspark.sql import functions as F

        require_keys(self.name, self.opened.columns, self._keys)
        file = self.opened.metadataColumn("_metadata")["file_name"] if self._has_files else F.lit(self.name)
        return self._marked.select("*", file.alias(FILE))

    @cached_property
    def _marked(self) -> "DataFrame":
        from pyspark.sql import functions as F

        return self.opened.withColumn(UNREADABLE, F.lit(None).cast("string"))

    @cached_property
    def opened(self) -> "DataFrame":
        """The table as it is.

        Raises:
            LongreelError: there is none.
        """
        from pyspark.errors import AnalysisException

        try:
            return self._session().table(self.name)
        except AnalysisException as error:
            raise LongreelError(
                f"[source] {self._setting} {self.name} cannot be opened ({error.getCondition()}); name it as "
                "catalog.database.table, and give Spark its catalog in spark-defaults.conf of $SPARK_CONF_DIR"
            ) from error

    @cached_property
    def _has_files(self) -> bool:
        """Whether rows know their files."""
        from pyspark.errors import AnalysisException

        if self._provider == "iceberg":
            return False
        try:
            self.opened.select(self.opened.metadataColumn("_metadata")["file_name"])
        except AnalysisException:
            return False
        return True

    @cached_property
    def _provider(self) -> str:
        """The format of the table, in lower case: parquet, iceberg, delta, view."""
        from pyspark.errors import AnalysisException

        try:
            described = self._session().sql(f"DESCRIBE TABLE EXTENDED {self.name}").collect()
        except AnalysisException:  # a path: parquet.`/path`
            return self.name.partition(".")[0].lower()
        values = {row["col_name"]: row["data_type"] for row in described}
        return str(values.get("Provider") or values.get("Type") or "").lower()
