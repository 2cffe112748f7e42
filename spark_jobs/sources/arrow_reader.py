"""Rows that pyarrow reads in Spark tasks, as a Spark table. What a task refuses, its step refuses in the same words."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from longreel.contracts.errors import LongreelError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

REFUSAL = "refused in a task: "
_refusal = re.compile(re.escape(REFUSAL) + r'("(?:[^"\\]|\\.)*")')


class TaskRefusalError(Exception):
    """A LongreelError of a task. Spark gives the driver the text alone, among a stack trace."""

    def __init__(self, error: LongreelError) -> None:
        super().__init__(REFUSAL + json.dumps(str(error)))


def read_with_arrow(
    spark: "SparkSession",
    parts: Sequence[tuple[Any, ...]],
    schema: "StructType",
    read: Callable[..., Iterator[pa.RecordBatch]],
) -> "DataFrame":
    """The rows of some parts of files, a task each.

    Args:
        parts: the arguments of a call of `read` each, such as a path and a number of a row group.
        schema: the columns of every batch, in their order.
        read: called in a task, so a function of a module; a LongreelError that it raises is what `task_refusal` gives.
    """

    def rows(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number in (number for batch in numbers for number in batch.column(0).to_pylist()):
            try:
                yield from read(*parts[number])
            except LongreelError as error:
                raise TaskRefusalError(error) from error

    return spark.range(0, len(parts), 1, max(len(parts), 1)).mapInArrow(rows, schema)


def task_refusal(error: BaseException) -> LongreelError | None:
    """What a task refused, of an error that Spark raised on the driver; None of any other error."""
    match = _refusal.search(str(error))
    return None if match is None else LongreelError(json.loads(match[1]))
