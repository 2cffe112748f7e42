"""Files of typed columns, Parquet and ORC, whose schemas and rows are both read by pyarrow, rows in Spark tasks."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.arrow_reader import read_with_arrow
from longreel.spark_jobs.sources.arrow_types import as_spark, converted, first_inexact
from longreel.spark_jobs.sources.base import FILE, one_line, require_distinct, source_name
from longreel.spark_jobs.sources.raw_columns import RawColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PART_BYTES = (1 << 22, 1 << 26)  # of files that a task reads, at least and at most, where groups of rows allow
PARTS = 32  # of a day, as long as each has the least bytes
OPEN_BYTES = 1 << 20  # what opening a file costs, as bytes of rows
BATCH_BYTES, BATCH_ROWS = 1 << 25, 1 << 14  # of a batch, at most

Piece = tuple[Path, tuple[int, ...]]  # a file, and the numbers of some of its groups of rows


class ColumnarFile(ABC):
    """An open file of groups of rows."""

    format: ClassVar[str]
    schema: pa.Schema
    group_bytes: Sequence[int]  # of each group of rows, as stored

    @abstractmethod
    def __init__(self, path: Path) -> None: ...

    @abstractmethod
    def batches(self, groups: Iterable[int], names: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of some groups: these columns, and perhaps others."""


@dataclass(frozen=True)
class ReadColumn:
    """A column of files that are read together."""

    lower: str  # its name in lower case
    kind: pa.DataType  # as Spark has it
    is_read: bool  # by an expression of the configuration
    is_id: bool

    def values(self, stored: pa.Array, where: str) -> pa.Array:
        """Its values in a batch, as Spark has them.

        Raises:
            LongreelError: an expression reads a time that Spark cannot hold, or an id that is rounded.
        """
        try:
            values = converted(stored, self.kind, exact=self.is_read)
        except pa.ArrowException as error:
            raise LongreelError(
                f"{where} of type {stored.type} has a value that does not fit {self.kind}, as which Spark reads it: "
                f"{one_line(error)}; correct it, or write the column as text"
            ) from error
        if self.is_id and (inexact := first_inexact(values)) is not None:
            raise LongreelError(
                f"{where} of type {stored.type} has the id {inexact!r}: fractions hold no whole number that large "
                "exactly, so different ids became one; write the column as whole numbers or text"
            )
        return values


def open_columnar(path: Path, kind: type[ColumnarFile]) -> ColumnarFile:
    """A file's schema and groups of rows.

    Raises:
        LongreelError: it is not of its format, or two of its columns have one name.
    """
    try:
        file = kind(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise LongreelError(
            f"{path} is not {kind.format} file: {one_line(error)}; fetch or write the file again"
        ) from error
    require_distinct(path, file.schema.names)
    return file


def columns_of(path: Path, kind: type[ColumnarFile]) -> Hashable:
    """What is equal of files that are read together: their columns and types, as Spark has them."""
    return tuple(sorted((f.name.lower(), str(as_spark(f.type))) for f in open_columnar(path, kind).schema))


def read_columnar(
    spark: "SparkSession", paths: list[Path], columns: RawColumns, kind: type[ColumnarFile]
) -> "DataFrame":
    """Files of equal `columns_of`, with FILE. Columns of types that Spark lacks are left out.

    Raises:
        LongreelError: the configuration reads such a column.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StringType, StructType

    names, read = [], []
    for field in open_columnar(paths[0], kind).schema:
        if columns.only and not columns.reads(field.name):
            continue
        lower, spark_type = field.name.lower(), as_spark(field.type)
        if spark_type is not None:
            names.append(field.name)
            read.append(ReadColumn(lower, spark_type, columns.reads(lower), lower in columns.ids))
        elif columns.reads(field.name):
            raise LongreelError(
                f"column {field.name} of {paths[0]} is of type {field.type}, which Spark cannot read; write it as "
                "numbers, text, a timestamp or a list of these"
            )
    # Columns travel by number: a user's name may hold any character.
    schema = StructType()
    for number, one in enumerate(read):
        schema.add(str(number), from_arrow_type(one.kind))
    schema.add(str(len(read)), StringType())
    rows = read_with_arrow(spark, _parts(paths, kind), schema, partial(read_pieces, columns=read, kind=kind))
    return rows.select(*(F.col(str(number)).alias(name) for number, name in enumerate([*names, FILE])))


def _parts(paths: list[Path], kind: type[ColumnarFile]) -> list[tuple[list[Piece]]]:
    """The arguments of `read_pieces` of each task: consecutive groups of rows of the files."""
    sizes = [(path, open_columnar(path, kind).group_bytes) for path in paths]
    total = sum(OPEN_BYTES + sum(groups) for _, groups in sizes)
    least, most = PART_BYTES
    target = min(max(total // PARTS, least), most)
    parts: list[list[Piece]] = [[]]
    filled = 0
    for path, groups in sizes:
        first = 0
        filled += OPEN_BYTES
        for number, size in enumerate(groups):
            if filled + size > target and (parts[-1] or number > first):
                parts[-1] += [(path, tuple(range(first, number)))] if number > first else []
                parts.append([])
                first, filled = number, OPEN_BYTES
            filled += size
        if first < len(groups):
            parts[-1].append((path, tuple(range(first, len(groups)))))
    return [(part,) for part in parts if part]


def read_pieces(pieces: list[Piece], columns: list[ReadColumn], kind: type[ColumnarFile]) -> Iterator[pa.RecordBatch]:
    """The rows of pieces of files in a task: the columns, and the file's name.

    Raises:
        LongreelError: a file is damaged, or as `ReadColumn.values`.
    """
    numbers = [str(number) for number in range(len(columns) + 1)]
    for path, groups in pieces:
        file = open_columnar(path, kind)
        spelled = {name.lower(): name for name in file.schema.names}
        names = [spelled[column.lower] for column in columns]
        for batch in _readable(file, path, groups, names):
            named = zip(columns, names, strict=True)
            values = [column.values(batch.column(name), f"{path}: column {name}") for column, name in named]
            file_names = pa.repeat(pa.scalar(source_name(path)), batch.num_rows)
            yield pa.RecordBatch.from_arrays([*values, file_names], numbers)


def _readable(file: ColumnarFile, path: Path, groups: tuple[int, ...], names: list[str]) -> Iterator[pa.RecordBatch]:
    """The batches of a file's groups of rows; of a damaged one, the damaged column is named."""
    try:
        yield from file.batches(groups, names)
    except (pa.ArrowException, OSError) as failure:
        for name in names:
            try:
                for _ in file.batches(groups, [name]):
                    pass
            except (pa.ArrowException, OSError) as error:
                raise LongreelError(
                    f"{path}: column {name} cannot be read: {one_line(error)}; fetch the file again"
                ) from error
        raise LongreelError(f"{path} cannot be read to its end: {one_line(failure)}; fetch the file again") from failure
