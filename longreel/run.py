"""Command `run`: the whole pipeline on one machine, scheduled by a real Airflow; prints the result."""

import argparse
import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

from rich.console import Console

from longreel.contracts.argument_types import at_least
from longreel.contracts.config import SIMULATED, SOURCES
from longreel.contracts.errors import LongreelError
from longreel.embedded_airflow import EmbeddedAirflow, interruptible
from longreel.init import write_config
from longreel.lake.home import CONFIG_FILE, Home
from longreel.ports import PORT
from longreel.watch import console, print_address, print_failures, watch

FIRST_SIMULATED_DAYS = 4
SHOP_HISTORY_DAYS = 21  # of older history: what a user buys again comes back after days


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel run`."""
    parser.add_argument("--source", choices=SOURCES, default="simulated", help="preset of a new home")
    parser.add_argument("--log", help="folder of the raw log (kuairand and generic), for a new home")
    parser.add_argument(
        "--days", type=at_least(1), help="simulated log: days to add (default: 4, then 1 once all are done)"
    )
    parser.add_argument("--airflow-port", type=PORT, help="Airflow's port (default: 8180, or the next free one)")


def run(args: argparse.Namespace, home: Home) -> int:
    """Run every log day that the home has not processed yet, then print the newest decision and its numbers."""
    from longreel.components.registry.location import require_location
    from longreel.components.reports.summary import print_summary
    from longreel.spark_jobs.java import require_named_user

    screen = console()
    if not args.home and "LONGREEL_HOME" not in os.environ:
        home = Home.locate(f".longreel/{args.source}")
    require_named_user()
    require_location(home)
    _prepare(home, args)
    days = log_days(home)
    if not days:
        raise LongreelError(f"the raw log at {home.log} has no days")
    todo = unfinished_days(home)
    screen.print(f"longreel: {home.config.name}, log days {days[0]} .. {days[-1]}, {len(todo)} to do; home {home.path}")
    if not todo:
        screen.print("no new log day; nothing to schedule")
    variables = {"LONGREEL_FIRST_DAY": days[0].isoformat(), "LONGREEL_LAST_DAY": days[-1].isoformat()}
    variables |= spark_variables(home, days[-1])
    failed = bool(todo) and _schedule(home, variables, todo, screen, args.airflow_port)
    print_summary(home)
    screen.print("Airflow and MLflow, to explore: [bold]make ui[/] (longreel ui --home " + f"{home.path})")
    return 1 if failed else 0


def _prepare(home: Home, args: argparse.Namespace) -> None:
    if not (home.path / CONFIG_FILE).exists():
        write_config(home, args.source, args.log)
    elif args.log and (log := Path(args.log).expanduser().resolve()) != home.log:
        raise LongreelError(
            f"{home.path} was made for the raw log {home.log}, now {log} is given; name another home (--home; "
            "make run: HOME_DIR=), or correct [source] log in its longreel.toml if the log has moved"
        )
    is_simulated = home.config.source.kind in SIMULATED
    if args.days is not None and not is_simulated:
        raise LongreelError(f"--days is for a simulated log, {home.path} reads source {home.config.source.kind!r}")
    if is_simulated and (args.days or not unfinished_days(home)):
        _simulate(home, args.days)
    if is_simulated and not any(True for dataset in ("history", "events") for _ in home.lake.days(dataset)):
        _import_history(home)


def _simulate(home: Home, days: int | None) -> None:
    """Add days to the simulated log, and to a new shop's older history."""
    is_new = not home.log.exists()
    options = ["--days", str(days or (FIRST_SIMULATED_DAYS if is_new else 1))]
    if is_new and home.config.source.kind == "shop":
        options += ["--bootstrap-days", str(SHOP_HISTORY_DAYS)]
    if _longreel(home, "simulate", *options):
        raise LongreelError("the simulated log could not be written; see above")


def _import_history(home: Home) -> None:
    """Import the older history that a simulated log begins with, if any."""
    from longreel.spark_jobs.sources import open_source

    source = open_source(home)
    if not source.bootstrap_files():
        return
    before = source.days()[0] - timedelta(days=1)
    if _longreel(home, "data", "import-history", "--through", before.isoformat()):
        raise LongreelError("the older history could not be imported; see above")


def _longreel(home: Home, *command: str) -> int:
    """Run another command of longreel on this home; its exit status."""
    step = [sys.executable, "-m", "longreel", *command, "--home", str(home.path)]
    return subprocess.run(step, check=False).returncode


def unfinished_days(home: Home) -> list[date]:
    """Days of the raw log without samples. If there are none, the last day if its training is still due, which an
    interrupted run leaves behind. Empty if there is no log yet."""
    from longreel.components.should_retrain import policy_answer

    days = log_days(home) if home.log.exists() else []
    published = set(home.lake.days("samples"))
    missing = [day for day in days if day not in published]
    if missing or not days:
        return missing
    return days[-1:] if policy_answer(home, days[-1]).is_due else []


def log_days(home: Home) -> list[date]:
    """The days of the raw log, oldest first."""
    from longreel.spark_jobs.sources import open_source

    return open_source(home).days()


def spark_variables(home: Home, day: date) -> dict[str, str]:
    """Settings of spark-submit's Java process, which starts before a command can tell how much it will read."""
    from longreel.spark_jobs.session import QUICK_BYTES, QUICK_JAVA
    from longreel.spark_jobs.sources import open_source

    is_quick = open_source(home).input_bytes(day) < QUICK_BYTES
    return {"SPARK_DRIVER_MEMORY": "2g", "SPARK_SUBMIT_OPTS": QUICK_JAVA if is_quick else ""}


def _schedule(home: Home, variables: dict[str, str], days: list[date], screen: Console, port: int | None) -> bool:
    """Let Airflow run the days; True if one failed."""
    screen.print("starting Airflow (scheduler, DAG processor, API server) ...")
    interruptible()
    try:
        with EmbeddedAirflow(home, variables, port) as airflow:
            print_address(screen, "Airflow: ", airflow.sign_in, airflow.notice)
            states = watch(airflow, days, screen)
            print_failures(states, screen)
            screen.print("stopping Airflow ...")
    except KeyboardInterrupt:
        screen.print("\ninterrupted; Airflow and its tasks were stopped. The next run continues from here.")
        raise
    return any(state.failed for state in states.values())
