"""Command `ops should-retrain`: the freshness policy's answer for a day (exit code 0: due, 99: not due)."""

import argparse
from datetime import date, datetime

from longreel.components.freshness import FreshnessState, RetrainAnswer, should_retrain
from longreel.components.training.spec import TRIGGERS
from longreel.contracts.config import Config
from longreel.contracts.dates import parse_day
from longreel.lake.home import Home
from longreel.lake.table import Lake

NOT_DUE = 99  # Airflow skips a task that exits with it
# Those of TRIGGERS that start no training -> how the samples were published.
NON_TRAINING_TRIGGERS = {
    "backfill": "by a backfill",
    "correction": "again, because it or an earlier day was corrected or came late",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel ops should-retrain`."""
    parser.add_argument("--date", required=True, help="YYYY-MM-DD: the samples day that was just published")
    parser.add_argument(
        "--trigger",
        choices=TRIGGERS,
        default="freshness",
        help="the reason to ask: a new day, a person, or a backfill or a correction, which start no training",
    )
    parser.add_argument("--force", action="store_true", help="answer yes, whatever the policy says")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print the answer."""
    day = parse_day(args.date)
    answer = RetrainAnswer(is_due=True, reason="Forced.") if args.force else answer_for(args.trigger, home, day)
    hint = " (force trains anyway)" if args.trigger == "manual" and not answer.is_due else ""
    print(f"{'due' if answer.is_due else 'not due'}: {answer.reason}{hint}")
    return 0 if answer.is_due else NOT_DUE


def answer_for(trigger: str, home: Home, day: date) -> RetrainAnswer:
    """The policy's answer; always no for a backfill or a correction."""
    if trigger in NON_TRAINING_TRIGGERS:
        published = f"{day} was published {NON_TRAINING_TRIGGERS[trigger]}"
        reason = f"{published}, which starts no training; the policy is evaluated for the next new day."
        return RetrainAnswer(is_due=False, reason=reason)
    return policy_answer(home, day)


def policy_answer(home: Home, day: date) -> RetrainAnswer:
    """The policy's answer from what is published and registered now."""
    config = home.config
    published = FreshnessState(published=frozenset(home.lake.days("samples")), today=today(config))
    without_registry = should_retrain(day, published, config.retrain)
    if not without_registry.is_due:  # no registry entry turns it into a yes, and opening MLflow takes seconds
        return without_registry
    from longreel.components.registry import versions
    from longreel.components.registry.ledger import Ledger

    registry = Ledger(home).read()
    versions.warn_of(*registry.faults)
    last_evaluated, champion = versions.last_evaluated_day(registry.registered), registry.champion
    state = freshness_state(home, last_evaluated, None if champion is None else champion.data_watermark)
    return should_retrain(day, state, config.retrain)


def freshness_state(home: Home, last_evaluated: date | None, watermark: date | None) -> FreshnessState:
    """The facts that the policy reads; the last evaluated day and the champion's watermark come from the registry."""
    lake = home.lake
    published = frozenset(lake.days("samples"))
    return FreshnessState(
        published=published,
        today=today(home.config),
        last_evaluated=last_evaluated,
        watermark=watermark,
        warned=frozenset(_warned_days(lake, published, last_evaluated)),
    )


def today(config: Config) -> date:
    """Today in the time zone of the log's days."""
    return datetime.now(config.source.clock).date()


def _warned_days(lake: Lake, published: frozenset[date], since: date | None) -> set[date]:
    """The published days that a checkpoint warned about, of those that the policy still reads."""
    warned = set()
    for day in published:
        if since is not None and day >= since:
            manifests = (lake.manifest(dataset, day) for dataset in ("events", "samples"))
            if any(m is not None and m.details.get("warnings") for m in manifests):
                warned.add(day)
    return warned
