"""Parquet files, also with columns of types that Spark lacks."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import column, file_name, literal, require_distinct
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import DataType

AS_READ = {  # what Spark reads a type of values as, where it lacks the type
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.null(): pa.int32(),
    pa.string_view(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.date64(): pa.date32(),
}


def parquet_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file.

    Raises:
        LongreelError: it is none, or two of its columns have one name.
    """
    try:
        schema = pq.read_schema(path).remove_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        raise LongreelError(f"{path} is not a Parquet file: {error}") from error
    require_distinct(path, schema.names)
    return schema


def read_parquet(spark: "SparkSession", paths: list[Path], columns: RawColumns) -> "DataFrame":
    """Parquet files of one schema, with FILE. Columns of types that Spark cannot read are left out.

    Raises:
        LongreelError: the configuration reads such a column.
    """
    from pyspark.sql.types import StructType

    schema, read, values = parquet_schema(paths[0]), StructType(), []
    for field in schema:
        kind = _spark_type(field.type)
        if kind is None:
            if columns.reads(field.name):
                raise LongreelError(
                    f"column {field.name} of {paths[0]} is of type {field.type}, which Spark cannot read; write it as "
                    "numbers, text, a timestamp or a list of these"
                )
            continue
        read.add(field.name, kind)
        values.append(_value(field).alias(field.name))
    reader = spark.read.schema(read).option("recursiveFileLookup", True)
    rows = reader.parquet(*literal(paths))
    return rows.select(*values, file_name(rows, paths))


def _value(field: pa.Field) -> "Column":
    """A column's values; Spark has no nanoseconds and reads their number."""
    from pyspark.sql import functions as F

    if pa.types.is_null(field.type):
        return F.lit(None)
    value = column(field.name)
    if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
        moment = F.timestamp_micros(F.call_function("div", value, F.lit(1_000)))
        return moment if field.type.tz else moment.cast("timestamp_ntz")
    return value


def _spark_type(kind: pa.DataType) -> "DataType | None":
    """What Spark reads a column as, or None where it cannot."""
    from pyspark.errors import PySparkTypeError
    from pyspark.sql.pandas.types import from_arrow_type

    if "decimal256" in str(kind):
        return None  # it has more digits than Spark's decimals
    try:
        return from_arrow_type(_as_read(kind))
    except PySparkTypeError:
        return None


def _as_read(kind: pa.DataType) -> pa.DataType:
    """A type whose stored values Spark reads, inside lists and structs too; the stored integers of times, durations and
    nanoseconds."""
    if isinstance(kind, pa.BaseExtensionType):
        return _as_read(kind.storage_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_as_read(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_as_read(kind.key_type), _as_read(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_read(field.type)) for field in kind])
    return _as_read_scalar(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _as_read_scalar(kind: pa.DataType) -> pa.DataType:
    in_ns = pa.types.is_timestamp(kind) and kind.unit == "ns"
    if in_ns or pa.types.is_time64(kind) or pa.types.is_duration(kind):
        return pa.int64()
    return pa.int32() if pa.types.is_time32(kind) else AS_READ.get(kind, kind)
