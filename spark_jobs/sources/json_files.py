"""Files of JSON lines, whose columns Spark finds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.arrow_reader import read_with_arrow
from longreel.spark_jobs.sources.base import (
    FILE,
    RESERVED,
    TEXT,
    UNREADABLE,
    RepeatedColumnError,
    require_distinct,
    source_name,
)
from longreel.spark_jobs.sources.raw_columns import RawColumns
from longreel.spark_jobs.sources.text_files import MARK, is_utf8, open_file, read_bytes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import DataType

JSON_SUFFIXES = tuple(f".{name}{packed}" for name in ("json", "jsonl", "ndjson") for packed in ("", ".gz"))
LINE = f"{RESERVED}line"
COLUMNS = (LINE, FILE, UNREADABLE, TEXT)
CHUNK_BYTES = 4 * 2**20
PART_BYTES = 32 * 2**20  # what one task reads of a plain file
LINE_BYTES = 64 * 2**20  # the longest line


def read_json(spark: "SparkSession", paths: list[Path], columns: RawColumns) -> "DataFrame | None":
    """Files of one JSON object a line, with FILE and UNREADABLE; None without a line. A line that is no object, or not
    UTF-8, keeps its text in TEXT. A column's type is the one that fits all its values; ids are text where some are
    fractions.

    Raises:
        LongreelError: no line is an object, two columns have one name, or a line is longer than LINE_BYTES.
    """
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F
    from pyspark.sql.types import StringType, StructType

    texts = StructType()
    for name in COLUMNS:
        texts.add(name, StringType())
    lines = read_with_arrow(spark, [part for path in paths for part in _parts_of(path)], texts, _lines_of)
    reader = spark.read.option("columnNameOfCorruptRecord", TEXT)
    try:
        with _names_with_case(spark):
            schema = reader.json(lines.where(F.col(LINE).isNotNull()).select(LINE)).schema
    except AnalysisException as error:
        if error.getCondition() != "COLUMN_ALREADY_EXISTS":
            raise
        name = (error.getMessageParameters() or {}).get("columnName", "")
        raise RepeatedColumnError(
            f"{_spelled(paths)} has more than one column {name.strip('`')}; rename all but one"
        ) from error
    if not schema.names and lines.isEmpty():
        return None
    if schema.names in ([], [TEXT]):
        raise LongreelError(f"{_spelled(paths)}: no line is a JSON object; expected one object a line")
    names = [name for name in schema.names if name != TEXT]
    require_distinct(_spelled(paths), names)
    fields = [(name, schema[name].dataType) for name in names]
    schema = StructType()
    for name, kind in fields:
        schema.add(name, _exact(kind) if name.lower() in columns.ids else kind)
    schema.add(TEXT, StringType())
    parsed = F.from_json(LINE, schema, {"columnNameOfCorruptRecord": TEXT})
    rows = lines.select(FILE, UNREADABLE, TEXT, parsed.alias(LINE))
    value, malformed = F.col(LINE), F.when(F.col(LINE)[TEXT].isNotNull(), "malformed_row")
    return rows.select(
        *(value[name].alias(name) for name in names),
        F.coalesce(TEXT, value[TEXT]).alias(TEXT),
        F.coalesce(UNREADABLE, malformed).alias(UNREADABLE),
        FILE,
    )


@contextmanager
def _names_with_case(spark: "SparkSession") -> Iterator[None]:
    """Have Spark tell `Click` from `click` while it finds the columns: it parses only one of them."""
    spark.conf.set("spark.sql.caseSensitive", True)
    try:
        yield
    finally:
        spark.conf.unset("spark.sql.caseSensitive")


def _exact(kind: "DataType") -> "DataType":
    """A type that keeps each digit of whole numbers: where some are fractions, Spark would round all of them."""
    from pyspark.sql.types import ArrayType, DoubleType, StringType

    if isinstance(kind, ArrayType):
        return ArrayType(_exact(kind.elementType))
    return StringType() if isinstance(kind, DoubleType) else kind


def _spelled(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0].name} .. {paths[-1].name} in {paths[0].parent}"


def _parts_of(path: Path) -> list[tuple[Path, int, int | None]]:
    """A file's lines in parts for a task each: bytes [start, end). A gzipped file is one."""
    starts, size = [0], path.stat().st_size
    if not path.name.endswith(".gz"):
        with path.open("rb") as stream:
            while starts[-1] + PART_BYTES < size:
                stream.seek(starts[-1] + PART_BYTES)
                stream.readline()
                starts.append(stream.tell())
    return [(path, start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def _lines_of(path: Path, start: int, end: int | None) -> Iterator[pa.RecordBatch]:
    """The lines of a part with a character, as COLUMNS; one that is not UTF-8 is null, and its text is in TEXT."""
    position, rest, label = start, b"", source_name(path)
    with open_file(path) as stream:
        stream.seek(start)
        while True:
            more = read_bytes(stream, path, CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - position))
            position += len(more)
            rest += more
            cut = rest.rfind(b"\n") + 1 if more else len(rest)
            data, rest = rest[:cut], rest[cut:]
            if len(rest) > LINE_BYTES:
                raise LongreelError(f"{path} has a line of more than {LINE_BYTES:,} bytes; expected one object a line")
            if lines := [line for line in data.removeprefix(MARK).splitlines() if line.strip()]:
                yield _batch(lines, label)
            if not more:
                return


def _batch(lines: list[bytes], label: str) -> pa.RecordBatch:
    good = [is_utf8(line) for line in lines]
    both = [(fits, line.decode(errors="backslashreplace")) for fits, line in zip(good, lines, strict=True)]
    values = (
        [text if fits else None for fits, text in both],
        [label] * len(lines),
        [None if fits else "not_utf8" for fits in good],
        [None if fits else text for fits, text in both],
    )
    return pa.record_batch([pa.array(column, pa.string()) for column in values], names=list(COLUMNS))
