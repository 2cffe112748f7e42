"""`longreel data ingest`: one raw log day -> events, quarantine and users partitions, every input row accounted for.

    input rows = events + quarantined rows + exact repeats + suppressed rows

Of rows that are equal in every raw column one is kept; the others are the exact repeats. What is kept of users whom the
lake was told to forget (`longreel data forget`), events or not, is left out. Quarantine and users are published before
events, so a published day of events always has both.
"""

import argparse
import time
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any

from longreel.contracts.actions import ACTIONS
from longreel.contracts.config import Config
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import DataNotReadyError
from longreel.contracts.schemas import HISTORY_FIELDS
from longreel.lake.erasure import suppression_list
from longreel.lake.home import Home
from longreel.lake.table import PartitionWriter, discard_on_error
from longreel.spark_jobs.bootstrap_snapshot import require_after_archive
from longreel.spark_jobs.days import LazySession, add_day_arguments, code_version, days_asked, is_unchanged, say
from longreel.spark_jobs.row_counts import account_of, require_closed, told
from longreel.spark_jobs.sources import Source, damage_named, open_source
from longreel.spark_jobs.vacuum import vacuum

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

INGEST_VERSION = 2  # raise when the same raw bytes would give other rows
BUCKET_ROWS = 2_000_000  # of a file, about
EVENT_ORDER = ["user_id", *HISTORY_FIELDS, "request_id"]  # the order in which samples are built


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data ingest`."""
    add_day_arguments(parser)


def run(args: argparse.Namespace, home: Home) -> None:
    """Ingest the days asked for."""
    source = open_source(home)
    session = LazySession("longreel data ingest")
    vacuum(home.lake)
    for day in days_asked(args):
        ingest_day(home, source, day, session, force=args.force, accept_drift=args.accept_drift)


def inputs_of(home: Home, source: Source, day: date) -> dict[str, str]:
    """What a day's events depend on. The quality limit is no part of it: it decides whether, not what."""
    return {"raw": source.digest(day), "settings": settings_digest(home.config), "ingest": str(INGEST_VERSION)}


def settings_digest(config: Config) -> str:
    """Digest of the settings that decide what raw rows become."""
    settings = asdict(config.source)
    for name in ("log", "ready_file", "behaviour", "max_quarantined_share"):
        settings.pop(name)
    return digest_of(settings)


def require_raw(source: Source, day: date) -> None:
    """Raises DataNotReadyError where the raw log has not arrived for a day."""
    if not source.has_day(day):
        days = source.days()
        have = f"has days {days[0]} .. {days[-1]}" if days else "has no day yet"
        raise DataNotReadyError(f"the raw log in {source.root} {have}, not {day}{source.arrives_with}")


def distinct_rows(rows: "DataFrame") -> "DataFrame":
    """One of each set of rows that are equal in every raw column, with how many `copies` there were."""
    from pyspark.sql import functions as F

    kept = (F.min("source_file").alias("source_file"), F.min("unreadable").alias("unreadable"))
    return rows.groupBy("row").agg(F.count(F.lit(1)).alias("copies"), *kept)


def quarantine_of(judged: "DataFrame") -> "DataFrame":
    """The rows with a reason, as the quarantine keeps them; nothing of forgotten users."""
    from pyspark.sql import functions as F

    from longreel.spark_jobs.row_counts import SUPPRESSED

    refused = judged.where(F.col("reason") != SUPPRESSED)
    return refused.select("reason", "source_file", F.to_json("row", {"ignoreNullFields": "false"}).alias("row"))


def ingest_day(
    home: Home, source: Source, day: date, session: LazySession, *, force: bool = False, accept_drift: bool = False
) -> None:
    """Ingest one log day; does nothing where the same inputs are published already.

    Raises:
        DataNotReadyError: the raw day has not arrived.
        LongreelError: the day lies within the imported archive, or a raw file is damaged.
        QualityError: the checkpoint failed, or the day is unlike the days before it and that is not accepted; what
            was published before stays.
    """
    began = time.monotonic()
    require_raw(source, day)
    require_after_archive(home.lake, day)
    inputs = inputs_of(home, source, day)
    published = home.lake.manifest("events", day)
    if is_unchanged(published, inputs, force):
        say("events", day, "unchanged")
        return
    writers = {name: home.lake.writer(name, day) for name in ("quarantine", "users", "events")}
    with discard_on_error(*writers.values()), damage_named(source.files(day)):
        _build(home, source, day, session, inputs, writers, began, accept_drift)


def _build(
    home: Home,
    source: Source,
    day: date,
    session: LazySession,
    inputs: dict[str, str],
    writers: dict[str, PartitionWriter],
    began: float,
    accept_drift: bool,
) -> None:
    from longreel.spark_jobs.buckets import num_buckets
    from longreel.spark_jobs.drift import NEW_ITEM_EVENTS, event_drift, trailing_days
    from longreel.spark_jobs.event_checks import check_events
    from longreel.spark_jobs.items import count_items
    from longreel.spark_jobs.quality import verdict
    from longreel.spark_jobs.suppression import with_suppressed
    from longreel.spark_jobs.tables import in_schema, write_staged
    from longreel.spark_jobs.users import unknown_features, user_features, write_users
    from longreel.spark_jobs.validate import event_bounds_ms, judge

    size = sum(path.stat().st_size for path in source.files(day))
    spark, settings = session(size), home.config.source
    rows = distinct_rows(source.rows(spark, day))
    judged = judge(source.standard(rows), event_bounds_ms(day, settings), source.hashes_text_ids)
    judged = with_suppressed(judged, suppression_list(home.lake.storage)).persist()
    counts = account_of(judged)
    events = in_schema(judged.where("reason IS NULL"), "events")
    buckets = num_buckets(counts["events"], BUCKET_ROWS)
    digest, seen = write_staged(events, writers["events"], buckets=buckets, sort=EVENT_ORDER, more=facts_of_events())
    refused_digest, refused = write_staged(
        in_schema(quarantine_of(judged), "quarantine"), writers["quarantine"], sort=["reason", "row"]
    )
    judged.unpersist()
    require_closed(counts, seen["digest_rows"], refused["digest_rows"], day)
    names, features = user_features(source, spark, source.hashes_text_ids)
    users_digest, users = write_users(spark, writers, names, features, buckets)
    counts |= {"users": users} | {name: seen[name] for name in ("with_request_id", *(f"action_{a}" for a in ACTIONS))}
    past = trailing_days(home.lake, "events", day, home.config.drift)
    counts["items"], new_item_events = count_items(spark, home.lake, writers["events"], past)
    drift = event_drift(home.config.drift, day, counts, new_item_events, past, accepted=accept_drift)
    quality = check_events(spark, home, day, writers["events"], counts, drift)

    about: dict[str, Any] = {"inputs": inputs, "code_version": code_version()}
    writers["quarantine"].commit(digest=refused_digest, counts=counts, **about)
    details: dict[str, Any] = {"user_features": names, "unknown_features": unknown_features(spark, names)}
    writers["users"].commit(digest=users_digest, buckets=buckets, counts={"users": users}, details=details, **about)
    details = {**verdict(quality), "source": settings.kind}
    if new_item_events is not None:
        details[NEW_ITEM_EVENTS] = new_item_events
    if not counts["input_rows"]:
        details["warnings"] = ["the log day has no rows", *details.get("warnings", [])]
    for warning in details.get("warnings", []):
        say("events", day, f"warning: {warning}")
    manifest = writers["events"].commit(
        digest=digest,
        buckets=buckets,
        counts=counts,
        details=details,
        min_time_ms=seen["min_time_ms"],
        max_time_ms=seen["max_time_ms"],
        **about,
    )
    say("events", day, f"{told(counts)}, {users:,} users, digest {manifest.digest}", began)


def facts_of_events() -> tuple[Any, ...]:
    """What a manifest tells of its events, as aggregates of them."""
    from pyspark.sql import functions as F

    return (
        F.min("time_ms").alias("min_time_ms"),
        F.max("time_ms").alias("max_time_ms"),
        F.count("request_id").alias("with_request_id"),
        *(
            F.count_if(F.col("actions").bitwiseAND(F.lit(bit)) != 0).alias(f"action_{name}")
            for name, bit in ACTIONS.items()
        ),
    )
