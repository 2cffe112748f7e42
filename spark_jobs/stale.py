"""`longreel data stale`: the days to rebuild, and why. Needs no Spark.

Compares the raw bytes of the newest days with those that their events were made from, which finds corrected raw days;
all events and samples with the present definitions of fields, actions, labels, history and requests; and all samples
with their inputs. The last line is for longreel_rebuild, as JSON:

    {"start": "2026-01-06", "end": "2026-01-09", "digests": {"2026-01-06": "9f..", ...}}

Ingesting and building from start to end brings everything up to date, since both leave unchanged days as they are;
`digests` are those of the samples now. Exit code 99, and no such line, where nothing is stale.
"""

import argparse
import json
from collections.abc import Iterator
from datetime import date

from longreel.contracts.argument_types import at_least
from longreel.contracts.dates import day_range, parse_day
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.lake.lineage import stale_partitions
from longreel.lake.manifest import Manifest
from longreel.spark_jobs.days import log_progress
from longreel.spark_jobs.ingest import event_inputs, require_raw_day
from longreel.spark_jobs.sources import Source, open_source

CHANGED = "made from another raw log or table of items or users, or by another version of ingest: ingest it again"
NOTHING = 99  # what an Airflow task takes as "skip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data stale`."""
    parser.add_argument("--start", default="", help="first day to compare, YYYY-MM-DD; published or not")
    parser.add_argument("--end", default="", help="last day (default: the last with samples)")
    parser.add_argument(
        "--raw-days", type=at_least(1), default=7, help="without --start: newest days whose raw log is compared"
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Print what is stale, and the range that brings it up to date."""
    source, published = open_source(home), sorted(home.lake.days("samples"))
    if args.end and not args.start:
        raise LongreelError("--end needs --start: name the first day too")
    if args.start:
        first = parse_day(args.start)
        last = parse_day(args.end) if args.end else max([first, *published])
        days = day_range(first, last)
    else:
        days = published[-args.raw_days :]
    stale = sorted({*_changed(home, source, days), *_stale(home, days[0] if args.start else None)})
    if not stale:
        print("nothing is stale")
        return NOTHING
    end = max(stale[-1], *published) if published else stale[-1]
    for day in day_range(stale[0], end):
        require_raw_day(source, day)
    digests = {str(day): home.lake.require("samples", day).digest for day in published if day >= stale[0]}
    print(json.dumps({"start": str(stale[0]), "end": str(end), "digests": digests}))
    return 0


def _changed(home: Home, source: Source, days: list[date]) -> Iterator[date]:
    """The days whose events would be made from other raw bytes or settings now, and those without events."""
    for day in days:
        events = home.lake.manifest("events", day)
        if events is None:
            log_progress("events", day, "not published")
            yield day
        elif source.has_day(day) and _differs(events, event_inputs(home, source, day)):
            log_progress("events", day, CHANGED)
            yield day
        elif home.lake.manifest("samples", day) is None:
            log_progress("samples", day, "not published")
            yield day


def _differs(events: Manifest, inputs: dict[str, str]) -> bool:
    """Whether events were made from other inputs. Definitions are compared one by one: a new optional field makes no
    day stale."""
    return any(events.inputs.get(name) != digest for name, digest in inputs.items() if name != "definitions")


def _stale(home: Home, since: date | None) -> Iterator[date]:
    """The days whose events or samples are stale by definitions or lineage."""
    for partition in stale_partitions(home.lake, home.config, ("events", "samples")):
        if since is None or partition.day >= since:
            log_progress(partition.dataset, partition.day, "; ".join(partition.reasons))
            yield partition.day
