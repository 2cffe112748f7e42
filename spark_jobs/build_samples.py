"""`longreel data build-samples`: events and history -> the samples partitions of log days; compacts history when due.

Needs the events of the days and of every log day before them, back to a usable history base or to the first published
day; `--ingest-missing` ingests those that are not published. Nothing newer than a day is read, so any past day can be
built again; a range is built in one Spark job for each STRETCH of days, which gives what building day by day gives.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from longreel.contracts.actions import action_mask
from longreel.contracts.config import Config
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import PartitionWriter, discard_on_error
from longreel.spark_jobs.buckets import num_buckets
from longreel.spark_jobs.days import LazySession, add_day_arguments, code_version, days_asked, is_unchanged, say
from longreel.spark_jobs.history import HistorySource, bytes_of, find_history, history_settings, missing_days
from longreel.spark_jobs.ingest import ingest_day
from longreel.spark_jobs.sources import open_source
from longreel.spark_jobs.vacuum import vacuum

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from longreel.spark_jobs.array_checks import Facts
    from longreel.spark_jobs.bucket_tasks import Bucket, BuildSamples, CompactHistory
    from longreel.spark_jobs.removal import RemoveUsers

BUILD_VERSION = 2  # raise when the same events would give other samples
BUCKET_BEHAVIOURS = 2_000_000  # behaviours that a task holds, about: 52 bytes each, twice while it folds
TASK_BEHAVIOURS = 250_000  # less than this is not worth another task
MOST_TASKS = 4_096  # of a Spark job; more share one, and what they return is a few numbers a file
STRETCH = 64  # log days of one Spark job: what a killed range loses, and the most builds that are open at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data build-samples`."""
    add_day_arguments(parser)
    parser.add_argument(
        "--ingest-missing",
        action="store_true",
        help="first ingest what is not published of the log days that this needs, where their raw log has arrived: the "
        "days themselves and those before them, back to a history base or to the first published day",
    )


