"""Reading and writing of array datasets with pyarrow, bucket by bucket and a row group at a time.

Encodings were chosen by measurement (benchmarks/samples): times and items are kept as differences, what repeats as a
dictionary, and other numbers plain.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints, list_values, ranges
from longreel.contracts.log_schema import LogSchema, timed_column
from longreel.lake.manifest import Manifest
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.buckets import bucket_of, files_of

CODEC, LEVEL = "zstd", 3
DIFFERENCES = ("user_id", "item_id", "time_ms", "request_time_ms", "request_history_end", "request_target_end")


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def _encodings(schema: pa.Schema, log: LogSchema) -> tuple[list[str], dict[str, str]]:
    """Columns with a dictionary, and the encoding of those without.

    Numbers of an item repeat as its ids do. Other numbers, such as a play time, have too many values for a dictionary,
    which makes KuaiRand's 29 % and 56 % larger than plain ones. Split bytes (BYTE_STREAM_SPLIT) would save 8 % to 16 %,
    but Spark's vectorized reader does not know them.
    """
    encodings = dict.fromkeys(_prefixed(DIFFERENCES), "DELTA_BINARY_PACKED")
    encodings |= dict.fromkeys(map(timed_column, log.timed_actions), "DELTA_BINARY_PACKED")
    numbers = [f"label_{name}" for name in log.number_labels]
    numbers += [f.name for f in log.fields if f.kind == "vector" or (f.kind == "number" and f.place != "item")]
    encodings |= dict.fromkeys(_prefixed(numbers), "PLAIN")
    dictionary = [_leaf(field) for field in schema if field.name not in {*encodings, "request_id"}]
    return dictionary, {_leaf(field): encodings[field.name] for field in schema if field.name in encodings}


def _prefixed(names: Iterable[str]) -> Iterator[str]:
    """Columns as the datasets name them."""
    return (f"{prefix}{name}" for name in names for prefix in ("", "history_", "target_", "user_"))


def write_bucket(writer: PartitionWriter, bucket: int, tables: Iterable[pa.Table]) -> str | None:
    """Write tables as the row groups of a bucket's file; as `write_file`."""
    return write_file(writer.lake, writer.dataset, f"{writer.path}/part-{bucket:05d}.parquet", tables)


def write_file(lake: Lake, dataset: str, path: str, tables: Iterable[pa.Table]) -> str | None:
    """Write tables of a dataset as the row groups of a file. Without rows there is no file; a second attempt of a
    task replaces the file of the first.

    Returns:
        The path, or None.
    """
    parquet = None
    dictionary, encodings = _encodings(lake.schemas[dataset], lake.log_schema)
    try:
        for table in tables:
            if not table.num_rows:
                continue
            parquet = parquet or pq.ParquetWriter(
                path,
                table.schema,
                filesystem=lake.filesystem,
                compression=CODEC,
                compression_level=LEVEL,
                use_dictionary=dictionary,
                column_encoding=encodings,
                store_schema=False,
                write_page_checksum=True,
            )
            parquet.write_table(table, row_group_size=table.num_rows)
    finally:
        if parquet is not None:
            parquet.close()
    return path if parquet else None


def row_groups(lake: Lake, path: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A file's row groups, one after the other."""
    with pq.ParquetFile(path, filesystem=lake.filesystem) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=columns)


def read_bucket(
    lake: Lake,
    manifest: Manifest,
    bucket: int,
    buckets: int,
    columns: list[str],
    among: Callable[[Ints], NDArray[np.bool_]] | None = None,
) -> Iterator[pa.Table]:
    """The rows of a partition's users of bucket `bucket` of `buckets`, row group by row group; with `among`, of the
    users that it selects. Of row groups without such users only the user ids are read."""
    schema = lake.schemas[manifest.dataset]
    schema = pa.schema([schema.field(name) for name in columns])
    for published in files_of(lake, manifest, bucket, buckets):
        with lake.open_parquet(published) as file:
            for number in range(file.num_row_groups):
                users = file.read_row_group(number, columns=["user_id"]).column("user_id").to_numpy()
                keep = np.ones(len(users), bool)
                if manifest.buckets < buckets:
                    keep &= bucket_of(users, buckets) == bucket
                if among is not None:
                    keep &= among(users)
                if keep.any():
                    table = file.read_row_group(number, columns=stored_columns(schema, file.schema_arrow.names))
                    table = to_schema(table, schema, f"{manifest.dataset} of {manifest.date}")
                    yield table if keep.all() else select(table, np.flatnonzero(keep))


def select(table: pa.Table, rows: Ints) -> pa.Table:
    """Some rows of a table, in their order."""
    columns = []
    for field in table.schema:
        if pa.types.is_list(field.type):
            values, offsets = list_values(table, field.name)
            lengths = np.diff(offsets)[rows]
            kept = values.take(pa.array(ranges(offsets[rows], lengths)))
            starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
            columns.append(pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), kept))
        else:
            columns.append(table.column(field.name).take(pa.array(rows)))
    return pa.table(columns, schema=table.schema)
