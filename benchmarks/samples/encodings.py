"""Encodings of each column of a sample file: bytes, and time to write and read.

python -m benchmarks.samples.encodings HOME [--days 64]
"""

import argparse
import io
import time

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.arguments import existing_home, run_main
from longreel.contracts.argument_types import at_least
from longreel.lake.home import Home

CHOICES: dict[str, dict[str, object]] = {
    "plain": {"use_dictionary": False, "column_encoding": "PLAIN"},
    "dictionary": {"use_dictionary": True},
    "delta": {"use_dictionary": False, "column_encoding": "DELTA_BINARY_PACKED"},
    "split": {"use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT"},
}


def measure(table: pa.Table, rows_a_group: int, level: int, choice: dict[str, object]) -> tuple[int, float, float]:
    """Bytes, and seconds to write and to read (best of three) one column on one core."""
    times = []
    for _ in range(3):
        sink = io.BytesIO()
        began = time.perf_counter()
        pq.write_table(table, sink, row_group_size=rows_a_group, compression="zstd", compression_level=level, **choice)
        wrote = time.perf_counter() - began
        began = time.perf_counter()
        pq.read_table(pa.BufferReader(sink.getbuffer()), use_threads=False)
        times.append((wrote, time.perf_counter() - began))
    return sink.tell(), min(t[0] for t in times), min(t[1] for t in times)


def main() -> None:
    """Print a table: a line for each column, encoding and compression level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=existing_home)
    parser.add_argument("--days", type=at_least(1), default=64)
    parser.add_argument("--levels", type=at_least(1), nargs="+", default=[1, 3, 9])
    args = parser.parse_args()
    lake = Home(args.home).lake
    days = list(lake.days("samples"))[-args.days :]
    table = pa.concat_tables([lake.read(lake.require("samples", day)) for day in days]).combine_chunks()
    events = sum(lake.require("samples", day).counts["history_events"] for day in days)
    rows_a_group = max(1, round(table.num_rows * (1 << 20) / events))
    print(f"{table.num_rows:,} rows, {events:,} history events, {rows_a_group} rows a row group")
    print("column | encoding | level | bytes a value | write M values/s | read M values/s")
    for field in lake.schemas.samples:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        column = table.select([field.name])
        values = column.column(0).combine_chunks()
        count = len(values.flatten()) if pa.types.is_list(field.type) else len(values)
        for name, choice in CHOICES.items():
            if count == 0 or (pa.types.is_string(kind) and name in ("delta", "split")):
                continue
            for level in args.levels:
                size, write, read = measure(column, rows_a_group, level, choice)
                speeds = f"{count / write / 1e6:.0f} | {count / read / 1e6:.0f}"
                print(f"{field.name} | {name} | {level} | {size / count:.3f} | {speeds}")


if __name__ == "__main__":
    run_main(main)
