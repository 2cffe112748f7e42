"""`longreel data ingest`: one raw log day -> events, quarantine and users partitions, every input row counted.

    input rows = events + quarantined rows + exact duplicates + suppressed rows + filtered rows

Of rows that are equal in every raw column one is kept; the others are the exact duplicates. Filtered rows are those for
which [source] where does not hold. Rows of users on the suppression list (`longreel data forget`) are left out, events
or not. Quarantine and users are published before
events, so a published day of events always has both.
"""

import argparse
import time
from datetime import date

from longreel.contracts.config import Config
from longreel.contracts.definitions import event_definitions
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import DataNotReadyError
from longreel.lake.home import Home
from longreel.lake.table import discard_on_error
from longreel.spark_jobs.bootstrap_snapshot import require_after_bootstrap
from longreel.spark_jobs.days import (
    LazySession,
    add_day_arguments,
    in_turn,
    is_unchanged,
    log_progress,
    noted_failure,
    requested_days,
)
from longreel.spark_jobs.row_counts import format_counts
from longreel.spark_jobs.sources import Source, name_damaged_file, open_source
from longreel.spark_jobs.vacuum import vacuum

INGEST_VERSION = 5  # raise when the same raw bytes would give other rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data ingest`."""
    add_day_arguments(parser)


def run(args: argparse.Namespace, home: Home) -> None:
    """Ingest the requested days."""
    source = open_source(home)
    session = LazySession("longreel data ingest")
    vacuum(home)
    for day in in_turn("events", requested_days(args)):
        with noted_failure(home, "events", [day]):
            ingest_day(home, source, day, session, force=args.force, accept_drift=args.accept_drift)


def event_inputs(home: Home, source: Source, day: date) -> dict[str, str]:
    """What a day's events depend on. The quality limit is not part of it: it decides whether a day is published."""
    return {"raw": source.digest(day), "definitions": definitions_digest(home.config), "ingest": str(INGEST_VERSION)}


def definitions_digest(config: Config) -> str:
    """Digest of the declarations that decide what raw rows become."""
    return digest_of(event_definitions(config))


def require_raw_day(source: Source, day: date) -> None:
    """Raises DataNotReadyError where the raw log has not arrived for a day."""
    if not source.has_day(day):
        days = source.days()
        have = f"has days {days[0]} .. {days[-1]}" if days else "has no day yet"
        raise DataNotReadyError(f"the raw log in {source.root} {have}, not {day}{source.arrives_with}")


def ingest_day(
    home: Home, source: Source, day: date, session: LazySession, *, force: bool = False, accept_drift: bool = False
) -> None:
    """Ingest one log day; does nothing where the same inputs are published already.

    Raises:
        DataNotReadyError: the raw day has not arrived.
        LongreelError: the bootstrap snapshot stands for the day, a raw file is damaged, or an expression of the
            configuration does not fit its columns.
        QualityError: the checkpoint failed, or the day is unlike the days before it and that is not accepted; what
            was published before stays.
    """
    started = time.monotonic()
    require_raw_day(source, day)
    require_after_bootstrap(home.lake, day)
    inputs = event_inputs(home, source, day)
    if is_unchanged(home.lake.manifest("events", day), inputs, force):
        log_progress("events", day, "unchanged")
        return

    from longreel.spark_jobs.ingest_run import IngestRun  # imports Spark, which an unchanged day does not need

    writers = {name: home.lake.writer(name, day) for name in ("quarantine", "users", "events")}
    with discard_on_error(*writers.values()), name_damaged_file(source.files(day)):
        spark = session(source.input_bytes(day))
        ingest = IngestRun(
            home=home, source=source, day=day, spark=spark, writers=writers, inputs=inputs, accept_drift=accept_drift
        )
        staged = ingest.write(ingest.validate(ingest.parse()))
        manifest = ingest.publish(staged, ingest.check(staged))
    counts = f"{format_counts(manifest.counts)}, {manifest.counts['users']:,} users"
    log_progress("events", day, f"{counts}, digest {manifest.digest}", started)
