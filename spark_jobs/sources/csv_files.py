"""CSV files with a header line, read as text."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import TEXT, UNREADABLE, file_name, literal, require_distinct
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CSV_SUFFIXES = (".csv", ".csv.gz")


def find_csv(folder: Path, stem: str) -> list[Path]:
    """The CSV files, plain or gzipped, whose name begins with `stem`."""
    return sorted(p for p in folder.glob(f"{stem}*") if p.name.endswith(CSV_SUFFIXES) and p.is_file())


def header_of(path: Path) -> list[str]:
    """The column names of a CSV file.

    Raises:
        LongreelError: the file cannot be read or is empty.
    """
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as stream:  # spreadsheets write a byte order mark
            line = stream.readline()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LongreelError(f"{path} cannot be read as CSV: {error}") from error
    names = [name.strip().strip('"') for name in line.split(",")]
    if names == [""]:
        raise LongreelError(f"{path} is empty; expected a header line")
    require_distinct(path, names)
    return names


def read_csv(spark: "SparkSession", paths: list[Path], columns: RawColumns) -> "DataFrame":  # noqa: ARG001  # as others
    """CSV files of one header as text columns, with FILE. A line that does not fit the header keeps its text in
    TEXT."""
    from pyspark.sql import functions as F

    schema = ", ".join(f"`{name}` STRING" for name in (*header_of(paths[0]), TEXT))
    reader = spark.read.schema(schema).option("header", True).option("escape", '"')
    reader = reader.option("columnNameOfCorruptRecord", TEXT).option("recursiveFileLookup", True)
    reader = reader.option("columnPruning", False)  # a line with a cell too many is found only if all are read
    rows = reader.csv(literal(paths))
    unreadable = F.when(F.col(TEXT).isNotNull(), "malformed_row").alias(UNREADABLE)
    return rows.select("*", file_name(rows, paths), unreadable)
