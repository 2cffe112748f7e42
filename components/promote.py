"""Command `longreel model promote`: makes a version the champion if its decision allows it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.contracts.argument_types import at_least
from longreel.contracts.dates import parse_day
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError
from longreel.contracts.serialization import read_summary
from longreel.lake.home import Home

if TYPE_CHECKING:
    from longreel.components.registry.entries import Entry

NOT_BETTER = 99  # exit code that an Airflow task treats as "skipped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model promote`."""
    parser.add_argument("--date", help="YYYY-MM-DD: the candidate that `longreel ops retrain` evaluated on this day")
    parser.add_argument("--decision", type=Path, help="or a decision (`longreel model decide`)")
    parser.add_argument("--version", type=at_least(1), help="... and the registered version that it is about")
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="or the version that the alias `champion` was moved to in MLflow: the ledger records it as the champion",
    )
    parser.add_argument("--if-better", action="store_true", help="on a hold or a reject change nothing and exit with 0")
    parser.add_argument(
        "--waits-for-approval",
        type=str.lower,
        choices=("true", "false"),
        default="false",
        help="true: change nothing yet",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and why; exit 99: nothing")
    parser.add_argument(
        "--answer",
        type=str.lower,
        choices=("approve", "reject"),
        default="approve",
        help="of the approver, named by $LONGREEL_ACTOR; reject: the champion stays, and the ledger records it",
    )
    parser.add_argument("--reason", default="", help="the approver's, for the ledger")


def run(args: argparse.Namespace, home: Home) -> int:
    """Promote and print the new ledger entry."""
    if args.adopt:
        return _adopt(args, home)
    decision, number = _decision_and_version(args, home)
    if args.dry_run:
        print(f"version {number}: {_proposal(decision, home)}")
        return 0 if decision.outcome == "promote" else NOT_BETTER
    if args.if_better and decision.outcome != "promote":
        print(f"version {number}: {decision.outcome}; the champion stays")
        return 0
    if args.waits_for_approval == "true":
        print(
            f"version {number} waits for a person's approval; `longreel model promote --date {decision.date}` gives it"
        )
        return 0
    from longreel.components.recorded_decision import confirm
    from longreel.components.registry import versions
    from longreel.components.registry.ledger import Ledger

    ledger = Ledger(home)
    version = versions.get_version(ledger.client, ledger.model, number)
    if args.answer == "reject":
        entry = ledger.decline(decision, version, args.reason)
        print(f"{ledger.model}: version {number} declined by {entry.who} (ledger entry {entry.sequence}); unchanged")
        return 0
    if decision.outcome == "promote":  # otherwise the ledger refuses it
        decision = confirm(home, ledger.client, version, decision)
    print(f"{ledger.model}: {describe_move(ledger.promote(decision, version, args.reason))}")
    return 0


def describe_move(entry: "Entry") -> str:
    """A new entry on one line."""
    before, after = (number or "none" for number in (entry.from_version, entry.to_version))
    return f"champion: version {before} -> {after} (ledger entry {entry.sequence})"


def _adopt(args: argparse.Namespace, home: Home) -> int:
    """Record the alias that was moved in MLflow."""
    from longreel.components.registry.ledger import Ledger

    if args.date or args.decision or args.version is not None:
        raise LongreelError("--adopt takes the version from the alias; leave --date, --decision and --version out")
    ledger = Ledger(home)
    print(f"{ledger.model}: {describe_move(ledger.adopt(args.reason))}")
    return 0


def _proposal(decision: Decision, home: Home) -> str:
    """Outcome and reasons on one line, with links: the question to the approver."""
    from longreel.components.registry.decision_record import headline
    from longreel.components.reports.record import CARD

    folder = home.reports / decision.date
    card, summary = folder / CARD, folder / "summary.json"
    parts = [f"{decision.outcome}.", headline(decision)]
    if card.is_file():
        parts.append(f"Run card: {card}")
    if summary.is_file() and (page := home.run_page(read_summary(summary)["run_id"])):
        parts.append(f"MLflow: {page}")
    return " ".join(parts)


def _decision_and_version(args: argparse.Namespace, home: Home) -> tuple[Decision, int]:
    """The decision and the version that the command names."""
    if (args.date is None) == (args.decision is None) or (args.decision is None) != (args.version is None):
        raise LongreelError("name the candidate: --date DAY, or --decision FILE and --version N, or --adopt")
    if args.decision is not None:
        return Decision.read(args.decision), args.version
    folder = home.reports / str(parse_day(args.date))
    if not (folder / "summary.json").is_file():
        raise LongreelError(
            f"no retrain was finished for {args.date}; `longreel ops retrain --date {args.date}` runs one"
        )
    return Decision.read(folder / "decision.json"), int(read_summary(folder / "summary.json")["version"])
