"""`longreel simulate`: writes days of a simulated raw log in the generic format, for trying the pipeline without data.

    <home>/raw/simulation.json                 what the log was made with; later days go on with it
    <home>/raw/users.parquet                   categorical user features
    <home>/raw/history/2025-12.parquet         with --archive-days: older behaviours, for `longreel data import-history`
    <home>/raw/date=2026-01-05/log.parquet     one row per impression
    <home>/truth/date=2026-01-05/truth.parquet the probability that every label was drawn with, row by row

Nothing of the pipeline reads truth/: it is what a model is measured against (benchmarks/extrapolation/oracle.py).
A day depends on the settings and its date alone, so any day can be made again. NumPy and pyarrow, no Spark.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, fields
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.dates import day_range, parse_day
from longreel.contracts.errors import LongreelError
from longreel.contracts.serialization import read_json
from longreel.lake.home import Home
from longreel.spark_jobs.simulated_day import Impressions, day_file, raw_rows, simulate_day
from longreel.spark_jobs.simulated_world import World, WorldSettings, make_world, user_columns

SETTINGS = "simulation.json"
LOG = "log.parquet"
TRUTH = "truth"
SIMULATION_VERSION = 2
ABOUT = {
    "start": "first day of a new log",
    "users": "users of a new log on its first day",
    "items": "items of a new log on its first day",
    "seed": "seed of a new log",
    "activity": "impressions a day of a new log's median user",
    "interests": "lasting interests of a user of a new log: the more, the longer the histories that pay",
    "user_growth": "users that join a new log every day, as a share of --users",
    "item_growth": "items that join a new log every day, as a share of --items",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel simulate`."""
    parser.add_argument("--days", type=int, default=1, help="days to append after the last one present (default 1)")
    parser.add_argument("--archive-days", type=int, help="days before a new log's first, as one archive of behaviours")
    defaults = WorldSettings()
    for name, about in ABOUT.items():
        default = getattr(defaults, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), help=f"{about} (default {default})")
    parser.add_argument(
        "--no-long-range",
        dest="long_range",
        action="store_const",
        const=False,
        help="a control: nothing that a user of a new log likes outlives a session, so long windows tell nothing",
    )


def raw_folder(home: Home) -> Path:
    """Where the simulated log lies.

    Raises:
        LongreelError: this home reads another source.
    """
    kind = home.config.source.kind
    if kind != "simulated":
        raise LongreelError(f"{home.path} reads source {kind!r}; simulate needs a home made with the simulated preset")
    return home.log


def settings_of(folder: Path, asked: dict[str, Any]) -> WorldSettings:
    """The log's settings: those it was begun with, or the ones asked for where it is new.

    Raises:
        LongreelError: what is asked differs from what the log was begun with, or is out of range.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    wanted = WorldSettings(**given)
    path = folder / SETTINGS
    if not path.exists():
        return wanted
    known = read_json(path, "restore it, or simulate into another home")
    for name, value in (given | {"version": SIMULATION_VERSION}).items():
        if known.get(name) != value:
            raise LongreelError(
                f"{folder} was simulated with {name}={known.get(name)}, now asked for {value}; "
                f"leave --{name.replace('_', '-')} out, or simulate into another home"
            )
    known.pop("version")
    return WorldSettings(**known)


def days_present(folder: Path) -> list[date]:
    """The days of the log so far, oldest first. One that was killed before its file was whole is none of them."""
    return sorted(parse_day(path.parent.name.removeprefix("date=")) for path in folder.glob(f"date=*/{LOG}"))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file that is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, draft, compression="zstd")
    draft.replace(path)


def begin(folder: Path, settings: WorldSettings) -> World:
    """Write the user table and the settings of a new log; returns its world."""
    world = make_world(settings)
    if not (folder / SETTINGS).exists():
        write_table(pa.table(user_columns(world)), folder / "users.parquet")
        (folder / SETTINGS).write_text(json.dumps(asdict(settings) | {"version": SIMULATION_VERSION}))
    return world


def write_archive(world: World, folder: Path, days: int) -> None:
    """The behaviours of the days before the log's first, a file a month; other impressions are left out."""
    first = parse_day(world.settings.start)
    before = day_range(first - timedelta(days=days), first - timedelta(days=1))
    total, began = 0, time.monotonic()
    for month, group in groupby(before, key=lambda day: f"{day:%Y-%m}"):
        tables = []
        for day in group:
            seen = simulate_day(world, day)
            tables.append(raw_rows(world, seen, np.flatnonzero(seen.is_behaviour)))
        table = pa.concat_tables(tables)
        total += table.num_rows
        write_table(table, folder / "history" / f"{month}.parquet")
        print(f"simulated archive {month}: {total:,} behaviours in {time.monotonic() - began:.1f} s", flush=True)
    print(f"import it with: longreel data import-history --through {before[-1]}", flush=True)


def run(args: argparse.Namespace, home: Home) -> None:
    """Append `args.days` days, after an archive where a new log is to have one."""
    if args.days < 1:
        raise LongreelError(f"--days: expected at least 1, got {args.days}")
    folder = raw_folder(home)
    asked = {each.name: getattr(args, each.name) for each in fields(WorldSettings)}
    present = days_present(folder)
    if present and args.start and args.start != present[0].isoformat():
        raise LongreelError(
            f"the log in {folder} starts on {present[0]}; leave --start out to go on after {present[-1]}"
        )
    settings = settings_of(folder, asked)
    if args.archive_days is not None and (present or args.archive_days < 1):
        raise LongreelError("--archive-days: expected a positive number, and a log without days so far")
    world = begin(folder, settings)
    if args.archive_days is not None:
        write_archive(world, folder, args.archive_days)
    first = present[-1] + timedelta(days=1) if present else parse_day(settings.start)
    yesterday = simulate_day(world, present[-1]) if present else None
    for number in range(args.days):
        yesterday = _write_day(world, first + timedelta(days=number), yesterday, home)


def _write_day(world: World, day: date, yesterday: Impressions | None, home: Home) -> Impressions:
    began = time.monotonic()
    today = simulate_day(world, day)
    rows, truth = day_file(world, today, yesterday)
    write_table(truth, home.path / TRUTH / f"date={day}" / "truth.parquet")
    write_table(rows, home.log / f"date={day}" / LOG)
    print(f"simulated {day}: {rows.num_rows:,} rows in {time.monotonic() - began:.1f} s", flush=True)
    return today
