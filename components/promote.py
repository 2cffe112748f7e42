"""The step `promote`: makes a version the champion, if a decision says so, and writes it in the ledger."""

import argparse
from pathlib import Path

from contracts.decision import Decision
from contracts.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel promote`."""
    parser.add_argument("--decision", type=Path, required=True, help="the decision (`longreel decide`)")
    parser.add_argument("--version", type=int, required=True, help="the registered version that it is about")


def run(args: argparse.Namespace, home: Home) -> int:
    """Promote and print the ledger's new line."""
    from components import registry
    from components.ledger import Ledger

    decision = Decision.read(args.decision)
    ledger = Ledger(home)
    version = registry.get_version(ledger.client, ledger.model, args.version)
    entry = ledger.promote(decision, version)
    before = "no champion" if entry.from_version is None else f"version {entry.from_version}"
    print(f"{ledger.model}: champion {before} -> version {entry.to_version} (ledger entry {entry.sequence})")
    return 0
