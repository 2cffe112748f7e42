"""Spark reads and writes of the lake's partitions."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.schemas import added_column_of, schema_text
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.row_digest import digest_from_aggregates, observe_digest
from longreel.spark_jobs.sources.base import literal

_TYPES = {"int64": "BIGINT", "int32": "INT", "float": "FLOAT", "string": "STRING"}

VERIFY_PAGES = "parquet.page.verify-checksum.enabled"  # parquet-mr writes checksums of pages, and ignores them


def ddl(schema: pa.Schema) -> str:
    """A pyarrow schema of the lake as Spark DDL."""
    return ", ".join(f"`{field.name}` {_type(field.type)}" for field in schema)


def _type(kind: pa.DataType) -> str:
    return f"ARRAY<{_type(kind.value_type)}>" if pa.types.is_list(kind) else _TYPES.get(str(kind), str(kind))


def read_files(spark: SparkSession, schema: pa.Schema, paths: list[str]) -> DataFrame:
    """Parquet files of a dataset's schema; no files give no rows. Where a file lacks a column that came later, as
    `longreel.lake.schema_evolution` has it."""
    if not paths:  # an empty range is optimized away, an empty local collection is not
        return spark.range(0).select(*(F.lit(None).cast(_type(f.type)).alias(f.name) for f in schema))
    reader = spark.read.schema(ddl(schema)).option("recursiveFileLookup", True).option(VERIFY_PAGES, True)
    stored = reader.parquet(*literal(paths))
    return stored.select(*(_with_default(field) for field in schema))


def _with_default(field: pa.Field) -> Column:
    """A column, with its default where it is null: Spark gives null for what a file lacks."""
    declared, column = added_column_of(field), F.col(field.name)
    if declared is None or declared.default is None:
        return column
    default = F.lit(declared.default)
    if declared.parallel_to is not None:
        default = F.array_repeat(default, F.size(declared.parallel_to) * declared.size)
    elif pa.types.is_list(field.type):
        default = F.array_repeat(default, declared.size)
    return F.coalesce(column, default.cast(_type(field.type))).alias(field.name)


def read_partitions(spark: SparkSession, lake: Lake, dataset: str, manifests: Iterable[Manifest]) -> DataFrame:
    """The rows of published partitions together."""
    paths = [path for manifest in manifests for path in lake.paths(manifest)]
    return read_files(spark, lake.schemas[dataset], paths)


def read_staged(spark: SparkSession, writer: PartitionWriter) -> DataFrame:
    """The rows of a build that is not committed yet."""
    return read_files(spark, writer.lake.schemas[writer.dataset], [writer.path])


def day_of_file() -> Column:
    """The log day of the file that a row was read from."""
    return F.regexp_extract(F.input_file_name(), r"date(?:=|%3D)(\d{4}-\d\d-\d\d)/", 1)


def write_staged(
    frame: DataFrame, writer: PartitionWriter, *, buckets: int = 1, sort: list[str], more: tuple[Column, ...] = ()
) -> tuple[str, dict[str, Any]]:
    """Write the columns of a dataset into a build, each file sorted; rows are spread over files by a hash of the first
    column that they are sorted by, which makes them buckets where that is the user.

    Returns:
        The content digest, and what was observed while writing (`digest_rows`, and the aggregates in `more`).
    """
    rows, names = (
        frame.repartition(buckets, sort[0]).sortWithinPartitions(*sort),
        writer.lake.schemas[writer.dataset].names,
    )
    observed, observation = observe_digest(rows, names, *more)
    observed.write.mode("append").parquet(writer.path)
    values: dict[str, Any] = observation.get
    return digest_from_aggregates(values), values


def in_schema(frame: DataFrame, schema: pa.Schema, *, more: Iterable[str] = ()) -> DataFrame:
    """Exactly the schema's columns, in its order and types, and `more` columns."""
    return frame.select(*(F.col(field.name).cast(_type(field.type)).alias(field.name) for field in schema), *more)


def staged_schemas(writer: PartitionWriter) -> str:
    """`schema_text` of the staged files; every one, where they differ."""
    files = writer.lake.filesystem.get_file_info(pafs.FileSelector(writer.path))
    paths = sorted(str(info.path) for info in files if info.path.endswith(".parquet"))
    return " | ".join(sorted({schema_text(pq.read_schema(p, filesystem=writer.lake.filesystem)) for p in paths}))
