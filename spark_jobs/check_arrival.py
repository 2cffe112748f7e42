"""`longreel data check-arrival`: whether a raw log day has arrived (exit code 0: yes, 3: not yet).

Needs no Spark where folders or files say which days there are."""

import argparse

from longreel.contracts.dates import parse_day
from longreel.lake.home import Home
from longreel.spark_jobs.days import log_progress
from longreel.spark_jobs.ingest import require_raw_day
from longreel.spark_jobs.sources import open_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data check-arrival`."""
    parser.add_argument("--date", required=True, help="the log day, YYYY-MM-DD")


def run(args: argparse.Namespace, home: Home) -> None:
    """Print that the day is there.

    Raises:
        DataNotReadyError: it is not; the message says which days are.
    """
    day = parse_day(args.date)
    require_raw_day(open_source(home), day)
    log_progress("raw log", day, "arrived")
