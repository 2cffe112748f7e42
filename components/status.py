"""The step `status`: where does the pipeline stand? Partitions, freshness, champion, decisions and ledger."""

import argparse
import json
from collections.abc import Sequence
from datetime import date

from rich.markup import escape
from rich.table import Table

from components import registry, tracking
from components.freshness import due
from components.history import ledger_table
from components.ledger import Ledger
from components.registry import Version
from components.summary import MARKS, wide_console
from contracts.config import Config
from contracts.dates import day_range
from contracts.forgotten import records
from contracts.home import Home
from contracts.lake import Lake
from contracts.lineage import Stale, stale_partitions
from contracts.schemas import DATASETS

NEWEST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`longreel status` has no options of its own."""


def run(args: argparse.Namespace, home: Home) -> int:
    """Print the screen."""
    console, config, lake = wide_console(), home.config, home.lake
    ledger = Ledger(home, tracking.open_store(home))
    known, champion = registry.versions(ledger.client, ledger.model), ledger.champion()
    console.print(f"[bold]{ledger.model}[/]  {home.path}", soft_wrap=True)
    console.print(_partitions(lake))
    for line in _stale(stale_partitions(lake)):
        console.print(line, soft_wrap=True, highlight=False)
    for line in _forgotten(lake):
        console.print(line, soft_wrap=True, highlight=False)
    for line in _quality(home):
        console.print(line, soft_wrap=True, highlight=False)
    for line in _freshness(config, sorted(lake.days("samples")), known, champion):
        console.print(line, soft_wrap=True)
    if known:
        console.print(_candidates(known[-NEWEST:], champion))
    if entries := ledger.entries():
        console.print(ledger_table(entries[-NEWEST:]))
    return 0


def gaps(days: Sequence[date]) -> list[date]:
    """Days missing between the first and the last."""
    return [day for day in day_range(days[0], days[-1]) if day not in set(days)] if days else []


def _partitions(lake: Lake) -> Table:
    table = Table(title="Partitions", title_justify="left")
    for name in ("dataset", "first", "last", "days", "missing between", "rows of last"):
        table.add_column(name)
    for dataset in DATASETS:
        days = sorted(lake.days(dataset))
        if not days:
            table.add_row(dataset, "–", "–", "0", "", "")
            continue
        # A history base is written every few days by design, so days between are no gaps.
        missing = [] if dataset == "history" else gaps(days)
        shown = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        rows = f"{lake.require(dataset, days[-1]).rows:,}"
        table.add_row(dataset, str(days[0]), str(days[-1]), str(len(days)), f"[red]{shown}[/]" if shown else "", rows)
    return table


def _stale(found: Sequence[Stale]) -> list[str]:
    """What would be built from other inputs now, and the commands that do it."""
    lines = [f"[red]stale[/] {one.dataset} {one.day}: {'; '.join(one.reasons)}" for one in found]
    if samples := [one.day for one in found if one.dataset == "samples"]:
        lines.append(
            f"rebuild: longreel build-samples --start {samples[0]} --end {samples[-1]} (skips what is not stale)"
        )
    return lines


def _forgotten(lake: Lake) -> list[str]:
    """How many users are forgotten, and requests that did not get to their end."""
    known = records(lake)
    users = {user for record in known for user in record.users}
    lines = (
        [f"forgotten: {len(users)} user{'s' * (len(users) != 1)}, last asked for at {known[-1].began}"] if known else []
    )
    for record in known:
        if not record.finished:
            lines.append(
                f"[red]unfinished[/] forget of {len(record.users)} user{'s' * (len(record.users) != 1)}, begun at "
                f"{record.began}: run longreel forget again with the same --user"
            )
    return lines


def _quality(home: Home) -> list[str]:
    """What the checkpoints say of the newest days: warnings of published ones, and days that they stopped."""
    lines = []
    for dataset in ("events", "samples"):
        for day in list(home.lake.days(dataset))[-NEWEST:]:
            warnings = home.lake.require(dataset, day).details.get("warnings", [])
            lines += [f"[yellow]warning[/] {dataset} {day}: {escape(line)}" for line in warnings]
    for path in sorted(home.reports.glob("*/quality-*.json"), key=lambda path: path.parent.name)[-2 * NEWEST :]:
        summary = json.loads(path.read_text())
        if not summary["success"]:
            why = escape("; ".join([*summary.get("failures", []), str(path)]))
            lines.append(f"[red]stopped[/] {summary['dataset']} {summary['date']}: {why}")
    return lines


def _freshness(config: Config, days: list[date], known: list[Version], champion: Version | None) -> list[str]:
    if champion is None:
        lines = ["champion: none yet"]
    else:
        lines = [
            f"champion: version {champion.version}, trained through {champion.data_watermark}, "
            f"promoted on {champion.evaluated_day}; digest {champion.model_digest}"
        ]
        if days:
            behind = sum(1 for day in days if day > champion.data_watermark)
            lines.append(f"freshness: {behind} published day{'s' * (behind != 1)} it was not trained on")
    if not days:
        return [*lines, "training: not due; no samples are published"]
    answer = due(days[-1], days, registry.last_judged_day(known), config.retrain)
    return [*lines, f"training for {days[-1]}: {'[bold]due[/]' if answer.is_due else 'not due'}; {answer.reason}"]


def _candidates(known: list[Version], champion: Version | None) -> Table:
    table = Table(title="Last candidates", title_justify="left")
    for name in ("version", "judged on", "trained on", "decision", "reason"):
        table.add_column(name)
    for version in known:
        tags = version.tags
        is_champion = champion is not None and champion.version == version.version
        table.add_row(
            f"{version.version}{' *' if is_champion else ''}",
            str(version.evaluated_day),
            f"{tags.get('train_first_day')} .. {tags.get('train_last_day')}",
            MARKS.get(version.decision, version.decision),
            tags.get("decision_reason", ""),
        )
    return table
