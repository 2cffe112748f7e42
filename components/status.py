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
from longreel.components.should_retrain import freshness_state, today
from longreel.contracts.config import Config
from longreel.contracts.dates import day_range
from longreel.contracts.log_schema import PLACES, LogSchema
from longreel.contracts.schemas import DATASETS
from longreel.contracts.serialization import read_json
from longreel.lake.erasure import erasure_requests
from longreel.lake.home import Home
from longreel.lake.lineage import Stale, definition_changes, is_imported, stale_partitions
from longreel.lake.maintenance import orphaned_builds
from longreel.lake.table import Lake

NEWEST = 5
RED = "[red]"


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
    lines = [*_late(config, days), *_missing(lake), *_stale(lake, config), *_orphaned(lake)]
    lines += [*_erasures(lake), *_quality(home), *_registry(registry)]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
    for line in _freshness(home, days, registry):
        console.print(line, soft_wrap=True)
    if registry.registered:
        console.print(_candidates(registry.registered[-NEWEST:], registry.number))
    if registry.entries:
        console.print(ledger_table(registry.entries[-NEWEST:]))
    return int(args.check and any(line.startswith(RED) for line in lines))


def gaps(days: Sequence[date]) -> list[date]:
    """Days missing between the first and the last."""
    return [day for day in day_range(days[0], days[-1]) if day not in set(days)] if days else []


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


def _late(config: Config, days: Sequence[date]) -> list[str]:
    """A line if the newest samples are too old to train for."""
    limit = config.retrain.max_data_age_days
    if not limit or not days or (age := (today(config) - days[-1]).days) <= limit:
        return []
    return [f"{RED}late[/] the newest samples are of {days[-1]}, {age} days back; the limit is {limit} days"]


def _missing(lake: Lake) -> Iterator[str]:
    """Days without a partition between days with one, and what publishes them."""
    for dataset in ("events", "samples"):
        if missing := gaps(sorted(lake.days(dataset))):
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            days = ", ".join(map(str, missing[:3]))
            yield f"{RED}missing[/] {dataset} of {days}{more}; longreel_rebuild publishes them"


def _stale(lake: Lake, config: Config) -> Iterator[str]:
    """Stale partitions and the commands that rebuild them. A stale snapshot needs no action: it is not read."""
    partitions = stale_partitions(lake, config)
    changed = _changed_definitions(lake, config, partitions)
    for texts, days in changed.items():
        what = (
            f"{_count(days, 'day')} ({_span(days)}) {'was' if len(days) == 1 else 'were'} made with other definitions"
        )
        yield f"{RED}stale[/] {what}: {escape('; '.join(texts))}; `longreel data stale` says what to rebuild"
    explained = {text for texts in changed for text in texts}
    for one in partitions:
        why = escape("; ".join(reason for reason in one.reasons if one.dataset == "history" or reason not in explained))
        if one.dataset != "history":
            if why:
                yield f"{RED}stale[/] {one.dataset} {one.day}: {why}"
        elif is_imported(lake.require("history", one.day)):
            again = f"remove these days, or import again: longreel data import-history --through {one.day}"
            yield f"{RED}stale[/] bootstrap snapshot through {one.day}: {why}; {again}"
        else:
            unread = f"history snapshot {one.day}, which is not read; the next build removes it ({why})"
            yield f"superseded: {unread}"
    for command, dataset in (("ingest", "events"), ("build-samples", "samples")):
        if days := [one.day for one in partitions if one.dataset == dataset]:
            yield f"rebuild: longreel data {command} --start {days[0]} --end {days[-1]} (skips what is not stale)"


def _changed_definitions(lake: Lake, config: Config, stale: Sequence[Stale]) -> dict[tuple[str, ...], list[date]]:
    """The days whose events or samples were made with other definitions, by how these differ."""
    by_day: dict[date, dict[str, None]] = {}
    for one in stale:
        if one.dataset != "history":
            texts = [change.text for change in definition_changes(lake.require(one.dataset, one.day), config)]
            by_day.setdefault(one.day, {}).update(dict.fromkeys(texts))
    by_change: dict[tuple[str, ...], list[date]] = {}
    for day, differences in sorted(by_day.items()):
        if differences:
            by_change.setdefault(tuple(differences), []).append(day)
    return by_change


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"


def _span(days: Sequence[date]) -> str:
    return str(days[0]) if len(days) == 1 else f"{days[0]} .. {days[-1]}"


def _log_schema(log: LogSchema) -> str:
    """What the configuration declares of an impression, in numbers."""
    fields = ", ".join(f"{len(log.of_place(place))} {place}" for place in PLACES)
    labels = f"{_count(log.labels, 'label')} ({len(log.number_labels)} of a number)"
    return f"log schema: {fields} fields; {_count(log.actions, 'action')}, {labels}; digest {log.digest()}"


def _orphaned(lake: Lake) -> list[str]:
    """How many builds killed processes have left behind."""
    count = sum(1 for _ in orphaned_builds(lake))
    return [f"orphaned: {count} build{'s' * (count != 1)} of killed processes; the next ingest removes them"] * bool(
        count
    )


def _erasures(lake: Lake) -> list[str]:
    """How many users are on the suppression list, and requests that did not get to their end."""
    requests = erasure_requests(lake.storage)
    users = {user for request in requests for user in request.users}
    lines = (
        [f"suppressed: {len(users)} user{'s' * (len(users) != 1)}, newest request at {requests[-1].began}"]
        if requests
        else []
    )
    for request in requests:
        if not request.finished:
            lines.append(
                f"{RED}unfinished[/] forget of {len(request.users)} user{'s' * (len(request.users) != 1)}, begun at "
                f"{request.began}: run longreel data forget again with the same --user"
            )
    return lines


def _quality(home: Home) -> list[str]:
    """Warnings of the checkpoints about the newest published days, and the days that they stopped."""
    lines = []
    for dataset in ("events", "samples"):
        for day in list(home.lake.days(dataset))[-NEWEST:]:
            warnings = home.lake.require(dataset, day).details.get("warnings", [])
            lines += [f"[yellow]warning[/] {dataset} {day}: {escape(line)}" for line in warnings]
    for path in sorted(home.reports.glob("*/quality-*.json"), key=lambda path: path.parent.name)[-2 * NEWEST :]:
        summary = read_json(path, "remove it; building the day again writes one")
        if not summary["success"]:
            why = escape("; ".join([*summary.get("failures", []), str(path)]))
            lines.append(f"{RED}stopped[/] {summary['dataset']} {summary['date']}: {why}")
    return lines


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
