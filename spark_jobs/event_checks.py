"""Checks of a day's events before they are published."""

from collections.abc import Callable
from datetime import date
from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.schemas import EVENTS, schema_text
from longreel.lake.home import Home
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.day_bounds import event_bounds_ms, log_day_bounds_ms
from longreel.spark_jobs.drift import Drift
from longreel.spark_jobs.quality import Between, Check, Equal, check
from longreel.spark_jobs.row_counts import format_reasons, quarantined_share
from longreel.spark_jobs.tables import read_files, staged_schemas
from longreel.spark_jobs.validate import ALL_ACTIONS

MAX_DUPLICATE_SHARE = 0.02  # 0.2 % in KuaiRand-Pure
REQUIRED_COLUMNS = [field.name for field in EVENTS if not field.nullable]


def check_events(
    spark: SparkSession,
    home: Home,
    day: date,
    writer: PartitionWriter,
    counts: dict[str, int],
    drift: Drift,
) -> dict[str, Any]:
    """Read staged events back and run their checkpoint; returns the quality summary.

    Args:
        drift: the day against the days before it, checked with the rest.

    Raises:
        QualityError: a check failed.
    """
    source = home.config.source
    start_ms, _ = log_day_bounds_ms(day, source)
    oldest_ms, end_ms = event_bounds_ms(day, source)
    stats = event_stats(spark, writer, default_time_ms=start_ms)
    stats |= {"quarantined_share": quarantined_share(counts), **drift.stats}
    checks: list[Check] = [
        Equal("schema", schema_text(EVENTS), "columns and types"),
        Equal("rows", counts["events"], "rows written are the rows accepted"),
        Between(
            "quarantined_share", 0, source.max_quarantined_share, f"share of rows quarantined{format_reasons(counts)}"
        ),
        Between(
            "duplicate_keys",
            0,
            max_duplicate_keys(counts["events"]),
            "events that share user, item and time with another",
        ),
        Between("min_time_ms", oldest_ms, end_ms - 1, "earliest event within the allowed lateness"),
        Between("max_time_ms", oldest_ms, end_ms - 1, "latest event before the log day ends"),
        Between("min_actions", 0, ALL_ACTIONS, "action bits are known"),
        Between("max_actions", 0, ALL_ACTIONS, "action bits are known"),
        Between("min_play_ms", 0, None, "play time is not negative"),
        Between("min_duration_ms", 0, None, "duration is not negative"),
        *(Equal(f"null_{name}", 0, f"every event has {name}") for name in REQUIRED_COLUMNS),
        *drift.checks,
    ]
    return check(home.reports, day, "events", stats, checks)


def max_duplicate_keys(events: int) -> int:
    """Events that may share user, item and time with another: a share, or a few on a small day."""
    return max(20, int(MAX_DUPLICATE_SHARE * events))


def event_stats(spark: SparkSession, writer: PartitionWriter, default_time_ms: int) -> dict[str, Any]:
    """The scalars that the checks need, from the staged files in one pass. A day without events has neutral ones."""
    events = read_files(spark, "events", [writer.path])
    extremes = {"min_time_ms": default_time_ms, "max_time_ms": default_time_ms, "min_actions": 0, "max_actions": 0}
    extremes |= {"min_play_ms": 0, "min_duration_ms": 0}
    per_key = events.groupBy("user_id", "item_id", "time_ms").agg(
        F.count(F.lit(1)).alias("rows"),
        *(_extreme(name)(name.split("_", 1)[1]).alias(name) for name in extremes),
        *(F.count_if(F.col(name).isNull()).alias(f"null_{name}") for name in REQUIRED_COLUMNS),
    )
    total = per_key.agg(
        F.coalesce(F.sum("rows"), F.lit(0)).alias("rows"),
        F.count(F.lit(1)).alias("keys"),
        *(F.coalesce(_extreme(name)(name), F.lit(value)).alias(name) for name, value in extremes.items()),
        *(F.coalesce(F.sum(f"null_{name}"), F.lit(0)).alias(f"null_{name}") for name in REQUIRED_COLUMNS),
    ).collect()[0]
    stats: dict[str, Any] = total.asDict()
    stats["duplicate_keys"] = stats["rows"] - stats.pop("keys")
    return stats | {"schema": staged_schemas(writer)}


def _extreme(name: str) -> Callable[[str], Column]:
    return F.min if name.startswith("min_") else F.max
