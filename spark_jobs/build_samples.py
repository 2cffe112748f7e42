"""`longreel data build-samples`: events and history -> the samples partitions of log days; compacts history when due.

Needs the events of the days and of every log day before them, back to a usable history snapshot or to the first
published day; `--ingest-missing` ingests those that are not published. Nothing newer than a day is read, so any past
day can be rebuilt; a range is built in Spark jobs of DAYS_PER_JOB days, with the same result as day by day.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from longreel.contracts.config import Config
from longreel.contracts.definitions import sample_definitions
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.lake.home import Home
from longreel.lake.lineage import definition_changes
from longreel.lake.manifest import Manifest
from longreel.lake.table import PartitionWriter, discard_on_error
from longreel.spark_jobs.array_checks import WINDOW
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.bucket_tasks import Bucket, BuildSamples, CompactHistory, DayBuild, run_tasks
from longreel.spark_jobs.buckets import num_buckets
from longreel.spark_jobs.days import (
    LazySession,
    add_day_arguments,
    code_version,
    in_turn,
    is_unchanged,
    log_progress,
    noted_failure,
    requested_days,
)
from longreel.spark_jobs.history import (
    HistorySource,
    find_history,
    max_history_events,
    missing_days,
    partition_bytes,
    require_definitions,
)
from longreel.spark_jobs.history_checks import check_snapshot
from longreel.spark_jobs.history_events import event_bytes
from longreel.spark_jobs.ingest import ingest_day
from longreel.spark_jobs.quality import verdict
from longreel.spark_jobs.requests import resolved_rule
from longreel.spark_jobs.sample_checks import check_samples
from longreel.spark_jobs.sampled_negatives import NegativePool, negative_pool
from longreel.spark_jobs.sources import open_source
from longreel.spark_jobs.statistic_lookup import DayStatistics
from longreel.spark_jobs.statistics import build_statistics
from longreel.spark_jobs.vacuum import vacuum

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BUILD_VERSION = 4  # raise when the same events would give other samples
EVENTS_PER_BUCKET = 2_000_000  # history events that a task holds, at most, about
BYTES_PER_BUCKET = 100 * 2**20  # of those in memory, about; twice while a task compacts
MIN_EVENTS_PER_TASK = 250_000  # less than this is not worth another task
DAYS_PER_JOB = 64  # log days of one Spark job: what a killed range loses, and the most builds that are open at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data build-samples`."""
    add_day_arguments(parser)
    parser.add_argument(
        "--ingest-missing",
        action="store_true",
        help="first ingest the days whose events are missing, and those before them back to a history snapshot or the "
        "first published day; a raw log day that has not arrived stops it",
    )


def run(args: argparse.Namespace, home: Home) -> None:
    """Build the samples of the requested days."""
    days, session = requested_days(args), LazySession("longreel data build-samples")
    vacuum(home)
    if args.ingest_missing:
        ingest_missing(home, days, session, accept_drift=args.accept_drift)
    build_days(home, days, session, force=args.force, accept_drift=args.accept_drift)


def ingest_missing(home: Home, days: Sequence[date], session: LazySession, *, accept_drift: bool = False) -> None:
    """Ingest the log days that building consecutive days needs and that are not published, oldest first: up to the
    first whose raw log has not arrived, since nothing after it could be built.

    Raises:
        LongreelError, QualityError: as `ingest_day`.
    """
    missing = missing_days(home.lake, home.config, days[0])
    missing += [day for day in days if home.lake.manifest("events", day) is None]
    if not missing:
        return
    source = open_source(home)
    for day in in_turn("events", missing):
        if not source.has_day(day):
            log_progress("events", day, "not published, and its raw log has not arrived")
            return
        with noted_failure(home, "events", [day]):
            ingest_day(home, source, day, session, accept_drift=accept_drift)


@dataclass(frozen=True, kw_only=True)
class DayPlan:
    """A log day to be built, and the inputs of its samples."""

    day: date
    events: Manifest
    users: Manifest
    inputs: dict[str, str]


def build_days(
    home: Home, days: Sequence[date], session: LazySession, *, force: bool = False, accept_drift: bool = False
) -> None:
    """Build the samples of consecutive log days; samples made from the same inputs already stay as they are.

    Raises:
        DataNotReadyError: events of a day, or of a log day before it, are not published. Days before it are built.
        LongreelError: events of a day were made by other definitions. Days before it are built.
        QualityError: the checkpoint failed for a day, or it is unlike the days before it and that is not accepted; the
            days before it are published, what was there of it and of later ones stays.
    """
    config, lake = home.config, home.lake
    lake.require("events", days[0])  # the day itself is named before a gap in the days before it
    history = find_history(lake, config, days[0])
    plans, error = _plan_days(home, days, history, force)
    for job in in_turn("samples", list(_jobs(plans)), len):
        if job[0].day != days[0]:  # the job may begin on a newer snapshot
            history = find_history(lake, config, job[0].day)
        with noted_failure(home, "samples", [plan.day for plan in job]):
            _build(home, job, history, session, accept_drift)
    if error:
        raise error


