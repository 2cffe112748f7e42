"""Batch scoring: logits of sample rows at a window, in the rows' order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints, ranges
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.device_rows import DeviceRows
from longreel.model.data.row_groups import RowGroup, read_rows, row_groups
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.prefetch import Prefetcher

BATCH_TOKENS = {"cpu": 16_384, "cuda": 1_048_576}  # sized for a core's cache, and for a GPU's memory


def token_batches(tokens: Ints, budget: int) -> list[Ints]:
    """Requests, sorted by size, in runs of about `budget` tokens. tokens [R] -> arrays of request numbers."""
    order = np.argsort(tokens, kind="stable")
    run = (np.cumsum(tokens[order]) - 1) // budget
    cuts = np.flatnonzero(np.diff(run)) + 1
    return [part for part in np.split(order, cuts) if len(part)]


@dataclass(frozen=True)
class CachedLogits:
    """Logits [targets, tasks] of the same rows at a shorter window, which requests without more history keep."""

    window: int
    logits: NDArray[np.float32]


def score_rows(
    ranker: Ranker, rows: SampleRows, window: int, device: torch.device, cached: CachedLogits | None = None
) -> NDArray[np.float32]:
    """Logits of every target [targets, tasks], each request seeing its newest `window` events."""
    counts, lengths = rows.target_counts, rows.history_lengths
    tokens = np.minimum(lengths, window) + counts
    if cached is None:
        to_score = np.arange(rows.num_requests)
        out = np.zeros((int(rows.target_offsets[-1]), len(ranker.tasks)), np.float32)
    else:
        to_score = np.flatnonzero(lengths > cached.window)
        out = cached.logits.copy()

    def packed() -> Iterator[tuple[Ints, RequestBatch]]:
        for part in token_batches(tokens[to_score], BATCH_TOKENS[device.type]):
            yield to_score[part], packing.pack(to_score[part], window)

    packing = rows if device.type == "cpu" else DeviceRows.of(rows, device)
    with Prefetcher(packed(), depth=2) as batches:
        for requests, batch in batches:
            targets = ranges(rows.target_offsets[requests], counts[requests])
            out[targets] = score_batch(ranker, batch, device)
    return out


def score_batch(ranker: Ranker, batch: RequestBatch, device: torch.device) -> NDArray[np.float32]:
    """Logits of one batch [T, tasks]; bf16 on CUDA, float32 elsewhere."""
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = ranker(batch.to(device))
    return np.asarray(logits.float().cpu().numpy())


def predictions(ranker: Ranker, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """What logits [T, tasks] predict: probabilities, and values of number labels; float64 keeps those near 1 apart."""
    device = next(ranker.parameters()).device
    with torch.inference_mode():
        return np.asarray(ranker.values(torch.from_numpy(logits).to(device, torch.float64)).cpu().numpy())


def day_groups(lake: Lake, day: date) -> list[RowGroup]:
    """Row groups of a day's samples. Raises DataNotReadyError where the day is not published."""
    return row_groups(lake, [lake.require("samples", day)])[0]


def request_table(lake: Lake, groups: Sequence[RowGroup], rows: int, log_schema: LogSchema | None = None) -> pa.Table:
    """The first rows of a day as a request table to be scored, without labels; `log_schema` is the model's, by default
    the lake's."""
    schema = dataset_schemas(log_schema or lake.log_schema).request_table
    group = next((g for g in groups if g.num_requests), None)
    if group is None:
        return schema.empty_table()
    with lake.open_parquet(group.file) as file:
        table = file.read_row_group(group.index, columns=stored_columns(schema, file.schema_arrow.names))
    return to_schema(table.slice(0, rows), schema, f"samples in {group.file.path}")


def score_day(
    ranker: Ranker,
    lake: Lake,
    groups: Sequence[RowGroup],
    window: int,
    device: torch.device,
    selection: Callable[[SampleRows], SampleRows] = lambda rows: rows,
    cached: CachedLogits | None = None,
    on_group: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Logits of a day's targets [targets, tasks] in stored order, decoding one row group at a time.

    `selection` may choose among each row group's rows; `cached` are this call's logits at a shorter window. `on_group`
    is called after each row group with the share of the day's requests that are scored.
    """
    requests = max(1, sum(group.num_requests for group in groups))
    parts, start = [np.zeros((0, len(ranker.tasks)), np.float32)], 0
    for group in groups:
        rows = selection(read_rows(lake, [group], ranker.log_schema))
        stop = start + int(rows.target_offsets[-1])
        part = None if cached is None else CachedLogits(cached.window, cached.logits[start:stop])
        parts.append(score_rows(ranker, rows, window, device, part))
        start = stop
        on_group((group.first_request + group.num_requests) / requests)
    return np.concatenate(parts)
