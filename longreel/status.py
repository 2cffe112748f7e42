"""Command `ops status`: partitions, freshness, champion, the next training, last decisions and promotions.

A red line needs action; with `--check` the exit code is 1 if there is one.
"""

import argparse
from collections.abc import Iterator, Sequence
from datetime import date

from rich.markup import escape
from rich.table import Table

from longreel.components.freshness import should_retrain
from longreel.components.promotions import ledger_table
from longreel.components.registry import store, versions
from longreel.components.registry.ledger import Ledger
from longreel.components.registry.ledger_state import LedgerState
from longreel.components.registry.versions import CHAMPION, Version
from longreel.components.reports.summary import MARKS, wide_console
from longreel.components.should_retrain import freshness_state
from longreel.contracts.log_schema import PLACES, LogSchema
from longreel.contracts.schemas import DATASETS
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.status_data import NEWEST, RED, count_of, data_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel ops status`."""
    parser.add_argument("--check", action="store_true", help="exit with 1 if a line is red, that is, needs action")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print the screen."""
    console, config, lake = wide_console(), home.config, home.lake
    registry = Ledger(home, store.open_store(home, patient=False)).read()
    console.print(f"[bold]{registry.model}[/]  {home.path}", soft_wrap=True)
    console.print(_log_schema(config.log_schema), soft_wrap=True, highlight=False)
    console.print(_partitions(lake))
    days = sorted(lake.days("samples"))
    lines = [*data_lines(home, days), *_registry(registry)]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    for line in _freshness(home, days, registry):
        console.print(line, soft_wrap=True)
    if registry.registered:
        console.print(_candidates(registry.registered[-NEWEST:], registry.number))
    if registry.entries:
        console.print(ledger_table(registry.entries[-NEWEST:]))
    return int(args.check and any(line.startswith(RED) for line in lines))


def _partitions(lake: Lake) -> Table:
    table = Table(title="Partitions", title_justify="left")
    for name in ("dataset", "first", "last", "days", "rows of last"):
        table.add_column(name)
    for dataset in DATASETS:
        days = sorted(lake.days(dataset))
        if not days:
            table.add_row(dataset, "–", "–", "0", "")
            continue
        rows = f"{lake.require(dataset, days[-1]).rows:,}"
        table.add_row(dataset, str(days[0]), str(days[-1]), str(len(days)), rows)
    return table


def _log_schema(log: LogSchema) -> str:
    """What the configuration declares of an impression, in numbers."""
    fields = ", ".join(f"{len(log.of_place(place))} {place}" for place in PLACES)
    labels = f"{count_of(log.labels, 'label')} ({len(log.number_labels)} of a number)"
    return f"log schema: {fields} fields; {count_of(log.actions, 'action')}, {labels}; digest {log.digest()}"


def _registry(registry: LedgerState) -> Iterator[str]:
    """What a person must settle in MLflow, and what cannot be read there."""
    if registry.conflict:
        yield f"{RED}champion[/] {escape(registry.conflict)}"
    elif registry.is_unfinished:
        yield (
            f"[yellow]unfinished[/] the alias {CHAMPION} is to follow ledger entry {registry.entries[-1].sequence} to "
            f"version {registry.number}: the next promote, rollback or retrain sets it"
        )
    for fault in registry.faults:
        yield f"{RED}registry[/] {escape(str(fault))}"


def _freshness(home: Home, days: list[date], registry: LedgerState) -> list[str]:
    champion = registry.champion
    if champion is None:
        lines = ["champion: none yet" if registry.number is None else f"champion: version {registry.number}, see above"]
    else:
        lines = [
            f"champion: version {champion.version}, trained through {champion.data_watermark}, "
            f"promoted on {champion.evaluation_day}; digest {escape(champion.model_digest)}"
        ]
        if days:
            behind = sum(1 for day in days if day > champion.data_watermark)
            lines.append(f"freshness: {behind} published day{'s' * (behind != 1)} it was not trained on")
    if not days:
        return [*lines, "training: not due; no samples are published"]
    watermark = None if champion is None else champion.data_watermark
    state = freshness_state(home, versions.last_evaluated_day(registry.registered), watermark)
    answer = should_retrain(days[-1], state, home.config.retrain)
    return [
        *lines,
        f"training for {days[-1]}: {'[bold]due[/]' if answer.is_due else 'not due'}; {escape(answer.reason)}",
    ]


def _candidates(registered: Sequence[Version], champion: int | None) -> Table:
    table = Table(title="Last candidates", title_justify="left")
    for name in ("version", "evaluated on", "trained on", "decision", "reason"):
        table.add_column(name)
    for version in registered:
        tags = version.tags
        table.add_row(
            f"{version.version}{' *' * (version.version == champion)}",
            str(version.evaluation_day),
            escape(f"{tags.get('train_first_day', '?')} .. {tags.get('train_last_day', '?')}"),
            MARKS.get(version.decision) or escape(version.decision),
            escape(tags.get("decision_reason", "")),
        )
    return table