def _plan_days(
    home: Home, days: Sequence[date], history: HistorySource, force: bool
) -> tuple[list[DayPlan], LongreelError | None]:
    """The days whose samples are not those of their inputs; stops before the first day that cannot be built, with the
    error that says why."""
    config, lake = home.config, home.lake
    plans: list[DayPlan] = []
    past = history.inputs()
    for day in days:
        try:
            events, users = lake.require("events", day), lake.require("users", day)
            require_definitions(events, definition_changes(events, config))
            require_request_ids(config, events)
        except LongreelError as error:
            return plans, error
        inputs = past | {f"events/{day}": events.digest, f"users/{day}": users.digest, "build": str(BUILD_VERSION)}
        past = past | {f"events/{day}": events.digest}
        published = lake.manifest("samples", day)
        if is_unchanged(published, inputs, force) and published and not definition_changes(published, config):
            log_progress("samples", day, "unchanged")
        else:
            plans.append(DayPlan(day=day, events=events, users=users, inputs=inputs))
    return plans, None


def _jobs(plans: Sequence[DayPlan]) -> Iterator[list[DayPlan]]:
    """Segments of consecutive days, of at most DAYS_PER_JOB."""
    job: list[DayPlan] = []
    for plan in plans:
        if job and (plan.day != job[-1].day + timedelta(days=1) or len(job) == DAYS_PER_JOB):
            yield job
            job = []
        job.append(plan)
    if job:
        yield job


def require_request_ids(config: Config, events: Manifest) -> None:
    """Raises LongreelError where the rule needs request ids that the events do not have."""
    missing = events.rows - events.counts["with_request_id"]
    if config.samples.request_rule == "request_id" and missing:
        raise LongreelError(
            f"[samples] request_rule is request_id, but {missing:,} of {events.rows:,} events of {events.date} have "
            "none; use auto, delivery_time or gap"
        )


def _build(
    home: Home, plans: Sequence[DayPlan], history: HistorySource, session: LazySession, accept_drift: bool
) -> None:
    """Build consecutive log days in one Spark job, compacting the history first when due; check and publish them in
    order."""
    started, lake = time.monotonic(), home.lake
    spark = session(history.size_bytes() + sum(partition_bytes(plan.events) for plan in plans))
    if len(history.increments) >= home.config.samples.compact_every_days:
        history = _compact(home, plans[0].day - timedelta(days=1), history, spark)
    statistics = build_statistics(home, [plan.day for plan in plans], spark)
    writers = [lake.writer("samples", plan.day) for plan in plans]
    with discard_on_error(*writers):
        tasks = sample_tasks(home, history, plans, writers, spark.sparkContext.defaultParallelism, statistics)
        stats_by_day = run_tasks(spark, tasks)
        for plan, writer in zip(plans, writers, strict=True):
            stats = stats_by_day.get(plan.events.date, {})
            brief = plan is not plans[-1]
            quality, counts = check_samples(home, plan.day, plan.events, stats, accept_drift=accept_drift, brief=brief)
            manifest = _publish(home, plan, writer, tasks[0].bucket.of, digest_from_sums(stats), counts, quality)
            log_progress("samples", plan.day, _format_samples(manifest), started if len(plans) == 1 else None)
            log_progress("samples", plan.day, format_history(counts, home.config.log_schema))
    if len(plans) > 1:
        log_progress("samples", plans[-1].day, f"{len(plans)} days since {plans[0].day} built", started)


def _format_samples(manifest: Manifest) -> str:
    counts = manifest.counts
    rows = f"{counts['users']:,} users, {counts['requests']:,} requests, {counts['targets']:,} targets"
    return f"{rows}, digest {manifest.digest}"


def format_history(counts: Mapping[str, int], log: LogSchema) -> str:
    """What a day's histories hold and cost, from the counts of its samples, on a line."""
    users, requests, targets = (max(1, counts[name]) for name in ("users", "requests", "targets"))
    events, full = counts["history_events"], counts["full_histories"]
    length = f"{events:,} history events, {events / users:,.0f} a user (longest {counts['max_history']:,})"
    size = f"{events * event_bytes(log) / 2**20:,.1f} MiB in memory, {counts['history_days'] / users:,.0f} days a user"
    if full:
        size += f"; full for {full:,} users, with {counts['full_history_days'] / full:,.0f} days"
    read = f"a request sees {counts['visible_events'] / requests:,.0f}"
    window = f"of its newest {WINDOW:,} a training reads {counts['window_events'] / targets:,.1f} a target"
    return f"{length}, {size}; {read}, {window}"


