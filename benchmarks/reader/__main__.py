"""Throughput of reading: history tokens a second that one core prepares for training, part by part.

    python -m benchmarks.reader [HOME ...] [--window-mean 2048] [--ranks 1]

CPU time of this process, one thread: decoding (Parquet, checks, joining a buffer), packing (a batch's windows out of a
decoded buffer) and looking up (ids to distinct table rows; on CUDA the device does that). Tokens are history events
that batches hold; the files hold whole user-days, so `used` says how many tokens came of one decoded event.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa
import torch

from benchmarks.arguments import run_main
from benchmarks.training.lake import make_lake, short_video
from longreel.contracts.argument_types import at_least
from longreel.contracts.config import ModelConfig, TrainingConfig
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.reader import ReaderState, TrainingReader
from longreel.model.data.row_groups import read_rows
from longreel.model.nn.embeddings import Embeddings
from longreel.model.training.device_loader import RowLookup


class Parts:
    """CPU seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add what the block takes."""
        began = time.process_time()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - began


def measure(lake: Lake, training: TrainingConfig, ranks: int, repetitions: int) -> dict[str, float]:
    """Read one epoch `repetitions` times, the parts in turn; the quickest counts, others share the machine."""
    manifests = [lake.require("samples", day) for day in lake.days("samples")]
    reader = TrainingReader(lake, manifests, ("click",), training, ranks=ranks)
    best: dict[str, float] = {}
    tokens = decoded = targets = batches = 0
    lookup = None
    for _ in range(repetitions):
        parts = Parts()
        tokens = decoded = targets = batches = 0
        for buffer, _, _ in reader._buffers_from(ReaderState()):
            with parts.timed("decode"):
                rows = read_rows(lake, buffer.groups)
            decoded += len(rows.history["time_ms"])
            for number in range(buffer.num_batches):
                with parts.timed("pack"):
                    batch = reader._rank_batch(rows, buffer, number, ReaderState()).batch
                if lookup is None:
                    encodings = learn_encodings(lake.log_schema, rows)
                    embeddings = Embeddings(ModelConfig(), lake.log_schema, encodings)
                    lookup = RowLookup(embeddings, torch.device("cpu"))
                with parts.timed("look up"):
                    lookup(batch)
                tokens += batch.num_events
                targets += batch.num_targets
                batches += 1
        best = {name: min(value, best.get(name, value)) for name, value in parts.seconds.items()}
    return best | {"tokens": tokens, "decoded": decoded, "targets": targets, "batches": batches}


def row(name: str, timing: dict[str, float]) -> str:
    """A line of the table."""
    tokens = timing["tokens"]
    reading = timing["decode"] + timing["pack"]

    def rate(amount: float, seconds: float) -> str:
        return f"{amount / seconds / 1e6:.1f} M"

    cells = [
        name,
        f"{timing['batches']:,}",
        f"{tokens:,}",
        f"{tokens / timing['decoded']:.2f}",
        rate(timing["decoded"], timing["decode"]),
        rate(tokens, timing["decode"]),
        rate(tokens, timing["pack"]),
        f"**{rate(tokens, reading)}**",
        f"{timing['decode'] / reading:.0%}",
        rate(tokens, timing["look up"]),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("homes", type=Path, nargs="*", help="homes with samples; default: a lake made for this")
    parser.add_argument("--window-mean", type=at_least(1), default=2_048)
    parser.add_argument("--window-max", type=at_least(1), default=10_240)
    parser.add_argument("--batch-tokens", type=at_least(1), default=65_536)
    parser.add_argument("--ranks", type=at_least(1), default=1, help="pack the first rank's part of so many")
    parser.add_argument("--repetitions", type=at_least(1), default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    training = TrainingConfig(batch_tokens=args.batch_tokens, window_mean=args.window_mean, window_max=args.window_max)
    print(
        "| lake | batches | tokens | used | decode, events/s | decode, tokens/s | pack, tokens/s | "
        "both, tokens/s a core | decode's share | look up, tokens/s |"
    )
    print("| --- " * 10 + "|")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        lakes = {home.name: Home(home).lake for home in args.homes}
        if not lakes:
            schema, users = short_video(1 << 20, 1 << 17), 256
            lakes = {"synthetic": make_lake(Path(folder), schema, days=2, users=users, history=args.window_max)}
        for name, lake in lakes.items():
            timing = measure(lake, training, args.ranks, args.repetitions)
            results[name] = timing
            print(row(name, timing), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    run_main(main)
