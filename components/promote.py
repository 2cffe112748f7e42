"""The step `promote`: makes a version the champion, if a decision says so, and writes it in the ledger."""

import argparse
from pathlib import Path

from contracts.decision import Decision
from contracts.errors import LongreelError
from contracts.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel promote`."""
    parser.add_argument("--decision", type=Path, required=True, help="the decision (`longreel decide`)")
    parser.add_argument("--version", type=int, required=True, help="the registered version that it is about")


def run(args: argparse.Namespace, home: Home) -> int:
    """Promote and print the ledger's new line."""
    from components import registry
    from components.ledger import Ledger

    decision = read_decision(args.decision)
    ledger = Ledger(home)
    version = registry.get_version(ledger.client, ledger.model, args.version)
    entry = ledger.promote(decision, version)
    before = "no champion" if entry.from_version is None else f"version {entry.from_version}"
    print(f"{ledger.model}: champion {before} -> version {entry.to_version} (ledger entry {entry.sequence})")
    return 0


def read_decision(path: Path) -> Decision:
    """A decision from a file.

    Raises:
        LongreelError: there is no such file, or it is not a decision.
    """
    if not path.is_file():
        raise LongreelError(f"no decision at {path}; `longreel decide --out {path}` writes one")
    return Decision.from_json(path.read_text())
