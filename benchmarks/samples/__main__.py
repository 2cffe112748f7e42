"""Samples by longreel, as one row a target in Spark, and by DuckDB, side by side: `python -m benchmarks.samples WORK`.

Makes both logs under WORK (about 6 GB) where they are not there yet, runs every contender in a separate process, and
writes results.json and results.md beside this file. About half an hour on two cores.
"""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.arguments import run_main
from benchmarks.measure import Cost, python, run
from benchmarks.samples.drift_days import stopped_days
from benchmarks.samples.history_counts import history_counts
from benchmarks.samples.logs import filetouch, simulated
from benchmarks.samples.shuffled_rows import bytes_a_target
from benchmarks.samples.tables import write_tables
from longreel.contracts.dates import day_range
from longreel.lake.home import CONFIG_FILE, Home

HERE = Path(__file__).parent
REAL_START, REAL_END = date(2023, 9, 1), date(2026, 8, 22)
REAL_DAYS = 64  # of the comparison with exploded rows, which would fill 160 GB uncompressed over the whole log
WINDOWS = (512, 2_048, 10_240)
SIMULATED = {"users": 100_000, "events": 50_000_000, "days": 16}
SAMPLE = 4_000  # targets whose rows are written in random order or in that of time

Results = dict[str, Any]


class Bench:
    """One folder of homes, and the results so far; what is in the results file already is not run again."""

    def __init__(self, work: Path, source: Path, out: Path) -> None:
        self.work, self.source, self.out = work, source, out
        self.results: Results = json.loads(out.read_text()) if out.exists() else {}

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """A result, measured where it is missing, and saved at once."""
        if name not in self.results:
            print(name, flush=True)
            self.results[name] = measure()
            self.out.write_text(json.dumps(self.results, indent=1) + "\n")
        return self.results[name]

    def lake(self, name: str, make: Callable[[Path], Home]) -> Home:
        """A home with the events of a log, made where it is missing."""
        folder = self.work / name
        return Home(folder) if (folder / "lake").exists() else make(folder)

    def copy(self, home: Home, name: str, max_history: int, measured: str) -> Home:
        """Another home over the same events, without samples and compacted snapshots; left as it is where `measured` is
        among the results already."""
        folder = self.work / name
        if measured in self.results and folder.exists():
            return Home(folder)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "lake").mkdir(parents=True)
        lines = (home.path / CONFIG_FILE).read_text().splitlines()
        text = "\n".join(f"max_history = {max_history}" if line.startswith("max_history") else line for line in lines)
        (folder / CONFIG_FILE).write_text(text + "\n")
        for dataset in ("events", "users"):
            (folder / "lake" / dataset).symlink_to(home.path / "lake" / dataset)
        for bootstrap in sorted((home.path / "lake" / "history").glob("date=*"))[:1]:
            shutil.copytree(bootstrap, folder / "lake" / "history" / bootstrap.name)
        return Home(folder)


def size_of(folder: Path) -> int:
    """Bytes of the Parquet files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def events_in(folder: Path) -> tuple[int, int]:
    """History events stored under a folder, and rows."""
    files = str(folder / "**" / "*.parquet")
    import duckdb  # the README says how to get it; --help and the other contenders do without

    totals = duckdb.sql(f"SELECT sum(len(history_item_id)), count(*) FROM read_parquet('{files}')").fetchall()[0]
    return int(totals[0] or 0), int(totals[1])


def described(cost: Cost, folder: Path) -> Results:
    """A contender's cost and what it left on disk."""
    if cost.failed:
        return asdict(cost)
    events, rows = events_in(folder)
    return asdict(cost) | {"bytes": size_of(folder), "history_events": events, "rows": rows}


def longreel(home: Home, start: date, end: date) -> Results:
    """`longreel data build-samples` over a range."""
    words = ["--home", str(home.path), "--start", str(start), "--end", str(end), "--accept-drift"]
    return described(run(python("longreel", "data", "build-samples", *words)), home.path / "lake" / "samples")


def other(module: str, home: Home, out: Path, start: date, end: date) -> Results:
    """A contender's module over a range."""
    shutil.rmtree(out, ignore_errors=True)
    cost = run(python(f"benchmarks.samples.{module}", str(home.path), str(out), str(start), str(end)))
    return described(cost, out)


def compare(bench: Bench, home: Home, name: str, max_history: int, start: date, end: date, *, exploded: bool) -> None:
    """All contenders over one range of days of a log, at one `max_history`."""
    label = f"{name}, {max_history:,}"
    built = bench.copy(home, f"{name}-{max_history}", max_history, f"{label}: longreel")
    bench.once(f"{label}: longreel", lambda: longreel(built, start, end))
    out = bench.work / "other"
    bench.once(f"{label}: duckdb", lambda: other("duckdb_samples", built, out, start, end))
    if exploded:
        bench.once(f"{label}: exploded", lambda: other("exploded_samples", built, out, start, end))
    shutil.rmtree(out, ignore_errors=True)


