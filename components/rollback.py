"""Command `longreel model rollback`: makes an earlier champion the champion again."""

import argparse

from longreel.components.promote import describe_move
from longreel.contracts.argument_types import at_least
from longreel.lake.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model rollback`."""
    parser.add_argument(
        "--to-version",
        type=at_least(1),
        help="an earlier champion (default: the last before the present that exists), or the present one, to set the "
        "alias back",
    )
    parser.add_argument("--reason", default="", help="why, for the ledger")


def run(args: argparse.Namespace, home: Home) -> int:
    """Roll back and print the new ledger entry."""
    from longreel.components.registry.ledger import Ledger

    ledger = Ledger(home)
    print(f"{ledger.model}: {describe_move(ledger.rollback(args.to_version, args.reason))}")
    return 0
