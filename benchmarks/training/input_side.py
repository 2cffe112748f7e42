"""Bytes that the input side reads and writes per history token, counted over every operation, before and after.

    python -m benchmarks.training.input_side [--width 256] [--events 65536]

`a table a field` is this project's earlier look-up: a dense embedding per field with rows computed in the step,
concatenated, action bits multiplied, a gradient of the whole table. `rows once` is model/nn/embeddings.py.
Bytes are those of the tensors that each eager operation reads and writes, forward and backward; a compiled step fuses
some of them away. bf16 is autocast's, as on CUDA.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.training.longest import one_request
from longreel.contracts.actions import ACTIONS
from longreel.contracts.config import ModelConfig
from longreel.model.data.batch import RequestBatch, segment_ids
from longreel.model.data.hashing import bucket
from longreel.model.nn.embeddings import (
    CONTEXT_ROWS,
    CONTEXT_SIZES,
    CONTEXT_STARTS,
    Embeddings,
    age_bucket,
    duration_bucket,
    play_ratio_bucket,
    position_bucket,
)
from longreel.model.training.device_loader import RowLookup

FREE = {"aten.view.default", "aten.detach.default", "aten.t.default", "aten.transpose.int", "aten.select.int"}
FREE |= {
    "aten.slice.Tensor",
    "aten.unsqueeze.default",
    "aten.squeeze.dim",
    "aten.expand.default",
    "aten.split_with_sizes.default",
}
FREE |= {"aten._unsafe_view.default", "aten.alias.default", "aten.empty.memory_format", "aten.as_strided.default"}


class ByteCount(TorchDispatchMode):
    """Sums what operations read and write; a lookup reads as much as it writes, not its whole table."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run."""
        out = func(*args, **(kwargs or {}))
        name = str(func)
        if name not in FREE:
            written = _size(out)
            lookup = any(
                part in name for part in ("aten.embedding.", "_embedding_bag.", "index_select", "index.Tensor")
            )
            self.bytes += 2 * written if lookup else written + _size(args)
        return out


def _size(values: Any) -> int:
    if isinstance(values, Tensor):
        return 0 if values.is_sparse else values.numel() * values.element_size()
    return sum(map(_size, values)) if isinstance(values, list | tuple) else 0


class TableAField(nn.Module):
    """The input side as it was."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, e = config.width, config.embedding_width
        sizes = {"item_id": config.item_buckets, "author_id": config.author_buckets, "tag": config.tag_buckets}
        self.tables = nn.ModuleDict({name: nn.Embedding(size, e) for name, size in sizes.items()})
        self.context = nn.EmbeddingBag(CONTEXT_ROWS, d, mode="sum")
        self.fuse, self.actions = nn.Linear(3 * e, d), nn.Linear(len(ACTIONS), d, bias=False)
        self.norm, self.bits = nn.LayerNorm(d), torch.tensor(list(ACTIONS.values()))

    def history(self, batch: RequestBatch) -> Tensor:
        """X [H, D]."""
        fields = batch.history
        request = segment_ids(batch.history_offsets, batch.num_events)
        newest = batch.history_offsets[1:][request] - 1
        features = {
            "surface": bucket(fields["surface"], CONTEXT_SIZES["surface"]),
            "duration": duration_bucket(fields["duration_ms"]),
            "play_ratio": play_ratio_bucket(fields["play_ms"], fields["duration_ms"]),
            "age": age_bucket(batch.request_time_ms[request] - fields["time_ms"]),
            "position": position_bucket(newest - torch.arange(batch.num_events)),
        }
        rows = torch.stack([CONTEXT_STARTS[name] + row.long() for name, row in features.items()], dim=1)
        context = self.context(rows)
        vectors = [table(bucket(fields[name], table.num_embeddings)) for name, table in self.tables.items()]
        bits = ((fields["actions"][:, None] & self.bits) != 0).to(context.dtype)
        out: Tensor = self.norm(self.fuse(torch.cat(vectors, dim=-1)) + self.actions(bits) + context)
        return out


def measure(step: Callable[[], Tensor], events: int, half: bool) -> tuple[float, float]:
    """Bytes and nanoseconds a token, forward and backward; the quickest of five."""

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = step()
        out.backward(gradient.to(out.dtype))

    gradient = torch.ones_like(step())
    counter = ByteCount()
    with counter:
        run()
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return counter.bytes / events, 1e9 * best / events


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--events", type=int, default=65_536)
    args = parser.parse_args()
    config = ModelConfig(width=args.width, heads=8, dropout=0.0)
    batch, cpu = one_request(args.events, 16, torch.device("cpu")), torch.device("cpu")
    before, after = TableAField(config), Embeddings(config, 0)
    lookup = RowLookup(after, cpu)
    ahead = lookup(batch)

    def once() -> Tensor:
        for p in after.parameters():
            p.grad = None
        return after.history(after.gather(ahead))

    def apart() -> Tensor:
        for p in before.parameters():
            p.grad = None
        return before.history(batch)

    counter = ByteCount()
    with counter:
        lookup(batch)
    where = f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.events:,} events, d = {args.width}, tables of {after.ids.num_rows:,} rows; {where}")
    print("| path | fp32, bytes a token | fp32, ns a token | bf16, bytes a token |")
    print("| --- | --- | --- | --- |")
    for name, step in (("a table a field", apart), ("rows once", once)):
        moved, took = measure(step, args.events, half=False)
        narrow, _ = measure(step, args.events, half=True)
        print(f"| {name} | {moved:,.0f} | {took:,.0f} | {narrow:,.0f} |")
    print(f"looking up rows, during the step before: {counter.bytes / args.events:,.0f} bytes a token")
    sent = sum(t.element_size() for t in batch.history.values())
    print(f"sent to the device: {sent} bytes a token")
    return 0


if __name__ == "__main__":
    sys.exit(main())
