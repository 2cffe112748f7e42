"""What does a model say of these rows, seen through this window? Logits in the rows' own order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints, ranges
from longreel.contracts.schemas import REQUEST_TABLE
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch
from longreel.model.data.device_rows import DeviceRows
from longreel.model.data.row_groups import RowGroup, read_rows, row_groups
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.prefetch import Prefetcher

BATCH_TOKENS = {"cpu": 16_384, "cuda": 1_048_576}  # a core's cache and a card's memory ask for different sizes


def token_batches(tokens: Ints, budget: int) -> list[Ints]:
    """Requests, sorted by size, in runs of about `budget` tokens. tokens [R] -> arrays of request numbers."""
    order = np.argsort(tokens, kind="stable")
    run = (np.cumsum(tokens[order]) - 1) // budget
    cuts = np.flatnonzero(np.diff(run)) + 1
    return [part for part in np.split(order, cuts) if len(part)]


@dataclass(frozen=True)
class Known:
    """Logits [targets, tasks] of the same rows at a shorter window: whoever has no more history keeps them."""

    window: int
    logits: NDArray[np.float32]


def score_rows(
    ranker: Ranker, rows: SampleRows, window: int, device: torch.device, known: Known | None = None
) -> NDArray[np.float32]:
    """Logits of every target [targets, tasks], each request seeing its newest `window` events."""
    counts, lengths = rows.target_counts, rows.history_lengths
    tokens = np.minimum(lengths, window) + counts
    if known is None:
        asked = np.arange(rows.num_requests)
        out = np.zeros((int(rows.target_offsets[-1]), len(ranker.tasks)), np.float32)
    else:
        asked = np.flatnonzero(lengths > known.window)
        out = known.logits.copy()

    def packed() -> Iterator[tuple[Ints, RequestBatch]]:
        for part in token_batches(tokens[asked], BATCH_TOKENS[device.type]):
            yield asked[part], packing.pack(asked[part], window)

    packing = rows if device.type == "cpu" else DeviceRows.of(rows, device)
    with Prefetcher(packed(), depth=2) as batches:
        for requests, batch in batches:
            where = ranges(rows.target_offsets[requests], counts[requests])
            out[where] = score_batch(ranker, batch, device)
    return out


def score_batch(ranker: Ranker, batch: RequestBatch, device: torch.device) -> NDArray[np.float32]:
    """Logits of one batch [T, tasks]; bf16 on CUDA, float32 elsewhere."""
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = ranker(batch.to(device))
    return np.asarray(logits.float().cpu().numpy())


def day_groups(lake: Lake, day: date) -> list[RowGroup]:
    """Row groups of a day's samples. Raises DataNotReadyError where the day is not published."""
    return row_groups(lake, [lake.require("samples", day)])[0]


def request_table(lake: Lake, groups: Sequence[RowGroup], rows: int) -> pa.Table:
    """The first rows of a day as somebody who wants them scored would send them: a request table, without labels."""
    group = next((g for g in groups if g.num_requests), None)
    if group is None:
        return REQUEST_TABLE.empty_table()
    with lake.open_parquet(group.path) as file:
        found = file.read_row_group(group.index, columns=stored_columns(REQUEST_TABLE, file.schema_arrow.names))
    return to_schema(found.slice(0, rows), REQUEST_TABLE, f"samples in {group.path}")


def score_day(
    ranker: Ranker,
    lake: Lake,
    groups: Sequence[RowGroup],
    window: int,
    device: torch.device,
    on_rows: Callable[[SampleRows], SampleRows] = lambda rows: rows,
    known: Known | None = None,
) -> NDArray[np.float32]:
    """Logits of a day's targets [targets, tasks] in stored order, decoding one row group at a time.

    `on_rows` may select among each row group's rows; `known` are this call's logits at a shorter window.
    """
    parts, at = [np.zeros((0, len(ranker.tasks)), np.float32)], 0
    for group in groups:
        rows = on_rows(read_rows(lake, [group]))
        end = at + int(rows.target_offsets[-1])
        own = None if known is None else Known(known.window, known.logits[at:end])
        parts.append(score_rows(ranker, rows, window, device, own))
        at = end
    return np.concatenate(parts)
