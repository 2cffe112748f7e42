"""CSV files with a header line, read as text."""

from pathlib import Path
from typing import TYPE_CHECKING

from longreel.spark_jobs.sources.arrow_reader import read_with_arrow
from longreel.spark_jobs.sources.base import FILE, TEXT, UNREADABLE
from longreel.spark_jobs.sources.csv_records import batches_of, header_of, parts_of
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CSV_SUFFIXES = (".csv", ".csv.gz")


def find_csv(folder: Path, stem: str) -> list[Path]:
    """The CSV files, plain or gzipped, whose name begins with `stem`."""
    return sorted(p for p in folder.glob(f"{stem}*") if p.name.endswith(CSV_SUFFIXES) and p.is_file())


def read_csv(spark: "SparkSession", paths: list[Path], columns: RawColumns) -> "DataFrame":  # noqa: ARG001  # as others
    """CSV files of one header as text columns, FILE, UNREADABLE and TEXT."""
    from pyspark.sql.types import StringType, StructType

    schema = StructType()
    for name in (*header_of(paths[0]).names, FILE, UNREADABLE, TEXT):
        schema.add(name, StringType())
    return read_with_arrow(spark, [(part,) for path in paths for part in parts_of(path)], schema, batches_of)
