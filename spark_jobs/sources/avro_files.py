"""Avro files, which Spark reads."""

from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import file_name, literal
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def read_avro(spark: "SparkSession", paths: list[Path], columns: RawColumns) -> "DataFrame":  # noqa: ARG001
    """Avro files of one schema, with FILE.

    Raises:
        LongreelError: this Spark has no reader of them.
    """
    from pyspark.errors import AnalysisException

    try:
        frame = spark.read.format("avro").option("recursiveFileLookup", True).load(literal(paths))
    except AnalysisException as error:
        if "external data source module" not in str(error):
            raise
        raise LongreelError(
            f"{paths[0]}: Spark reads Avro with a separate package; add spark.jars.packages "
            f"org.apache.spark:spark-avro_2.13:{spark.version} to spark-defaults.conf in $SPARK_CONF_DIR, or give "
            "spark-submit --packages with it"
        ) from error
    return frame.select("*", file_name(frame, paths))
