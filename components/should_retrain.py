"""Command `ops should-retrain`: the freshness policy's answer for a day (exit code 0: due, 99: not due)."""

import argparse
from datetime import date, datetime

from longreel.components.freshness import Due, Known, due
from longreel.components.train import TRIGGERS
from longreel.contracts.config import Config
from longreel.contracts.dates import parse_day
from longreel.lake.home import Home
from longreel.lake.table import Lake

NOT_DUE = 99  # what an Airflow task takes as "skip"
# Of TRIGGERS those that train nothing, and how the samples came to be published then.
QUIET = {
    "backfill": "published by a backfill",
    "correction": "published again, as it or a day before it was corrected or came late",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel ops should-retrain`."""
    parser.add_argument("--date", required=True, help="YYYY-MM-DD: the samples day that has just been published")
    parser.add_argument(
        "--trigger",
        choices=TRIGGERS,
        default="freshness",
        help="what asks: a new day, a person, or a backfill or a correction, which train nothing",
    )
    parser.add_argument("--force", action="store_true", help="say yes whatever the policy says")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print the answer."""
    day = parse_day(args.date)
    answer = Due(is_due=True, reason="Forced.") if args.force else asked_by(args.trigger, home, day)
    hint = " (force trains all the same)" if args.trigger == "manual" and not answer.is_due else ""
    print(f"{'due' if answer.is_due else 'not due'}: {answer.reason}{hint}")
    return 0 if answer.is_due else NOT_DUE


def asked_by(trigger: str, home: Home, day: date) -> Due:
    """The policy's answer, which neither backfills nor corrections ask for."""
    if trigger in QUIET:
        reason = f"{day} was {QUIET[trigger]}, which trains nothing; the next new day is asked about as usual."
        return Due(is_due=False, reason=reason)
    return due_on(home, day)


def due_on(home: Home, day: date) -> Due:
    """The policy's answer with what is published and registered now."""
    config = home.config
    published = Known(published=frozenset(home.lake.days("samples")), today=today(config))
    at_best = due(day, published, config.retrain)
    if not at_best.is_due:  # whatever was trained before; opening MLflow takes seconds
        return at_best
    from longreel.components.registry import registry
    from longreel.components.registry.ledger import Ledger

    ledger = Ledger(home)
    last = registry.last_judged_day(registry.versions(ledger.client, ledger.model))
    champion = ledger.champion()
    return due(day, known_of(home, last, None if champion is None else champion.data_watermark), config.retrain)


def known_of(home: Home, last_judged: date | None, watermark: date | None) -> Known:
    """What the policy looks at, with the newest judged day and the champion's watermark as the registry has them."""
    lake = home.lake
    published = frozenset(lake.days("samples"))
    return Known(
        published=published,
        today=today(home.config),
        last_judged=last_judged,
        watermark=watermark,
        warned=frozenset(_warned(lake, published, last_judged)),
    )


def today(config: Config) -> date:
    """Today by the clock of the log's days."""
    return datetime.now(config.source.clock).date()


def _warned(lake: Lake, published: frozenset[date], since: date | None) -> set[date]:
    """The published days of which a checkpoint warned, of those that the policy still looks at."""
    found = set()
    for day in published:
        if since is not None and day >= since:
            manifests = (lake.manifest(dataset, day) for dataset in ("events", "samples"))
            if any(m is not None and m.details.get("warnings") for m in manifests):
                found.add(day)
    return found
