"""Cost of lopsided days: millions of users with one event each, or one user with all events.

    python benchmarks/skew/lopsided_days.py many-users /tmp/many --users 10000000
    python benchmarks/skew/lopsided_days.py one-user /tmp/one --events 250000

Writes a raw day of Parquet, then runs `longreel data ingest` and `longreel data build-samples` as processes
under the local default (a driver of 2 GiB). It prints seconds and the greatest resident memory of the JVM, of the
step's Python, and of Spark's Python workers together, sampled twice a second.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.arguments import run_main
from longreel.contracts.argument_types import at_least

DAY = "2026-03-02"
MIDNIGHT_MS = 1_772_409_600_000
DAY_MS = 86_400_000
FILE_ROWS = 1_000_000
CONFIG = """name = "skew"
tasks = ["click"]

[source]
kind = "generic"
log = "raw"

[fields.item]
duration_ms = {kind = "number"}

[fields.event]
play_ms = {kind = "number"}
"""


def write_day(home: Path, users: int, events: int, seed: int = 0) -> None:
    """`events` rows of `users`, in random order of time, every user about equally often."""
    folder, rng = home / "raw" / f"date={DAY}", np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (home / "longreel.toml").write_text(CONFIG)
    for first in range(0, events, FILE_ROWS):
        rows = min(FILE_ROWS, events - first)
        duration = rng.integers(5_000, 60_000, rows)
        columns = {
            "user_id": (np.arange(first, first + rows) % users).astype(np.int64),
            "item_id": rng.integers(0, 1_000_000, rows),
            "time_ms": MIDNIGHT_MS + rng.integers(0, DAY_MS, rows),
            "click": (rng.random(rows) < 1 / 3).astype(np.int64),
            "play_ms": (duration * rng.random(rows)).astype(np.int64),
            "duration_ms": duration,
        }
        pq.write_table(pa.table(columns), folder / f"part-{first // FILE_ROWS:03d}.parquet", compression="zstd")


def resident(process: psutil.Process) -> dict[str, int]:
    """Bytes resident now: of the JVM, the step itself, and the workers that the JVM started. Forked workers share
    pages; those count once (proportional set size)."""
    sizes = {"jvm": 0, "step": 0, "workers": 0}
    for member in [process, *process.children(recursive=True)]:
        try:
            if member.name() == "java":
                sizes["jvm"] += member.memory_info().rss
            else:
                kind = "step" if member == process else "workers"
                sizes[kind] += member.memory_full_info().pss
        except psutil.Error:
            continue
    return sizes


def measure(home: Path, words: str) -> None:
    """Run a command for the day and print what it took."""
    command = [sys.executable, "-m", "longreel", *words.split(), "--home", str(home), "--date", DAY]
    began, peak = time.monotonic(), {"jvm": 0, "step": 0, "workers": 0}
    with subprocess.Popen(command) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            now = resident(watched)
            peak = {name: max(peak[name], now[name]) for name in peak}
            time.sleep(0.5)
    memory = ", ".join(f"{name} {value / 2**20:,.0f} MiB" for name, value in peak.items())
    print(f"{words}: exit {process.returncode}, {time.monotonic() - began:.0f} s, at most {memory}", flush=True)


def show_files(home: Path) -> None:
    """Files and row groups of the samples, as a reader meets them."""
    for path in sorted((home / "lake" / "samples").rglob("*.parquet")):
        metadata = pq.ParquetFile(path).metadata
        sizes = [metadata.row_group(n).total_byte_size / 2**20 for n in range(metadata.num_row_groups)]
        rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        size = path.stat().st_size / 2**20
        print(
            f"{path.name}: {size:.1f} MiB, {len(sizes)} row groups of {min(sizes):.1f} .. {max(sizes):.1f} MiB", end=""
        )
        print(f" decoded and {min(rows):,} .. {max(rows):,} users")


def main() -> None:
    """Write the day and run both steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("many-users", "one-user"))
    parser.add_argument("home", type=Path, help="home folder to be made")
    parser.add_argument("--users", type=at_least(1), default=10_000_000)
    parser.add_argument("--events", type=at_least(1), default=250_000)
    args = parser.parse_args()
    users, events = (args.users, args.users) if args.kind == "many-users" else (1, args.events)
    write_day(args.home, users, events)
    for words in ("data ingest", "data build-samples"):
        measure(args.home, words)
    show_files(args.home)


if __name__ == "__main__":
    run_main(main)
