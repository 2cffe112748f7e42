"""Row groups of samples partitions: what each holds, and their decoding into flat arrays."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints, list_values, offsets_of
from longreel.contracts.log_schema import Column, LogSchema
from longreel.lake.files import PublishedFile
from longreel.lake.manifest import Manifest
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.table import Lake
from longreel.model.data.columns import rows_schema
from longreel.model.data.samples import SampleRows

MAX_DECODE_THREADS = {"cpu": 8, "cuda": 16}  # enough for any step yet measured
_BYTES = {"INT64": 8, "INT32": 4, "FLOAT": 4, "BYTE_ARRAY": 0}
TORCH_TYPES = {pa.int64(): torch.int64, pa.int32(): torch.int32, pa.float32(): torch.float32}


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """One Parquet row group of a samples partition."""

    file: PublishedFile
    index: int  # in its file
    size_bytes: int  # decoded, an upper bound
    max_events: int  # an upper bound of its history events
    first_request: int  # ordinal of its first request among those of all row groups
    num_requests: int


def row_groups(lake: Lake, manifests: Sequence[Manifest]) -> tuple[list[RowGroup], Ints, Ints]:
    """All row groups of some partitions, with the visible events [R] and the targets [R] of each of their requests."""
    groups: list[RowGroup] = []
    events: list[Ints] = [np.zeros(0, np.int64)]
    targets: list[Ints] = [np.zeros(0, np.int64)]
    first = 0
    for manifest in manifests:
        for file in lake.files(manifest):
            with lake.open_parquet(file) as parquet:
                for index in range(parquet.num_row_groups):
                    group_events, group_targets = _request_sizes(parquet, index)
                    events.append(group_events)
                    targets.append(group_targets)
                    size, max_events = _decoded_size(parquet.metadata.row_group(index))
                    groups.append(
                        RowGroup(
                            file=file,
                            index=index,
                            size_bytes=size,
                            max_events=max_events,
                            first_request=first,
                            num_requests=len(group_events),
                        )
                    )
                    first += len(group_events)
    return groups, np.concatenate(events), np.concatenate(targets)


def _request_sizes(file: pq.ParquetFile, index: int) -> tuple[Ints, Ints]:
    """Visible events and targets of each request of a row group."""
    table = file.read_row_group(index, columns=["request_history_end", "request_target_end"])
    events, _ = list_values(table, "request_history_end")
    target_ends, offsets = list_values(table, "request_target_end")
    stops = np.asarray(target_ends, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), stops])[:-1]
    starts[offsets[:-1][offsets[:-1] < len(stops)]] = 0  # each row counts its targets from 0
    return np.asarray(events, np.int64), stops - starts


def _decoded_size(meta: pq.RowGroupMetaData) -> tuple[int, int]:
    """Bytes of a row group once decoded, and its history events; both at most, an empty list counting as a value.

    Request ids, the only text, are not decoded. Parquet's own sizes are of encoded pages, often a fifth of that.
    """
    columns = [meta.column(i) for i in range(meta.num_columns)]
    events = next(c.num_values for c in columns if c.path_in_schema.startswith("history_time_ms."))
    return sum(_BYTES[c.physical_type] * int(c.num_values) for c in columns), int(events)


def read_rows(
    lake: Lake,
    groups: Sequence[RowGroup],
    log_schema: LogSchema | None = None,
    threads: int = 1,
    pin_memory: bool = False,
) -> SampleRows:
    """Decode row groups, in the order given. Between the events of several groups lie gaps that no request reads.

    Args:
        log_schema: of the columns to read, by default the lake's; labels are always the lake's.
        pin_memory: decode into page-locked memory, which a GPU copies from, with every core, columns in parallel.
    """
    log_schema = log_schema or lake.log_schema
    if not groups:
        return SampleRows.from_arrow(
            rows_schema(log_schema, lake.log_schema).empty_table(), log_schema, lake.log_schema
        )
    if len(groups) == 1:
        return _read_group(lake, groups[0], log_schema, pin_memory)
    starts = offsets_of(np.array([group.max_events for group in groups])).tolist()
    # Filled part by part: decoded parts need not all be in memory at once, nor be copied one after another.
    history = {column.name: _empty(column, starts[-1], pin_memory) for column in log_schema.event_columns}

    def decode(group: RowGroup, start: int) -> SampleRows:
        part = _read_group(lake, group, log_schema, pin_memory)
        for name, values in part.history.items():
            history[name][start : start + len(values)] = values
        return replace(part, history={})

    with ThreadPoolExecutor(threads, "decode") as workers:
        parts = list(workers.map(decode, groups, starts[:-1]))
    return SampleRows.concat(parts, history, starts[:-1])


def _empty(column: Column, events: int, pin_memory: bool) -> NDArray[Any]:
    shape = (events,) if column.size == 1 else (events, column.size)
    return torch.empty(shape, dtype=TORCH_TYPES[column.type], pin_memory=pin_memory).numpy()


def _read_group(lake: Lake, group: RowGroup, log_schema: LogSchema, use_threads: bool) -> SampleRows:
    schema = rows_schema(log_schema, lake.log_schema)
    with lake.open_parquet(group.file) as file:
        table = file.read_row_group(
            group.index, columns=stored_columns(schema, file.schema_arrow.names), use_threads=use_threads
        )
    return SampleRows.from_arrow(to_schema(table, schema, f"samples in {group.file.path}"), log_schema, lake.log_schema)


def num_decode_threads(device: torch.device) -> int:
    """Threads that decode for one rank: on a CPU half of its cores, as the step wants some too, else all but two."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_DECODE_THREADS[device.type], cores // 2 if device.type == "cpu" else cores - 2))
