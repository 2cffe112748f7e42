"""Bytes on disk per target with its own copy of the history, in training order.

A join leaves a user's rows side by side, where zstd finds each history again in the row before. Rows that are to be
trained on lie in random order, or in the order of time in which a log day arrived. Both are measured on a sample of
targets, written as Spark would write them (dictionaries, zstd, row groups of 128 MiB).
"""

import io
from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.samples.history_counts import RequestLists
from longreel.contracts.jagged import Ints, list_values, offsets_of, ranges
from longreel.lake.table import Lake

GROUP_EVENTS = 3_000_000  # about 128 MiB of eight columns


def bytes_a_target(lake: Lake, days: Sequence[date], window: int, sample: int, order: str, seed: int = 0) -> float:
    """Bytes of the history columns of a target, `order` being `random` or `time`, from about `sample` of the targets
    of the days: chosen at random, or whole days in the middle of the range."""
    rng = np.random.default_rng(seed)
    if order == "time":
        sizes = [lake.require("samples", day).counts["targets"] for day in days]
        first = len(days) // 2
        last = first + int(np.searchsorted(np.cumsum(sizes[first:]), sample)) + 1
        parts = [_exploded(lake, [day], window, None, rng) for day in days[first:last]]
    else:
        parts = [_exploded(lake, days, window, sample, rng)]
    written, targets = 0, 0
    for part in parts:
        sink = io.BytesIO()
        writer: pq.ParquetWriter | None = None
        for table in part:
            writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd", compression_level=3)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            targets += table.num_rows
        if writer:
            writer.close()
        written += sink.tell()
    return written / targets


def _exploded(
    lake: Lake, days: Sequence[date], window: int, sample: int | None, rng: np.random.Generator
) -> Iterator[pa.Table]:
    """Tables of one row a target: by request time, or shuffled where only a sample is taken."""
    columns = [f"history_{column.name}" for column in lake.log_schema.event_columns]
    tables = [lake.read(lake.require("samples", day)) for day in days]
    table = pa.concat_tables([t for t in tables if t.num_rows]).combine_chunks()
    flat = {name: list_values(table, name) for name in columns}
    starts = flat[columns[0]][1]
    requests = RequestLists.of(table)
    stop = np.repeat(starts[requests.row] + requests.history_end, requests.targets)
    length = np.repeat(np.minimum(requests.history_end, window), requests.targets)
    times = np.repeat(np.asarray(list_values(table, "request_time_ms")[0], np.int64), requests.targets)
    chosen = np.argsort(times, kind="stable") if sample is None else rng.permutation(len(stop))[:sample]
    for rows in _groups(chosen, length):
        indices = pa.array(ranges(stop[rows] - length[rows], length[rows]))
        offsets = pa.array(offsets_of(length[rows]).astype(np.int32))
        yield pa.table({name: pa.ListArray.from_arrays(offsets, flat[name][0].take(indices)) for name in columns})


def _groups(chosen: Ints, length: Ints) -> Iterator[Ints]:
    """Consecutive rows that make a row group each."""
    group = np.cumsum(length[chosen]) // GROUP_EVENTS
    yield from np.split(chosen, np.flatnonzero(np.diff(group)) + 1)
