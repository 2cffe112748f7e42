"""Command `longreel model rollback`: makes an earlier champion the champion again."""

import argparse

from longreel.lake.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model rollback`."""
    parser.add_argument("--to-version", type=int, help="an earlier champion (default: the one before the present)")
    parser.add_argument("--reason", default="", help="why, for the ledger")


def run(args: argparse.Namespace, home: Home) -> int:
    """Roll back and print the new ledger entry."""
    from longreel.components.registry.ledger import Ledger

    ledger = Ledger(home)
    entry = ledger.rollback(args.to_version, args.reason)
    print(
        f"{ledger.model}: champion version {entry.from_version} -> version {entry.to_version} "
        f"(ledger entry {entry.sequence})"
    )
    return 0
