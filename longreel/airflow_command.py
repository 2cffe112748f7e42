"""Command `airflow`: the command line of a home's embedded Airflow, whether or not that is running."""

import argparse
import os
import sys

from longreel.airflow_settings import DATABASE, airflow_environment, published_days, sqlite_file
from longreel.components.registry.location import require_location
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.ports import AIRFLOW_PORT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel airflow`."""
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="a command of Airflow with its options: `longreel airflow -- dags list`; `-- --help` lists them",
    )


def run(args: argparse.Namespace, home: Home) -> None:
    """Become Airflow's command: its input, output and exit code are this command's.

    Raises:
        LongreelError: there is no home here, no command, or no Airflow in the home yet.
    """
    _ = home.config  # a mistyped home ends here
    require_location(home)
    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if not words:
        raise LongreelError("expected a command of Airflow: `longreel airflow -- dags list`; `-- --help` lists them")
    if DATABASE not in os.environ and not sqlite_file(home).exists():
        raise LongreelError(f"{home.path} has no Airflow yet; `longreel run` or `longreel ui` starts one")
    environment = airflow_environment(home, AIRFLOW_PORT, published_days(home))
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *words], environment)
