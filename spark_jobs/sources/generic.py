"""The generic source: a log in the layout that docs/generic-log.md describes."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import (
    CORRUPT,
    CSV_SUFFIXES,
    FILE,
    RAW_COLUMNS,
    REQUIRED,
    Source,
    file_name,
    header_of,
    literal,
    read_csv,
    require_columns,
    require_distinct,
)

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

VALUES = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_dictionary,
    pa.types.is_null,
)
ROWS = {".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".orc", ".avro"}
CHECKSUMS = {".crc", ".md5", ".sha1", ".sha256", ".sha512"}
WIDER = {  # see `_as_read`
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.null(): pa.int32(),
    pa.string_view(): pa.string(),
}


class GenericSource(Source):
    """A folder with `date=YYYY-MM-DD/` folders of Parquet or CSV files, and perhaps a user table and a folder
    `history/` with older history. With a `ready_file`, a day has arrived once its folder holds that file."""

    hashes_text_ids = True

    def __init__(self, root: Path, ready_file: str = "") -> None:
        super().__init__(root)
        if not root.is_dir():
            raise LongreelError(f"{root} is not a folder; expected one with date=YYYY-MM-DD folders")
        folders = {_day_of(path): path for path in sorted(root.glob("date=*")) if path.is_dir()}
        if not folders and not (self.bootstrap_files() or self._user_files()):
            names = ", ".join(sorted(path.name for path in root.iterdir())[:5])
            raise LongreelError(
                f"no date=YYYY-MM-DD folder in {root}, but {names}; docs/generic-log.md describes the layout: put the "
                "log into it, or correct [source] log"
            )
        self._days = {day: path for day, path in folders.items() if not ready_file or (path / ready_file).is_file()}
        self.arrives_with = f"; a day has arrived once its folder holds {ready_file}" if ready_file else ""

    def days(self) -> list[date]:
        return sorted(self._days)

    def has_day(self, day: date) -> bool:
        return day in self._days

    def files(self, day: date) -> list[Path]:
        return [*self._files(day), *self._user_files()]

    def rows(self, spark: "SparkSession", day: date) -> "DataFrame":
        return self._rows(spark, self._files(day))

    def bootstrap_files(self) -> list[Path]:
        folder = self.root / "history"
        return _data_files(folder) if folder.is_dir() else []

    def bootstrap_rows(self, spark: "SparkSession") -> "DataFrame":
        return self._rows(spark, self.bootstrap_files())

    def _rows(self, spark: "SparkSession", files: list[Path]) -> "DataFrame":
        from pyspark.sql import functions as F

        if not files:
            blank = F.lit(None).cast("string")
            row = F.struct(*(blank.alias(name) for name in REQUIRED))
            return spark.range(0).select(row.alias("row"), blank.alias("source_file"), blank.alias("unreadable"))
        raw = _read(spark, files)
        unreadable = F.lit(None).cast("string")
        if CORRUPT in raw.columns:
            unreadable = F.when(F.col(CORRUPT).isNotNull(), "malformed_row")
        return raw.select(
            F.struct(*(F.col(f"`{name}`") for name in raw.columns if name != FILE)).alias("row"),
            F.col(FILE).alias("source_file"),
            unreadable.alias("unreadable"),
        )

    def standard(self, rows: "DataFrame") -> "DataFrame":
        from pyspark.sql import functions as F

        raw_columns = rows.select("row.*").columns
        return rows.select(
            "*",
            *(
                (F.col(f"row.{name}") if name in raw_columns else F.lit(None)).cast("string").alias(name)
                for name in RAW_COLUMNS
            ),
        )

    def users(self, spark: "SparkSession") -> tuple[list[str], "DataFrame | None"]:
        from pyspark.sql import functions as F

        files = self._user_files()
        if not files:
            return [], None
        table = _read(spark, files)
        names = [name for name in table.columns if name not in ("user_id", FILE, CORRUPT)]
        return names, table.select(*(F.col(f"`{name}`").cast("string").alias(name) for name in ("user_id", *names)))

    def _files(self, day: date) -> list[Path]:
        return _data_files(self._days[day])

    def _user_files(self) -> list[Path]:
        candidates = sorted(self.root.glob("users.*"))
        _refuse_unread(self.root, [p.name for p in candidates if _has_unread_rows(p)])
        files = [p for p in candidates if _is_data(p)]
        if len(files) > 1:
            raise LongreelError(f"expected one user table in {self.root}, found {', '.join(p.name for p in files)}")
        for path in files:
            require_columns(path, columns_of(path), ["user_id"])
        return files


def _data_files(folder: Path) -> list[Path]:
    """A folder's data files, checked for the required columns. Hidden files and notes beside data are left out.

    Raises:
        LongreelError: a file lacks a column; or the folder holds folders, data files of an unsupported format, or only
            files that are no data: rows would be lost.
    """
    visible = [p for p in sorted(folder.iterdir()) if not p.name.startswith((".", "_"))]
    files = [p for p in visible if _is_data(p) and not p.is_dir()]
    unread = [p.name for p in visible if p.is_dir() or _has_unread_rows(p)]
    _refuse_unread(folder, unread or ([] if files else [p.name for p in visible]))
    for path in files:
        require_columns(path, columns_of(path), REQUIRED)
    return files


def _is_data(path: Path) -> bool:
    return path.name.endswith((".parquet", *CSV_SUFFIXES))


def _has_unread_rows(path: Path) -> bool:
    """Whether a name is that of a data file that we cannot read (.csv.zst, .jsonl, .CSV); checksums are not."""
    suffixes = {suffix.lower() for suffix in path.suffixes}
    return not _is_data(path) and bool(suffixes & ROWS) and not suffixes & CHECKSUMS


def _refuse_unread(folder: Path, unread: list[str]) -> None:
    """Raises LongreelError where rows would be lost."""
    if unread:
        raise LongreelError(
            f"{folder} holds {', '.join(unread[:3])}; expected .parquet, .csv or .csv.gz files in the folder itself"
        )


def columns_of(path: Path) -> list[str]:
    """The column names of a Parquet or CSV file.

    Raises:
        LongreelError: it is neither.
    """
    if not path.name.endswith(".parquet"):
        return header_of(path)
    names = list(_parquet_schema(path).names)
    require_distinct(path, names)
    return names


def _parquet_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path).remove_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        raise LongreelError(f"{path} is not a Parquet file: {error}") from error


def _read(spark: "SparkSession", files: list[Path]) -> "DataFrame":
    """Parquet and CSV files together, columns matched by name."""
    parquet = [p for p in files if p.name.endswith(".parquet")]
    csv = [p for p in files if not p.name.endswith(".parquet")]
    frames = []
    if parquet:
        frames.append(_read_parquet(spark, parquet))
    if csv:
        frames.append(read_csv(spark, csv))
    if len(frames) == 1:
        return frames[0]
    return _as_text(frames[0]).unionByName(_as_text(frames[1]), allowMissingColumns=True)


def _read_parquet(spark: "SparkSession", files: list[Path]) -> "DataFrame":
    """Parquet files whose columns may differ. The footers are read here, which spares Spark a job. NaN, as
    some writers spell a missing value, becomes null."""
    from pyspark.sql import functions as F

    try:
        schemas = [_parquet_schema(p) for p in files]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise LongreelError(f"the Parquet files in {files[0].parent} disagree on a column's type: {error}") from error
    # pandas writes whole numbers as fractions where some are missing, and Spark reads one or the other
    for path, own in zip(files, schemas, strict=True):
        for field in own:
            if pa.types.is_integer(field.type) and pa.types.is_floating(merged := schema.field(field.name).type):
                raise LongreelError(
                    f"the Parquet files in {path.parent} disagree on a column's type: {field.name} is {field.type} in "
                    f"{path.name} and {merged} in another; write it as one"
                )
    reader = spark.read.schema(_spark_schema(schema, files[0].parent)).option("recursiveFileLookup", True)
    columns = []
    for field in schema:
        column = F.col(f"`{field.name}`")
        value = F.when(~F.isnan(column), column) if pa.types.is_floating(field.type) else column
        columns.append(value.alias(field.name))
    return reader.parquet(*literal(files)).select(*columns, file_name())


def _spark_schema(schema: pa.Schema, folder: Path) -> "StructType":
    """How Spark reads such columns.

    Raises:
        LongreelError: Spark cannot, or a column that longreel reads holds neither numbers nor text.
    """
    from pyspark.errors import PySparkTypeError
    from pyspark.sql.pandas.types import from_arrow_schema
    from pyspark.sql.types import StructType

    columns = StructType()
    for field in schema:
        try:
            is_readable = field.name not in RAW_COLUMNS or any(is_kind(field.type) for is_kind in VALUES)
            fields = from_arrow_schema(pa.schema([field.with_type(_as_read(field.type))])).fields
        except PySparkTypeError:
            is_readable = False
        if not is_readable:
            raise LongreelError(
                f"column {field.name} of the Parquet files in {folder} is of type {field.type}; expected numbers or "
                "text, and milliseconds for times"
            )
        columns.add(fields[0])
    return columns


def _as_read(kind: pa.DataType) -> pa.DataType:
    """The type that Spark reads a column as; the stored integers, where Spark has no such type."""
    if pa.types.is_time64(kind) or (pa.types.is_timestamp(kind) and kind.unit == "ns"):
        return pa.int64()
    return pa.int32() if pa.types.is_time32(kind) else WIDER.get(kind, kind)


def _as_text(frame: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as F

    return frame.select(*(F.col(f"`{name}`").cast("string").alias(name) for name in frame.columns))


def _day_of(path: Path) -> date:
    try:
        return parse_day(path.name.removeprefix("date="))
    except LongreelError as error:
        raise LongreelError(
            f"{path}: expected a folder date=YYYY-MM-DD; rename it, or take it out of the log"
        ) from error
