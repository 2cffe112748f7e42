"""ORC files: stripes, and the types that only their writers name."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import orc

from longreel.spark_jobs.sources.columnar_files import BATCH_ROWS, ColumnarFile

SPARK_TYPE = b"spark.sql.catalyst.type"


class OrcRows(ColumnarFile):
    """An ORC file. Its timestamps have no zone, unless the type says "with local time zone"."""

    format = "an ORC"

    def __init__(self, path: Path) -> None:
        self._file = orc.ORCFile(path)
        self.schema = pa.schema([_as_written(field) for field in self._file.schema])
        stripes = self._file.nstripes
        self.group_bytes = [path.stat().st_size // max(stripes, 1)] * stripes

    def batches(self, groups: Iterable[int], names: list[str]) -> Iterator[pa.RecordBatch]:
        columns = None if names == self.schema.names else names
        for number in groups:
            stripe = self._file.read_stripe(number, columns)
            for start in range(0, stripe.num_rows, BATCH_ROWS):
                yield stripe.slice(start, BATCH_ROWS)


def _as_written(field: pa.Field) -> pa.Field:
    """A field as its writer meant it: text of a fixed length, and Spark's times without a zone, which are numbers."""
    kind = field.type
    if pa.types.is_fixed_size_binary(kind):
        return field.with_type(pa.string())
    if (field.metadata or {}).get(SPARK_TYPE) == b"timestamp_ntz":
        return field.with_type(pa.timestamp("us"))
    if pa.types.is_struct(kind):
        return field.with_type(pa.struct([_as_written(part) for part in kind]))
    return field.with_type(pa.list_(_as_written(kind.value_field))) if pa.types.is_list(kind) else field
