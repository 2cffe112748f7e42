"""`longreel simulate`: writes days of a simulated raw log in the generic format, for trying the pipeline without data.

    <home>/raw/simulation.json              what the log was made with; later days go on with it
    <home>/raw/users.parquet                categorical user features
    <home>/raw/date=2026-01-05/log.parquet  one row per impression

A day depends on the settings and its date alone, so any day can be made again. NumPy and pyarrow, no Spark.
"""

import argparse
import json
import os
import time
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.dates import parse_day
from contracts.errors import LongreelError
from contracts.home import Home
from spark_jobs.simulated_day import simulate_day
from spark_jobs.simulated_world import World, make_world, user_columns

SETTINGS = "simulation.json"
SIMULATION_VERSION = 1
DEFAULTS = {"users": 1_200, "items": 4_000, "seed": 0}
FIRST_DAY = "2026-01-05"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel simulate`."""
    parser.add_argument("--days", type=int, default=1, help="days to append after the last one present (default 1)")
    parser.add_argument("--start", help=f"first day of a new log (default {FIRST_DAY})")
    parser.add_argument("--users", type=int, help=f"users of a new log (default {DEFAULTS['users']})")
    parser.add_argument("--items", type=int, help=f"items of a new log (default {DEFAULTS['items']})")
    parser.add_argument("--seed", type=int, help=f"seed of a new log (default {DEFAULTS['seed']})")


def raw_folder(home: Home) -> Path:
    """Where the simulated log lies.

    Raises:
        LongreelError: this home reads another source.
    """
    kind = home.config.source.kind
    if kind != "simulated":
        raise LongreelError(f"{home.path} reads source {kind!r}; simulate needs a home made with the simulated preset")
    return home.log


def settings_of(folder: Path, asked: dict[str, int | None]) -> dict[str, int]:
    """The log's settings: those it was begun with, or the ones asked for where it is new.

    Raises:
        LongreelError: what is asked differs from what the log was begun with, or is out of range.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    for name in ("users", "items"):
        if given.get(name, 1) < 1:
            raise LongreelError(f"--{name}: expected a positive number, got {given[name]}")
    path = folder / SETTINGS
    if not path.exists():
        return DEFAULTS | {"version": SIMULATION_VERSION} | given
    known: dict[str, int] = json.loads(path.read_text())
    for name, value in (given | {"version": SIMULATION_VERSION}).items():
        if known.get(name) != value:
            raise LongreelError(
                f"{folder} was simulated with {name}={known.get(name)}, now asked for {value}; "
                f"leave --{name} out, or simulate into another home"
            )
    return known


def days_present(folder: Path) -> list[date]:
    """The days of the log so far, oldest first."""
    return sorted(parse_day(path.name.removeprefix("date=")) for path in folder.glob("date=*"))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file that is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, draft, compression="zstd")
    draft.replace(path)


def begin(folder: Path, settings: dict[str, int]) -> World:
    """Write the user table and the settings of a new log; returns its world."""
    world = make_world(settings["users"], settings["items"], settings["seed"])
    if not (folder / SETTINGS).exists():
        write_table(pa.table(user_columns(world)), folder / "users.parquet")
        (folder / SETTINGS).write_text(json.dumps(settings))
    return world


def run(args: argparse.Namespace, home: Home) -> None:
    """Append `args.days` days."""
    if args.days < 1:
        raise LongreelError(f"--days: expected at least 1, got {args.days}")
    folder = raw_folder(home)
    settings = settings_of(folder, {name: getattr(args, name) for name in DEFAULTS})
    present = days_present(folder)
    if present and args.start and parse_day(args.start) != present[0]:
        raise LongreelError(
            f"the log in {folder} starts on {present[0]}; leave --start out to go on after {present[-1]}"
        )
    first = present[-1] + timedelta(days=1) if present else parse_day(args.start or FIRST_DAY)
    world = begin(folder, settings)
    for number in range(args.days):
        began, day = time.monotonic(), first + timedelta(days=number)
        table = pa.table(simulate_day(world, day))
        write_table(table, folder / f"date={day}" / "log.parquet")
        print(f"simulated {day}: {table.num_rows:,} rows in {time.monotonic() - began:.1f} s", flush=True)