def orders(bench: Bench, name: str, home: Home, start: date, end: date) -> None:
    """Bytes a target of exploded rows that do not lie user by user."""
    days = day_range(start, end)
    for window in WINDOWS:
        for order in ("time", "random"):

            def measure(window: int = window, order: str = order) -> float:
                return bytes_a_target(home.lake, days, window, SAMPLE, order)

            bench.once(f"{name}, {window:,}: bytes a target, rows in {order} order", measure)


def duckdb_in_ranges(bench: Bench, name: str, home: Home, start: date, end: date, days: int) -> None:
    """DuckDB over ranges that fit its memory, one after the other."""
    out = bench.work / "other"

    def measure() -> Results:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        costs = []
        for number, (first, last) in enumerate(_ranges(start, end, days)):
            words = [str(home.path), str(out / str(number)), str(first), str(last)]
            costs.append(run(python("benchmarks.samples.duckdb_samples", *words)))
        failed = next((cost.failed for cost in costs if cost.failed), None)
        total = Cost(seconds=sum(c.seconds for c in costs), peak_mib=max(c.peak_mib for c in costs), failed=failed)
        return described(total, out)

    bench.once(f"{name}: duckdb, {days} days at a time", measure)
    shutil.rmtree(out, ignore_errors=True)


def whole_log(bench: Bench, home: Home) -> None:
    """Every day of the real log."""
    name = "filetouch, whole log"
    built = bench.copy(home, "filetouch-whole", WINDOWS[-1], f"{name}: longreel")
    events = (built.lake.require("events", day).rows for day in day_range(REAL_START, REAL_END))
    bench.once(f"{name}: targets", lambda: float(sum(events)))
    bench.once(f"{name}: longreel", lambda: longreel(built, REAL_START, REAL_END))
    bench.once("stored once", lambda: history_counts(built.lake, day_range(REAL_START, REAL_END), WINDOWS))
    bench.once("days that drift stops", lambda: stopped_days(built))
    duckdb_in_ranges(bench, name, built, REAL_START, REAL_END, REAL_DAYS)
    out = bench.work / "other"
    bench.once(f"{name}: duckdb", lambda: other("duckdb_samples", built, out, REAL_START, REAL_END))
    shutil.rmtree(out, ignore_errors=True)


def _ranges(start: date, end: date, days: int) -> Iterator[tuple[date, date]]:
    while start <= end:
        yield start, min(end, start + timedelta(days=days - 1))
        start += timedelta(days=days)


def main() -> None:
    """Run what is missing from the results, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--source", type=Path, default=Path("../shared/data/filetouch"))
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(Path.cwd()))
    bench = Bench(args.work.absolute(), args.source, args.out)
    bench.work.mkdir(parents=True, exist_ok=True)
    real = bench.lake("filetouch", lambda folder: filetouch(args.source, folder, WINDOWS[-1]))
    end = REAL_START + timedelta(days=REAL_DAYS - 1)
    for window in WINDOWS:
        compare(bench, real, "filetouch", window, REAL_START, end, exploded=True)
    orders(bench, "filetouch", Home(bench.work / f"filetouch-{WINDOWS[-1]}"), REAL_START, end)
    whole_log(bench, real)
    large = bench.lake("simulated", lambda folder: simulated(folder, max_history=2_048, **SIMULATED))
    first = date(2026, 1, 1)
    last = first + timedelta(days=SIMULATED["days"] - 1)
    compare(bench, large, "simulated", 2_048, first, last, exploded=False)
    bench.once(
        "simulated, 2,048: targets",
        lambda: float(SIMULATED["events"] // SIMULATED["days"] // 6 * 6 * SIMULATED["days"]),
    )
    duckdb_in_ranges(bench, "simulated, 2,048", Home(bench.work / "simulated-2048"), first, last, 4)
    day = bench.copy(large, "simulated-day", 2_048, "simulated, last day: longreel")
    bench.once("simulated, last day: longreel", lambda: longreel(day, last, last))
    bench.once("simulated, last day: duckdb", lambda: other("duckdb_samples", day, bench.work / "other", last, last))
    bench.once("age", lambda: json.loads(_last_line(python("benchmarks.samples.age", str(bench.work / "age")))))
    write_tables(bench.results, args.out.with_suffix(".md"))


def _last_line(command: list[str]) -> str:
    """The last line that a command prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    run_main(main)
