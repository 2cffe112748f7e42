"""Lines of `ops status` about the data: raw days, partitions, their quality and what failed; red ones need action."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from rich.markup import escape

from longreel.components.should_retrain import today
from longreel.contracts.config import Config
from longreel.contracts.dates import day_range
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.contracts.serialization import read_json
from longreel.lake.erasure import erasure_requests
from longreel.lake.home import Home
from longreel.lake.lineage import Stale, definition_changes, is_imported, stale_partitions
from longreel.lake.maintenance import is_being_built, orphaned_builds
from longreel.lake.table import Lake
from longreel.spark_jobs.raw_days import MAX_BYTES, compare_raw_days, published_at

NEWEST = 5
MAX_WAIT_S = 2 * 3600  # of an arrived day for its ingest, while nothing is published
RED = "[red]"


def data_lines(home: Home, days: Sequence[date]) -> list[str]:
    """The lines, as rich's markup. `days`: those with samples."""
    lake, config = home.lake, home.config
    lines = [*_late(config, days), *_missing(lake), *_raw(home), *_behind(lake), *_failed(home)]
    return [*lines, *_stale(lake, config), *_orphaned(lake), *_erasures(lake), *_quality(home)]


def gaps(days: Sequence[date]) -> list[date]:
    """Days missing between the first and the last."""
    return [day for day in day_range(days[0], days[-1]) if day not in set(days)] if days else []


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


def _raw(home: Home) -> Iterator[str]:
    """Raw days that have arrived and were not ingested, and those that changed since."""
    source = home.config.source
    if not (source.log or source.table):
        return
    try:
        raw = compare_raw_days(home)
    except LongreelError as error:
        color = "yellow" if isinstance(error, DataNotReadyError) else "red"
        yield f"[{color}]raw log[/] {escape(str(error))}"
        return
    if raw is None:
        yield "raw log: not compared, since its rows say their day; `longreel data stale` compares it"
        return
    yield from _waiting(home.lake, "events", "the raw log", raw.missing)
    if raw.changed:
        since = f"the raw log of {_days(raw.changed)} changed since it was ingested"
        yield f"{RED}changed[/] {since}; `longreel data stale --start {raw.changed[0]}` says what to rebuild"
    if raw.touched:
        size = (
            f"more than {MAX_BYTES // 2**20} MiB of the raw log were touched since {_days(raw.touched)} were ingested"
        )
        yield f"[yellow]touched[/] {size}; `longreel data stale --start {raw.touched[0]}` compares them"


def _behind(lake: Lake) -> Iterator[str]:
    """Days whose events are newer than the newest samples."""
    last = max(lake.days("samples"), default=date.min)
    events = [lake.require("events", day) for day in lake.days("events") if day > last]
    return _waiting(lake, "samples", "the events", {date.fromisoformat(m.date): published_at(m) for m in events})


def _waiting(lake: Lake, dataset: str, made_from: str, arrived: Mapping[date, float]) -> Iterator[str]:
    """Days whose dataset should follow: what it is made from arrived, at these seconds since 1970. Red once nothing has
    been published for MAX_WAIT_S, so neither while the day's task waits for its turn nor during a backfill."""
    if not arrived:
        return
    days, verb = sorted(arrived), {"events": "ingest", "samples": "build-samples"}[dataset]
    published = list(lake.days(dataset))[-1:]
    began = max([min(arrived.values()), *(published_at(lake.require(dataset, day)) for day in published)])
    is_late = time.time() - began > MAX_WAIT_S and not any(is_being_built(lake, dataset, day) for day in days)
    what = f"{made_from} of {_days(days)} arrived, and no {dataset} of {'it' if len(days) == 1 else 'them'} are there"
    action = f"longreel data {verb} --start {days[0]} --end {days[-1]}"
    yield f"{RED}behind[/] {what}: {action}" if is_late else f"next: {what} yet"


def _failed(home: Home) -> Iterator[str]:
    """Days whose last ingest or build ended with an error."""
    for path in sorted(home.reports.glob("*/failed-*.json")):
        note, dataset = read_json(path, "remove it"), path.stem.removeprefix("failed-")
        verb = {"events": "ingest", "samples": "build-samples"}.get(dataset, dataset)
        command, why = f"longreel data {verb} --date {path.parent.name}", f"{note['error']} (noted in {path})"
        yield f"{RED}failed[/] {command}, at {note['at']}: {escape(why)}"


def _stale(lake: Lake, config: Config) -> Iterator[str]:
    """Stale partitions and the commands that rebuild them. A stale snapshot needs no action: it is not read."""
    partitions = stale_partitions(lake, config)
    changed = _changed_definitions(lake, config, partitions)
    for texts, days in changed.items():
        what = (
            f"{count_of(days, 'day')} ({_span(days)}) {'was' if len(days) == 1 else 'were'} made with other definitions"
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


def count_of(items: Sequence[object], noun: str) -> str:
    """3 days, 1 day."""
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"


def _days(days: Sequence[date]) -> str:
    return _span(days) if len(days) == 1 else f"{count_of(days, 'day')} ({_span(days)})"


def _span(days: Sequence[date]) -> str:
    return str(days[0]) if len(days) == 1 else f"{days[0]} .. {days[-1]}"


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
