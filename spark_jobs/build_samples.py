"""`longreel build-samples`: events and history -> the samples partition of a log day, compacting history when due.

Needs the events of the day and of every log day before it, back to a usable history base or to the first published
day. Nothing newer than the day is read, so any past day can be built again.
"""

import argparse
import time
from datetime import date, timedelta

from contracts.actions import action_mask
from contracts.config import Config
from contracts.errors import LongreelError
from contracts.home import Home
from contracts.lake import Manifest, digest_of
from spark_jobs.days import LazySession, add_day_arguments, code_version, days_asked, is_unchanged, say

BUILD_VERSION = 1  # raise when the same events would give other samples
SAMPLE_EVENTS_A_FILE = 20_000_000  # history events and targets
HISTORY_EVENTS_A_FILE = 20_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel build-samples`."""
    add_day_arguments(parser)


def run(args: argparse.Namespace, home: Home) -> None:
    """Build the samples of the days asked for."""
    session = LazySession("longreel build-samples")
    for day in days_asked(args):
        build_day(home, day, session, force=args.force, accept_drift=args.accept_drift)


def settings_digest(config: Config) -> str:
    """Digest of the settings that samples depend on. How often history is compacted is none of them."""
    samples = config.samples
    return digest_of(
        {
            "behaviour": sorted(config.source.behaviour),
            "max_history": samples.max_history,
            "request_rule": samples.request_rule,
            "gap_ms": samples.gap_ms if samples.request_rule == "gap" else None,
            "max_targets": samples.max_targets,
        }
    )


def build_day(home: Home, day: date, session: LazySession, *, force: bool = False, accept_drift: bool = False) -> None:
    """Build one log day's samples; does nothing where they were made from the same inputs.

    Raises:
        DataNotReadyError: events of the day, or of a log day before it, are not published.
        QualityError: the checkpoint failed, or the day is unlike the days before it and that is not accepted; what
            was published before stays.
    """
    from spark_jobs.history import find_history

    began = time.monotonic()
    config, lake = home.config, home.lake
    events, users = lake.require("events", day), lake.require("users", day)
    require_request_ids(config, events)
    source = find_history(lake, config, day)
    inputs = source.days() | {
        f"events/{day}": events.digest,
        f"users/{day}": users.digest,
        "settings": settings_digest(config),
        "build": str(BUILD_VERSION),
    }
    if is_unchanged(lake.manifest("samples", day), inputs, force):
        say("samples", day, "unchanged")
        return
    if source.span >= config.samples.compact_every_days:
        _compact(home, day - timedelta(days=1), session)
        source = find_history(lake, config, day)
    _build(home, day, session, (events, users), inputs, began, accept_drift)


def require_request_ids(config: Config, events: Manifest) -> None:
    """Raises LongreelError where the rule needs request ids that the events do not have."""
    missing = events.rows - events.counts["with_request_id"]
    if config.samples.request_rule == "request_id" and missing:
        raise LongreelError(
            f"[samples] request_rule is request_id, but {missing:,} of {events.rows:,} events of {events.date} have "
            "none; use auto, delivery_time or gap"
        )


def _build(
    home: Home,
    day: date,
    session: LazySession,
    upstream: tuple[Manifest, Manifest],
    inputs: dict[str, str],
    began: float,
    accept_drift: bool,
) -> None:
    from spark_jobs.history import bytes_of, find_history, read_history
    from spark_jobs.quality import verdict
    from spark_jobs.requests import resolved_rule
    from spark_jobs.sample_checks import check_samples
    from spark_jobs.samples import build_samples
    from spark_jobs.tables import in_schema, num_files, read_partitions, write_staged

    config, lake, (events, users) = home.config, home.lake, upstream
    source, stage = find_history(lake, config, day), lake.stage("samples", day)
    spark = session(bytes_of(events) + source.bytes())
    mask = action_mask(config.source.behaviour)
    rows = read_partitions(spark, lake, "events", [events])
    active = rows.select("user_id").distinct()
    samples = build_samples(
        rows,
        read_history(spark, lake, source, config, mask, only=active),
        read_partitions(spark, lake, "users", [users]),
        config.samples,
        mask,
        users.details["unknown_features"],
    )
    files = num_files(events.rows + source.most_events(), SAMPLE_EVENTS_A_FILE)
    try:
        digest, _ = write_staged(in_schema(samples, "samples"), stage, files=files, sort=["user_id"])
        num_features = len(users.details["user_features"])
        quality, counts = check_samples(spark, home, day, stage, events, num_features, accept_drift=accept_drift)
    except BaseException:
        stage.discard()
        raise
    details = {
        "request_rule": resolved_rule(config.samples, events.rows, events.counts["with_request_id"]),
        "behaviour": list(config.source.behaviour),
        "max_history": config.samples.max_history,
        "user_features": users.details["user_features"],
        **verdict(quality),
    }
    if not events.rows:
        details["warnings"] = ["the log day has no events", *details.get("warnings", [])]
    for warning in details.get("warnings", []):
        say("samples", day, f"warning: {warning}")
    manifest = stage.publish(
        digest=digest,
        inputs=inputs,
        counts=counts,
        details=details,
        min_time_ms=events.min_time_ms,
        max_time_ms=events.max_time_ms,
        code_version=code_version(),
    )
    made = f"{counts['users']:,} users, {counts['requests']:,} requests, {counts['targets']:,} targets"
    history = f"{counts['history_events']:,} history events (longest {counts['max_history']:,})"
    say("samples", day, f"{made}, {history}, digest {manifest.digest}", began)


def _compact(home: Home, day: date, session: LazySession) -> None:
    """Publish the history base of a log day: what every user had done up to and including it."""
    from pyspark.sql import functions as F

    from spark_jobs.history import as_lists, find_history, history_settings, read_history
    from spark_jobs.tables import in_schema, num_files, write_staged

    began = time.monotonic()
    config, lake = home.config, home.lake
    source, stage = find_history(lake, config, day + timedelta(days=1)), lake.stage("history", day)
    spark = session(source.bytes())
    try:
        past = read_history(spark, lake, source, config, action_mask(config.source.behaviour))
        rows = in_schema(past.select("user_id", *as_lists(F.col("history"))), "history")
        files = num_files(source.most_events(), HISTORY_EVENTS_A_FILE)
        sizes = F.size("history_time_ms")
        digest, seen = write_staged(
            rows,
            stage,
            files=files,
            sort=["user_id"],
            more=(F.sum(sizes).alias("events"), F.max(sizes).alias("longest")),
        )
    except BaseException:
        stage.discard()
        raise
    counts = {
        "users": int(seen["digest_rows"]),
        "history_events": int(seen["events"] or 0),
        "longest": int(seen["longest"] or 0),
        "max_history": config.samples.max_history,
    }
    manifest = stage.publish(
        digest=digest,
        inputs=source.days() | {"build": str(BUILD_VERSION)},
        counts=counts,
        details={"settings": history_settings(config)},
        code_version=code_version(),
    )
    what = f"{counts['users']:,} users, {counts['history_events']:,} behaviours, digest {manifest.digest}"
    say("history", day, what, began)