def _publish(
    home: Home,
    plan: DayPlan,
    writer: PartitionWriter,
    buckets: int,
    digest: str,
    counts: dict[str, int],
    quality: dict[str, Any],
) -> Manifest:
    config, events = home.config, plan.events
    details = {
        "request_rule": resolved_rule(config.samples, events.rows, events.counts["with_request_id"]),
        "definitions": sample_definitions(config),
        **verdict(quality),
    }
    if not events.rows:
        details["warnings"] = ["the log day has no events", *details.get("warnings", [])]
    for warning in details.get("warnings", []):
        log_progress("samples", plan.day, f"warning: {warning}")
    return writer.commit(
        digest=digest,
        inputs=plan.inputs,
        buckets=buckets,
        counts=counts,
        details=details,
        min_time_ms=events.min_time_ms,
        max_time_ms=events.max_time_ms,
        code_version=code_version(),
    )


def sample_tasks(
    home: Home,
    history: HistorySource,
    plans: Sequence[DayPlan],
    writers: Sequence[PartitionWriter],
    cores: int,
    statistics: Mapping[date, DayStatistics],
) -> list[BuildSamples]:
    """The tasks that build some consecutive log days together.

    Users are spread over as many buckets as keep a task small. Where those leave cores idle, a single day is cut into
    more buckets, and several days into runs of days: one file a day is what readers like best.
    """
    log = home.config.log_schema
    size = history.max_events(log) + sum(max_history_events(plan.events, log) for plan in plans)
    buckets, cores = num_buckets(size, events_per_bucket(log)), min(cores, num_buckets(size, MIN_EVENTS_PER_TASK))
    slices = 1
    if buckets < cores:
        slices = min(-(-cores // buckets), len(plans))
        if slices == 1:
            buckets = num_buckets(cores, 1)
    days = [
        DayBuild(
            events=plan.events,
            users=plan.users,
            writer=writer,
            negatives=_negatives(home, plan.events),
            statistics=statistics.get(plan.day),
        )
        for plan, writer in zip(plans, writers, strict=True)
    ]
    bounds = [round(number * len(days) / slices) for number in range(slices + 1)]
    tasks = []
    for first, last in itertools.pairwise(bounds):
        earlier = tuple(day.events for day in days[:first])
        for bucket in _buckets(home, HistorySource(history.snapshot, history.increments + earlier), buckets):
            tasks.append(BuildSamples(bucket=bucket, days=tuple(days[first:last]), settings=home.config.samples))
    return tasks


def _negatives(home: Home, events: Manifest) -> NegativePool | None:
    draws = home.config.samples.sampled_negatives
    return negative_pool(home.lake, events, draws) if draws and events.rows else None


def _buckets(home: Home, history: HistorySource, buckets: int) -> Iterator[Bucket]:
    lake, config = home.lake, home.config.samples
    for number in range(buckets):
        yield Bucket(
            lake=lake,
            number=number,
            of=buckets,
            snapshot=history.snapshot,
            increments=history.increments,
            max_history=config.max_history,
            max_lateness_hours=home.config.source.max_lateness_hours,
        )


def events_per_bucket(log: LogSchema) -> int:
    """History events that a task holds, about: fewer of a log with many columns."""
    return max(1, min(EVENTS_PER_BUCKET, BYTES_PER_BUCKET // event_bytes(log)))


def _compact(home: Home, day: date, history: HistorySource, spark: "SparkSession") -> HistorySource:
    """Publish the history up to and including a log day as a snapshot; returns the history as that snapshot."""
    started, writer = time.monotonic(), home.lake.writer("history", day)
    log = home.config.log_schema
    buckets = num_buckets(history.max_events(log), events_per_bucket(log))
    with discard_on_error(writer):
        parts = list(_buckets(home, history, buckets))
        tasks = [CompactHistory(bucket=bucket, day=day, writer=writer) for bucket in parts]
        stats = run_tasks(spark, tasks)[day.isoformat()]
        counts = {
            "users": stats["compacted_users"],
            "history_events": stats["compacted_events"],
            "longest_history": stats.get("max_history", 0),
            "max_history": home.config.samples.max_history,
        }
        quality = check_snapshot(home, day, stats, counts)
        manifest = writer.commit(
            digest=digest_from_sums(stats),
            inputs=history.inputs() | {"build": str(BUILD_VERSION)},
            buckets=buckets,
            counts=counts,
            details={
                "definitions": sample_definitions(home.config),
                "cutoff_ms": parts[0].cutoff_ms(day),
                "quality": f"{len(quality['checks'])} checks passed",
            },
            code_version=code_version(),
        )
    rows = f"{counts['users']:,} users, {counts['history_events']:,} history events"
    log_progress("history", day, f"{rows}, digest {manifest.digest}", started)
    return HistorySource(manifest, ())
