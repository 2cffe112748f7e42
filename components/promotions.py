"""Command `longreel model promotions`: the promotion ledger as a table."""

import argparse
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from longreel.components.registry.entries import Entry
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

    state = Ledger(home, store.open_store(home, patient=False)).read()
    console = wide_console()
    if state.entries:
        console.print(ledger_table(state.entries[-args.last :] if args.last else state.entries))
    for line in (*map(str, state.faults), state.conflict):
        if line:
            console.print(f"[red]{escape(line)}[/]", soft_wrap=True, highlight=False)
    if state.last_move is None and not state.entries:
        console.print(f"{state.model}: no version was promoted yet")
    elif state.last_move is None or state.number is None:  # every proposal was declined
        console.print(f"{state.model} has no champion")
    else:
        move = state.last_move
        console.print(
            f"champion of {state.model}: version {move.to_version}, model digest {escape(move.model_digest or '')}"
        )
    return 0


def ledger_table(entries: Sequence[Entry]) -> Table:
    """Ledger entries as a table, with the decision's digest and the reason in words."""
    table = Table(title="Ledger", title_justify="left")
    for name in ("entry", "when", "who", "action", "champion", "decision", "why"):
        table.add_column(name)
    for e in entries:
        before = e.from_version or "none"
        moved = (
            f"{before} -> {e.to_version or 'none'}" if e.action != "decline" else f"{before} stays, not {e.to_version}"
        )
        action = f"{e.action} [red](superseded)[/]" if e.superseded else e.action
        table.add_row(
            str(e.sequence), *map(escape, (e.at, e.who)), action, moved, *map(escape, (e.decision or "–", e.reason))
        )
    return table