def run(args: argparse.Namespace, home: Home) -> None:
    """Build the samples of the days asked for."""
    days, session = days_asked(args), LazySession("longreel data build-samples")
    vacuum(home.lake)
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
    for day in missing:
        if not source.has_day(day):
            say("events", day, "not published, and its raw log has not arrived")
            return
        ingest_day(home, source, day, session, accept_drift=accept_drift)


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A log day that is to be built, and all that its samples will be made from."""

    day: date
    events: Manifest
    users: Manifest
    inputs: dict[str, str]


def build_days(
    home: Home, days: Sequence[date], session: LazySession, *, force: bool = False, accept_drift: bool = False
) -> None:
    """Build the samples of consecutive log days; those made from the same inputs already are left as they are.

    Raises:
        DataNotReadyError: events of a day, or of a log day before it, are not published. Days before it are built.
        QualityError: the checkpoint failed for a day, or it is unlike the days before it and that is not accepted; the
            days before it are published, what was there of it and of later ones stays.
    """
    stretch: list[Plan] = []
    try:
        for plan in _plans(home, days, force):
            if stretch and (plan.day != stretch[-1].day + timedelta(days=1) or len(stretch) == STRETCH):
                _build(home, stretch, session, accept_drift)
                stretch = []
            stretch.append(plan)
    except LongreelError:
        if stretch:
            _build(home, stretch, session, accept_drift)
        raise
    if stretch:
        _build(home, stretch, session, accept_drift)


def _plans(home: Home, days: Sequence[date], force: bool) -> Iterator[Plan]:
    config, lake = home.config, home.lake
    past: dict[str, str] | None = None
    for day in days:
        events, users = lake.require("events", day), lake.require("users", day)
        require_request_ids(config, events)
        past = find_history(lake, config, day).days() if past is None else past
        about = {"settings": settings_digest(config), "build": str(BUILD_VERSION)}
        inputs = past | {f"events/{day}": events.digest, f"users/{day}": users.digest} | about
        past = past | {f"events/{day}": events.digest}
        if is_unchanged(lake.manifest("samples", day), inputs, force):
            say("samples", day, "unchanged")
        else:
            yield Plan(day=day, events=events, users=users, inputs=inputs)


def require_request_ids(config: Config, events: Manifest) -> None:
    """Raises LongreelError where the rule needs request ids that the events do not have."""
    missing = events.rows - events.counts["with_request_id"]
    if config.samples.request_rule == "request_id" and missing:
        raise LongreelError(
            f"[samples] request_rule is request_id, but {missing:,} of {events.rows:,} events of {events.date} have "
            "none; use auto, delivery_time or gap"
        )


def _build(home: Home, plans: Sequence[Plan], session: LazySession, accept_drift: bool) -> None:
    """Build consecutive log days in one Spark job and publish them in order."""
    from longreel.spark_jobs.sample_checks import check_samples

    began, config, lake = time.monotonic(), home.config, home.lake
    source = find_history(lake, config, plans[0].day)
    spark = session(source.bytes() + sum(bytes_of(plan.events) for plan in plans))
    if source.span >= config.samples.compact_every_days:
        _compact(home, plans[0].day - timedelta(days=1), session)
        source = find_history(lake, config, plans[0].day)
    writers = [lake.writer("samples", plan.day) for plan in plans]
    with discard_on_error(*writers):
        tasks = sample_tasks(home, source, plans, writers, spark.sparkContext.defaultParallelism)
        found = run_tasks(spark, tasks)
        for plan, writer in zip(plans, writers, strict=True):
            facts = found.get(plan.events.date, {})
            brief = plan is not plans[-1]
            quality, counts = check_samples(home, plan.day, plan.events, facts, accept_drift=accept_drift, brief=brief)
            _publish(home, plan, writer, tasks[0].bucket.of, facts, counts, quality)
            made = f"{counts['users']:,} users, {counts['requests']:,} requests, {counts['targets']:,} targets"
            history = f"{counts['history_events']:,} history events (longest {counts['max_history']:,})"
            alone = began if len(plans) == 1 else None
            digest = lake.require("samples", plan.day).digest
            say("samples", plan.day, f"{made}, {history}, digest {digest}", alone)
    if len(plans) > 1:
        say("samples", plans[-1].day, f"{len(plans)} days since {plans[0].day} built", began)


def _publish(
    home: Home,
    plan: Plan,
    writer: PartitionWriter,
    buckets: int,
    facts: "Facts",
    counts: dict[str, int],
    quality: dict[str, Any],
) -> None:
    from longreel.spark_jobs.array_digest import digest_from
    from longreel.spark_jobs.quality import verdict
    from longreel.spark_jobs.requests import resolved_rule

    config, events = home.config, plan.events
    details = {
        "request_rule": resolved_rule(config.samples, events.rows, events.counts["with_request_id"]),
        "behaviour": list(config.source.behaviour),
        "max_history": config.samples.max_history,
        "user_features": plan.users.details["user_features"],
        **verdict(quality),
    }
    if not events.rows:
        details["warnings"] = ["the log day has no events", *details.get("warnings", [])]
    for warning in details.get("warnings", []):
        say("samples", plan.day, f"warning: {warning}")
    writer.commit(
        digest=digest_from(facts),
        inputs=plan.inputs,
        buckets=buckets,
        counts=counts,
        details=details,
        min_time_ms=events.min_time_ms,
        max_time_ms=events.max_time_ms,
        code_version=code_version(),
    )


def sample_tasks(
    home: Home, source: HistorySource, plans: Sequence[Plan], writers: Sequence[PartitionWriter], cores: int
) -> list["BuildSamples"]:
    """The tasks that build some consecutive log days together.

    Users are spread over as many buckets as keep a task small. Where those leave cores idle, a single day is cut into
    more buckets, and several days into runs of days: one file a day is what readers like best.
    """
    from longreel.spark_jobs.bucket_tasks import BuildSamples, Day

    size = source.most_events() + sum(plan.events.rows for plan in plans)
    buckets, cores = num_buckets(size, BUCKET_BEHAVIOURS), min(cores, num_buckets(size, TASK_BEHAVIOURS))
    slices = 1
    if buckets < cores:
        slices = min(-(-cores // buckets), len(plans))
        if slices == 1:
            buckets = num_buckets(cores, 1)
    days = [
        Day(events=plan.events, users=plan.users, writer=writer) for plan, writer in zip(plans, writers, strict=True)
    ]
    bounds = [round(number * len(days) / slices) for number in range(slices + 1)]
    tasks = []
    for first, last in itertools.pairwise(bounds):
        earlier = tuple(day.events for day in days[:first])
        for bucket in _buckets(home, HistorySource(source.base, source.deltas + earlier), buckets):
            tasks.append(BuildSamples(bucket=bucket, days=tuple(days[first:last]), settings=home.config.samples))
    return tasks


def _buckets(home: Home, source: HistorySource, buckets: int) -> Iterator["Bucket"]:
    from longreel.spark_jobs.bucket_tasks import Bucket

    for number in range(buckets):
        yield Bucket(
            lake_root=home.lake.root,
            number=number,
            of=buckets,
            base=source.base,
            deltas=source.deltas,
            mask=action_mask(home.config.source.behaviour),
            max_history=home.config.samples.max_history,
        )


def run_tasks(
    spark: "SparkSession", tasks: Sequence["BuildSamples | CompactHistory | RemoveUsers"]
) -> dict[str, "Facts"]:
    """Run tasks in one Spark job; returns what each log day's files were found to hold, all buckets together."""
    from longreel.spark_jobs.array_checks import combined

    parts: dict[str, list[Facts]] = {}
    jobs = spark.sparkContext.parallelize(tasks, min(len(tasks), MOST_TASKS))
    for day, facts in jobs.flatMap(lambda task: task.run()).collect():
        parts.setdefault(day, []).append(facts)
    return {day: combined(facts) for day, facts in parts.items()}


def _compact(home: Home, day: date, session: LazySession) -> None:
    """Publish the history base of a log day: what every user had done up to and including it."""
    from longreel.spark_jobs.array_digest import digest_from
    from longreel.spark_jobs.bucket_tasks import CompactHistory
    from longreel.spark_jobs.history_checks import check_base

    began, config, lake = time.monotonic(), home.config, home.lake
    source, writer = find_history(lake, config, day + timedelta(days=1)), lake.writer("history", day)
    spark, buckets = session(source.bytes()), num_buckets(source.most_events(), BUCKET_BEHAVIOURS)
    with discard_on_error(writer):
        tasks = [CompactHistory(bucket=bucket, day=day, writer=writer) for bucket in _buckets(home, source, buckets)]
        facts = run_tasks(spark, tasks)[day.isoformat()]
        counts = {
            "users": facts["folded_users"],
            "history_events": facts["folded_events"],
            "longest": facts.get("max_history", 0),
            "max_history": config.samples.max_history,
        }
        quality = check_base(home, day, facts, counts)
        manifest = writer.commit(
            digest=digest_from(facts),
            inputs=source.days() | {"build": str(BUILD_VERSION)},
            buckets=buckets,
            counts=counts,
            details={"settings": history_settings(config), "quality": f"{len(quality['checks'])} checks passed"},
            code_version=code_version(),
        )
    what = f"{counts['users']:,} users, {counts['history_events']:,} behaviours, digest {manifest.digest}"
    say("history", day, what, began)
