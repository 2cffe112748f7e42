"""Files of counters and statistics: rows of (statistic, value) in buckets by value, a row group for each statistic.

A bucket is that of `buckets.py`, of the value in place of the user. So of the statistic of `user_id` alone, a bucket
holds the users that this bucket has in other datasets.
"""

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_checks import Stats, combine
from longreel.spark_jobs.array_digest import digest_sums
from longreel.spark_jobs.array_io import write_bucket
from longreel.spark_jobs.buckets import bucket_of, files_of


def write_values(writer: PartitionWriter, bucket: int, tables: Iterable[pa.Table]) -> Stats:
    """Write a bucket's file; each table has one statistic. Returns the digest sums of its rows."""
    sums = []

    def observed() -> Iterator[pa.Table]:
        for table in tables:
            sums.append(digest_sums(table))
            yield table

    write_bucket(writer, bucket, observed())
    return combine(sums)


def read_values(
    lake: Lake,
    manifest: Manifest,
    columns: list[str],
    statistics: Collection[int],
    bucket: int = 0,
    buckets: int = 1,
) -> Iterator[tuple[int, pa.Table]]:
    """The row groups of some statistics of a partition, each with the place of its statistic, in any order.

    Args:
        columns: `value` among them.
        statistics: their places.
        bucket, buckets: values of this bucket alone.
    """
    for published in files_of(lake, manifest, bucket, buckets):
        with lake.open_parquet(published) as file:
            for number, statistic in enumerate(_statistics(file)):
                if statistic not in statistics:
                    continue
                table = file.read_row_group(number, columns=columns)
                if manifest.buckets < buckets:
                    table = table.filter(pa.array(bucket_of(table.column("value").to_numpy(), buckets) == bucket))
                yield statistic, table


def _statistics(file: pq.ParquetFile) -> list[int]:
    """The place of the statistic of each row group."""
    column = file.schema_arrow.names.index("statistic")
    groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
    return [int(group.column(column).statistics.min) for group in groups]


def by_statistic(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of a table that is sorted by statistic, one table for each."""
    statistics = table.column("statistic").to_numpy()
    bounds = np.concatenate([np.flatnonzero(np.diff(statistics, prepend=-1)), [len(statistics)]])
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield table.slice(first, last - first)
