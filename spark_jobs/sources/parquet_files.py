"""Parquet files: groups of rows, and the times that are instants."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.spark_jobs.sources.columnar_files import BATCH_BYTES, BATCH_ROWS, ColumnarFile


class ParquetRows(ColumnarFile):
    """A Parquet file."""

    format = "a Parquet"

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path, coerce_int96_timestamp_unit="us")  # nanoseconds end in the year 2262
        self.schema = self._file.schema_arrow
        instants = [_is_instant(self._file.schema.column(number)) for number in range(len(self._file.schema))]
        if any(instants):
            leaves = iter(instants)
            self.schema = pa.schema([field.with_type(_with_instants(field.type, leaves)) for field in self.schema])
        metadata = self._file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self.group_bytes = [sum(g.column(n).total_compressed_size for n in range(g.num_columns)) for g in groups]

    def batches(self, groups: Iterable[int], names: list[str]) -> Iterator[pa.RecordBatch]:
        for number in groups:
            group = self._file.metadata.row_group(number)
            rows = BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1)
            rows = min(max(rows, 1), BATCH_ROWS)
            yield from self._file.iter_batches(rows, [number], names, use_threads=False)


def _is_instant(leaf: pq.ColumnSchema) -> bool:
    """Whether a column holds moments, though pyarrow gives it no zone: INT96, as Spark and Hive write it, and times of
    writers from before the format could tell."""
    if leaf.physical_type == "INT96":
        return True
    logical = json.loads(leaf.logical_type.to_json())
    return logical.get("Type") == "Timestamp" and bool(logical.get("is_from_converted_type"))


def _with_instants(kind: pa.DataType, leaves: Iterator[bool]) -> pa.DataType:
    """A type with a zone where a leaf is an instant; takes as many `leaves` as the type has."""
    if isinstance(kind, pa.BaseExtensionType) and pa.types.is_nested(kind.storage_type):
        return _with_instants(kind.storage_type, leaves)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_instants(field.type, leaves)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_with_instants(kind.key_type, leaves), _with_instants(kind.item_type, leaves))
    if pa.types.is_nested(kind):
        return pa.list_(_with_instants(kind.value_type, leaves))
    return pa.timestamp(kind.unit, "UTC") if next(leaves) and pa.types.is_timestamp(kind) else kind
