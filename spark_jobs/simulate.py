"""`longreel simulate`: days of a simulated raw log, for trying the pipeline without data.

A home's `[source] kind` says which: `simulated`, a short-video app, or `shop`.

    <home>/raw/simulation.json                 the log's settings; later days continue with them
    <home>/raw/users.parquet                   what describes the users
    <home>/raw/history/2025-12.parquet         with --bootstrap-days: older history, for `longreel data import-history`
    <home>/raw/date=2026-01-05/log.parquet     one row per impression
    <home>/truth/date=2026-01-05/truth.parquet the probability of every label, row by row

Nothing of the pipeline reads truth/: models are measured against it (benchmarks/extrapolation/oracle.py).
A day depends on the settings and its date alone, so any day can be simulated again. NumPy and pyarrow, no Spark.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.argument_types import at_least, number_between
from longreel.contracts.config import SIMULATED
from longreel.contracts.dates import day_range, parse_day
from longreel.contracts.errors import LongreelError
from longreel.contracts.local_files import replacing
from longreel.contracts.serialization import read_json
from longreel.lake.home import Home
from longreel.spark_jobs.simulated_logs import SIMULATED_LOGS, SimulatedLog
from longreel.spark_jobs.simulated_shop import ShopSettings
from longreel.spark_jobs.simulated_world import WorldSettings

SETTINGS = "simulation.json"
LOG = "log.parquet"
TRUTH = "truth"
SETTING_HELP = {
    "start": "first day of a new log",
    "users": "users of a new log on its first day",
    "items": "items of a new log on its first day",
    "seed": "seed of a new log",
    "activity": "impressions a day of a new log's median user",
    "interests": "lasting interests of a user of a new log (shop: loyal brands); more make longer histories useful",
    "user_growth": "users that join a new log every day, as a share of --users",
    "item_growth": "items that join a new log every day, as a share of --items",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel simulate`."""
    parser.add_argument(
        "--days", type=at_least(1), default=1, help="days to append after the last one present (default 1)"
    )
    parser.add_argument(
        "--bootstrap-days", type=at_least(0), help="days before a new log's first, as older history for import-history"
    )
    video, shop = WorldSettings(), ShopSettings()
    kinds: dict[type, Callable[[str], Any]] = {int: at_least(0), float: number_between(0, 100), str: str}
    for name, text in SETTING_HELP.items():
        default, of_shop = getattr(video, name), getattr(shop, name)
        shown = f"{default}" if of_shop == default else f"{default}; shop: {of_shop}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kinds[type(default)], help=f"{text} (default {shown})")
    parser.add_argument(
        "--no-long-range",
        dest="long_range",
        action="store_const",
        const=False,
        help="a control: nothing that a user of a new log likes outlives a session, so long windows have no signal",
    )


def simulated_log(home: Home) -> type[SimulatedLog]:
    """The simulated log that a home reads.

    Raises:
        LongreelError: it reads another source.
    """
    kind = home.config.source.kind
    if kind not in SIMULATED:
        presets = " or ".join(SIMULATED)
        raise LongreelError(f"{home.path} reads source {kind!r}; simulate needs a home of the preset {presets}")
    return SIMULATED_LOGS[kind]


def settings_of(log: type[SimulatedLog], folder: Path, options: dict[str, Any]) -> WorldSettings:
    """The log's settings: those it was started with, or for a new log the options.

    Raises:
        LongreelError: an option differs from what the log was started with, or is out of range.
    """
    options = {name: value for name, value in options.items() if value is not None}
    new = log.settings_class(**options)
    path = folder / SETTINGS
    if not path.exists():
        return new
    stored = read_json(path, "restore it, or simulate into another home")
    for name, value in (options | {"version": log.version}).items():
        if stored.get(name) != value:
            raise LongreelError(
                f"{folder} was simulated with {name}={stored.get(name)}, not {value}; "
                f"leave --{name.replace('_', '-')} out, or simulate into another home"
            )
    stored.pop("version")
    return log.settings_class(**stored)


def days_present(folder: Path) -> list[date]:
    """The days of the log so far, oldest first; only those whose file is complete."""
    return sorted(parse_day(path.parent.name.removeprefix("date=")) for path in folder.glob(f"date=*/{LOG}"))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file that is either complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd")


def begin(log: SimulatedLog, folder: Path) -> None:
    """Write the user table and the settings of a new log."""
    if not (folder / SETTINGS).exists():
        write_table(log.users(), folder / "users.parquet")
        (folder / SETTINGS).write_text(json.dumps(asdict(log.settings) | {"version": log.version}))


def write_bootstrap(log: SimulatedLog, folder: Path, days: int) -> None:
    """Write the impressions of the days before the log's first that enter the history, a file a month."""
    first = parse_day(log.settings.start)
    before = day_range(first - timedelta(days=days), first - timedelta(days=1))
    total, started = 0, time.monotonic()
    for month, group in groupby(before, key=lambda day: f"{day:%Y-%m}"):
        table = pa.concat_tables([log.history(day) for day in group])
        total += table.num_rows
        write_table(table, folder / "history" / f"{month}.parquet")
        print(f"older history {month}: {total:,} events in {time.monotonic() - started:.1f} s", flush=True)
    print(f"import it with: longreel data import-history --through {before[-1]}", flush=True)


def run(args: argparse.Namespace, home: Home) -> None:
    """Append `args.days` days; with --bootstrap-days, after older history of a new log."""
    if args.days < 1:
        raise LongreelError(f"--days: expected at least 1, got {args.days}")
    log_class, folder = simulated_log(home), home.log
    options = {setting.name: getattr(args, setting.name) for setting in fields(WorldSettings)}
    present = days_present(folder)
    if present and args.start and args.start != present[0].isoformat():
        raise LongreelError(
            f"the log in {folder} starts on {present[0]}; leave --start out to continue after {present[-1]}"
        )
    settings = settings_of(log_class, folder, options)
    if args.bootstrap_days is not None and (present or args.bootstrap_days < 1):
        raise LongreelError("--bootstrap-days: expected a positive number, and a log without days so far")
    log = log_class(settings)
    begin(log, folder)
    if args.bootstrap_days is not None:
        write_bootstrap(log, folder, args.bootstrap_days)
    first = present[-1] + timedelta(days=1) if present else parse_day(settings.start)
    for number in range(args.days):
        _write_day(log, first + timedelta(days=number), home)


def _write_day(log: SimulatedLog, day: date, home: Home) -> None:
    started = time.monotonic()
    rows, truth = log.day(day)
    write_table(truth, home.path / TRUTH / f"date={day}" / "truth.parquet")
    write_table(rows, home.log / f"date={day}" / LOG)
    print(f"simulated {day}: {rows.num_rows:,} rows in {time.monotonic() - started:.1f} s", flush=True)
