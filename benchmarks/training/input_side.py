"""Bytes and time that the input side takes per history token, for a log schema and with one more field of each kind.

    python -m benchmarks.training.input_side [--width 256] [--events 65536]

`held` is what a decoded row and a batch hold of a history event. `look up` counts the bytes that finding table rows
reads and writes, during the step before; `fp32` and `bf16` those of the step, forward and backward: what each eager
operation reads and writes. A compiled step fuses some of them away. bf16 is autocast's, as on CUDA.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.arguments import run_main
from benchmarks.training.lake import short_video
from benchmarks.training.longest import one_request
from longreel.contracts.argument_types import at_least
from longreel.contracts.config import ModelConfig
from longreel.contracts.log_schema import Field, LogSchema
from longreel.model.data.encodings import Encodings
from longreel.model.nn.embeddings import Embeddings
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


MORE = {
    "a short-video log": None,
    "+ an id": Field(name="more", place="item", kind="id"),
    "+ a category": Field(name="more", place="item", kind="category"),
    "+ a number": Field(name="more", place="item", kind="number"),
    "+ a multi of 4": Field(name="more", place="item", kind="multi", size=4),
    "+ a vector of 64": Field(name="more", place="item", kind="vector", size=64),
}


def line(what: str, log_schema: LogSchema, width: int, events: int) -> str:
    """A line of the table."""
    cpu = torch.device("cpu")
    batch = one_request(log_schema, events, 16, cpu)
    embeddings = Embeddings(ModelConfig(width=width, heads=8, dropout=0.0), log_schema, Encodings())
    lookup, counter = RowLookup(embeddings, cpu), ByteCount()
    with counter:
        ahead = lookup(batch)

    def step() -> Tensor:
        for p in embeddings.parameters():
            p.grad = None
        return embeddings.history(embeddings.gather(ahead))

    moved, took = measure(step, events, half=False)
    narrow, _ = measure(step, events, half=True)
    held = sum(values.nbytes for values in batch.history.values()) / events
    cells = (f"{number:,.0f}" for number in (held, counter.bytes / events, moved, took, narrow))
    return "| " + " | ".join((what, *cells)) + " |"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=at_least(1), default=256)
    parser.add_argument("--events", type=at_least(1), default=65_536)
    args = parser.parse_args()
    base = short_video()
    print(f"{args.events:,} events, d = {args.width}; CPU, {torch.get_num_threads()} threads; per history token")
    print("| log | held, bytes | look up, bytes | fp32, bytes | fp32, ns | bf16, bytes |")
    print("| --- | --- | --- | --- | --- | --- |")
    for what, field in MORE.items():
        log_schema = base if field is None else replace(base, fields=(*base.fields, field))
        print(line(what, log_schema, args.width, args.events), flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
