"""Files of JSON lines and Avro, whose columns Spark finds."""

from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import TEXT, UNREADABLE, file_name, literal
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JSON_SUFFIXES = tuple(f".{name}{packed}" for name in ("json", "jsonl", "ndjson") for packed in ("", ".gz"))


def read_json(spark: "SparkSession", paths: list[Path], columns: RawColumns) -> "DataFrame | None":  # noqa: ARG001
    """Files of one JSON object a line, with FILE; None without a line. A line that is no object keeps its text in
    TEXT. A column's type is the one that fits all its values.

    Raises:
        LongreelError: no line is an object, or two columns have one name.
    """
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F
    from pyspark.sql.types import StringType

    reader = spark.read.option("columnNameOfCorruptRecord", TEXT).option("recursiveFileLookup", True)
    try:
        schema = reader.json(literal(paths)).schema
    except AnalysisException as error:
        if error.getCondition() != "COLUMN_ALREADY_EXISTS":
            raise
        name = (error.getMessageParameters() or {}).get("columnName", "")
        raise LongreelError(
            f"{_spelled(paths)} has more than one column {name.strip('`')}; rename all but one"
        ) from error
    if not schema.names:
        return None
    if schema.names == [TEXT]:
        raise LongreelError(f"{_spelled(paths)}: no line is a JSON object; expected one object a line")
    if TEXT not in schema.names:
        schema.add(TEXT, StringType())
    rows = reader.schema(schema).json(literal(paths))
    unreadable = F.when(F.col(TEXT).isNotNull(), "malformed_row").alias(UNREADABLE)
    return rows.select("*", file_name(rows, paths), unreadable)


def _spelled(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0].name} .. {paths[-1].name} in {paths[0].parent}"


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
