"""Command `longreel model promotions`: the promotion ledger as a table."""

import argparse
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from longreel.components.registry.ledger import Entry
from longreel.contracts.argument_types import at_least
from longreel.lake.home import Home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model promotions`."""
    parser.add_argument("--last", type=at_least(1), help="only the newest entries, this many")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print the ledger, oldest entry first."""
    from longreel.components.registry import store
    from longreel.components.registry.ledger import Ledger
    from longreel.components.reports.summary import wide_console

    ledger = Ledger(home, store.open_store(home, patient=False))
    champion, entries = ledger.champion(), ledger.entries()
    console = wide_console()
    if not entries:
        console.print(f"{ledger.model}: no version was promoted yet")
        return 0
    console.print(ledger_table(entries[-args.last :] if args.last else entries))
    if champion is None:  # every proposal was declined
        console.print(f"{ledger.model} has no champion")
    else:
        console.print(f"champion of {ledger.model}: version {champion.version}, model digest {champion.model_digest}")
    return 0


def ledger_table(entries: Sequence[Entry]) -> Table:
    """Ledger entries as a table, with the decision's digest and the reason in words."""
    table = Table(title="Ledger", title_justify="left")
    for name in ("entry", "when", "who", "action", "champion", "decision", "why"):
        table.add_column(name)
    for e in entries:
        before = e.from_version or "none"
        moved = f"{before} -> {e.to_version}" if e.action != "decline" else f"{before} stays, not {e.to_version}"
        action = f"{e.action} [red](superseded)[/]" if e.superseded else e.action
        table.add_row(str(e.sequence), e.at, escape(e.who), action, moved, e.decision or "–", escape(e.reason))
    return table
