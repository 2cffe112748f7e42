"""Data files of several formats and schemas, read as one table."""

from collections.abc import Callable, Collection, Hashable
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.avro_files import read_avro
from longreel.spark_jobs.sources.base import (
    FILE,
    HOUR,
    RESERVED,
    TEXT,
    UNREADABLE,
    RepeatedColumnError,
    column,
    require_keys,
)
from longreel.spark_jobs.sources.columnar_files import columns_of, read_columnar
from longreel.spark_jobs.sources.csv_files import CSV_SUFFIXES, read_csv
from longreel.spark_jobs.sources.csv_records import header_of
from longreel.spark_jobs.sources.json_files import JSON_SUFFIXES, read_json
from longreel.spark_jobs.sources.orc_files import OrcRows
from longreel.spark_jobs.sources.parquet_files import ParquetRows
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import DataType, StructField

TEXT_SUFFIXES = (*JSON_SUFFIXES, *CSV_SUFFIXES)
SUFFIXES = (".parquet", ".orc", ".avro", *TEXT_SUFFIXES)
ROWS = {".parquet", ".orc", ".avro", ".json", ".jsonl", ".ndjson", ".csv", ".tsv"}  # whatever is behind them
CHECKSUMS = {".crc", ".md5", ".sha1", ".sha256", ".sha512"}
Read = Callable[["SparkSession", list[Path], RawColumns], "DataFrame | None"]


def find_data_files(folder: Path, besides: Collection[str] = ()) -> list[Path]:
    """A folder's data files, those of its hour=HH and minute=MM folders included. Hidden files, notes beside data and
    the names in `besides` are left out.

    Raises:
        LongreelError: the folder holds other folders, data files of an unsupported format, or only files that are no
            data: rows would be lost.
    """
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "_"))]
    visible = [path for path in visible if path.name not in besides]
    hours = [path for path in visible if path.is_dir() and HOUR.fullmatch(path.name)]
    files = [path for path in visible if is_data(path) and not path.is_dir()]
    unread = [p.name for p in visible if p not in hours and (p.is_dir() or has_unread_rows(p))]
    refuse_unread(folder, unread or ([] if files or hours else [path.name for path in visible]))
    return [*files, *(path for hour in hours for path in find_data_files(hour))]


def is_data(path: Path) -> bool:
    """Whether a name is that of a data file that `read_data_files` reads."""
    return path.name.endswith(SUFFIXES)


def has_unread_rows(path: Path) -> bool:
    """Whether a name is that of a data file that we cannot read (.csv.zst, .CSV); checksums are not."""
    suffixes = {suffix.lower() for suffix in path.suffixes}
    return not is_data(path) and bool(suffixes & ROWS) and not suffixes & CHECKSUMS


def refuse_unread(folder: Path, unread: list[str]) -> None:
    """Raises LongreelError where rows would be lost."""
    if unread:
        raise LongreelError(
            f"{folder} holds {', '.join(unread[:3])}; expected files {', '.join(SUFFIXES)} in the folder itself or in "
            "hour=HH folders"
        )


def read_data_files(
    spark: "SparkSession", paths: list[Path], columns: RawColumns, keys: tuple[frozenset[str], ...]
) -> "DataFrame":
    """The rows of data files of any formats, columns matched by name without case, with FILE, UNREADABLE and perhaps
    TEXT. Where files have different types of a column, it has the widest of numbers and is text otherwise.

    Raises:
        LongreelError: a file has none of the columns of one of `keys`; or a column that the configuration reads is of a
            type that Spark lacks, or nested in one file and otherwise in another.
    """
    from pyspark.sql import functions as F

    parts: list[tuple[Path, DataFrame]] = []
    for suffixes, schema_of, read in FORMATS:
        groups: dict[Hashable, list[Path]] = {}
        for path in paths:
            if path.name.endswith(suffixes):
                groups.setdefault(schema_of(path), []).append(path)
        for group in groups.values():
            for path, part in _read_group(spark, group, columns, read):
                require_keys(path, [name for name in part.columns if not name.startswith(RESERVED)], keys)
                has_reason = UNREADABLE in part.columns
                parts.append((path, part if has_reason else part.withColumn(UNREADABLE, F.lit(None).cast("string"))))
    if not parts:
        return spark.range(0).select(*(F.lit(None).cast("string").alias(name) for name in (FILE, UNREADABLE)))
    return _union(parts, columns)


def _read_group(
    spark: "SparkSession", paths: list[Path], columns: RawColumns, read: Read
) -> "list[tuple[Path, DataFrame]]":
    """Tables of files that are read together, each with its first file; in halves where two files spell a column's name
    in another case, as no two columns of a table may be."""
    try:
        table = read(spark, paths, columns)
    except RepeatedColumnError:
        if len(paths) == 1:
            raise
        half = len(paths) // 2
        return [part for some in (paths[:half], paths[half:]) for part in _read_group(spark, some, columns, read)]
    return [] if table is None else [(paths[0], table)]


def well_formed(table: "DataFrame") -> "DataFrame":
    """The columns of data files, without the lines that do not fit their header."""
    return table.where(f"{UNREADABLE} IS NULL").drop(FILE, UNREADABLE, TEXT)


def _union(parts: "list[tuple[Path, DataFrame]]", columns: RawColumns) -> "DataFrame":
    """Tables one after the other; what one of them lacks is null there. NaN, as some writers spell a missing value,
    becomes null.

    Args:
        parts: each with its first file, as an error names it.
    """
    from pyspark.sql import functions as F

    fields_of: dict[str, list[tuple[Path, StructField]]] = {}
    for path, part in parts:
        for field in part.schema:
            fields_of.setdefault(field.name.lower(), []).append((path, field))
    kinds = {lower: _type_of(fields, columns) for lower, fields in fields_of.items()}
    selected = []
    for _, part in parts:
        own, values = {field.name.lower(): field for field in part.schema}, []
        for lower, fields in fields_of.items():
            value = column(own[lower].name) if lower in own else F.lit(None)
            if lower in own and own[lower].dataType.typeName() in ("float", "double"):
                value = F.when(~F.isnan(value), value)
            values.append(value.cast(kinds[lower]).alias(fields[0][1].name))
        selected.append(part.select(*values))
    return reduce(lambda one, other: one.union(other), selected)


def _type_of(fields: "list[tuple[Path, StructField]]", columns: RawColumns) -> "DataType":
    """The type that a column with such fields in different files is read as."""
    from pyspark.sql.types import StringType

    from longreel.spark_jobs.sources.common_types import common_type

    if (kind := common_type([field.dataType for _, field in fields])) is not None:
        return kind
    name = fields[0][1].name
    if columns.reads(name):
        files = {field.dataType.simpleString(): path for path, field in reversed(fields)}
        spelled = ", ".join(f"{kind} in {path.name}" for kind, path in sorted(files.items()))
        raise LongreelError(
            f"{fields[0][0].parent}: column {name} is of types that are not one: {spelled}; write it as one type"
        )
    return StringType()


# Suffixes, what is equal of files that are read together, and how they are read.
FORMATS: tuple[tuple[tuple[str, ...], Callable[[Path], Hashable], Read], ...] = (
    ((".parquet",), partial(columns_of, kind=ParquetRows), partial(read_columnar, kind=ParquetRows)),
    ((".orc",), partial(columns_of, kind=OrcRows), partial(read_columnar, kind=OrcRows)),
    ((".avro",), lambda path: path, read_avro),
    (JSON_SUFFIXES, lambda path: "", read_json),  # noqa: ARG005
    (CSV_SUFFIXES, lambda path: header_of(path).names, read_csv),
)
