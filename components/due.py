"""The step `due`: does the freshness policy ask for a training on DATE? Exit code 0: yes, 99: no, with the reason."""

import argparse
from datetime import date

from components.freshness import Due, due
from contracts.dates import parse_day
from contracts.home import Home

NOT_DUE = 99  # what an Airflow task takes as "skip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel due`."""
    parser.add_argument("--date", required=True, help="YYYY-MM-DD: the samples day that has just been published")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print the answer."""
    answer = due_on(home, parse_day(args.date))
    print(f"{'due' if answer.is_due else 'not due'}: {answer.reason}")
    return 0 if answer.is_due else NOT_DUE


def due_on(home: Home, day: date) -> Due:
    """The policy's answer with what is published and registered now."""
    config, published = home.config, list(home.lake.days("samples"))
    at_best = due(day, published, None, config.retrain)
    if not at_best.is_due:  # whatever was trained before; opening MLflow takes seconds
        return at_best
    from components import registry, tracking

    known = registry.versions(tracking.open_store(home), registry.model_name(config))
    return due(day, published, registry.last_judged_day(known), config.retrain)
