"""Checks of a day's events before they are published."""

import functools
import operator
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.schemas import schema_text
from longreel.lake.home import Home
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.day_bounds import event_bounds_ms, log_day_bounds_ms
from longreel.spark_jobs.drift import Drift
from longreel.spark_jobs.field_checks import equal_to_label, sample_of
from longreel.spark_jobs.quality import Between, Check, Equal, check
from longreel.spark_jobs.rejected_rows import explained
from longreel.spark_jobs.row_counts import Rejected, format_reasons, quarantined_share
from longreel.spark_jobs.tables import read_staged, staged_schemas

MAX_DUPLICATE_SHARE = 0.02  # 0.2 % in KuaiRand-Pure
NONE = "none"


def check_events(
    spark: SparkSession,
    home: Home,
    day: date,
    writer: PartitionWriter,
    counts: dict[str, int],
    drift: Drift,
    without_values: list[str],
    rejected: Mapping[str, Rejected],
) -> dict[str, Any]:
    """Read staged events back and run their checkpoint; returns the quality summary.

    Args:
        drift: the day against the days before it, checked with the rest.
        without_values: required fields that have no value in any row.
        rejected: the quarantined rows by reason.

    Raises:
        QualityError: a check failed.
    """
    config, source = home.config, home.config.source
    start_ms, _ = log_day_bounds_ms(day, source)
    oldest_ms, end_ms = event_bounds_ms(day, source)
    stats = event_stats(spark, writer, default_time_ms=start_ms)
    equal = equal_to_label(config.log_schema, config.tasks, sample_of(writer))
    stats |= {
        "quarantined_share": quarantined_share(counts),
        "fields_without_values": ", ".join(without_values) or NONE,
        "fields_equal_to_a_label": ", ".join(equal) or NONE,
        **drift.stats,
    }
    all_actions = (1 << len(config.log_schema.actions)) - 1
    checks: list[Check] = [
        Equal("schema", schema_text(home.lake.schemas.events), "columns and types"),
        Equal("rows", counts["events"], "rows written are the rows accepted"),
        Between(
            "quarantined_share",
            0,
            source.max_quarantined_share,
            f"share of rows quarantined{format_reasons(counts)}",
            remedy=explained(config, (oldest_ms, end_ms), rejected),
        ),
        Between(
            "duplicate_keys",
            0,
            max_duplicate_keys(counts["events"]),
            "events that share user, item and time with another",
        ),
        Between("min_time_ms", oldest_ms, end_ms - 1, "earliest event within the allowed lateness"),
        Between("max_time_ms", oldest_ms, end_ms - 1, "latest event before the log day ends"),
        Between("min_actions", 0, all_actions, "action bits are known"),
        Between("max_actions", 0, all_actions, "action bits are known"),
        Equal("null_rows", 0, "events with null in a column that must have a value"),
        Equal(
            "fields_without_values",
            NONE,
            "declared fields without a value in any row",
            remedy="correct the column or the field's `from`, or set optional = true for it",
        ),
        Equal(
            "fields_equal_to_a_label",
            NONE,
            "fields of items and requests that tell a label",
            remedy="such a field comes from the outcome, which is not known when an item is served: remove it, or "
            "declare it in [fields.event]",
        ),
        *drift.checks,
    ]
    return check(home.reports, day, "events", stats, checks)


def max_duplicate_keys(events: int) -> int:
    """Events that may share user, item and time with another: a share, or a few on a small day."""
    return max(20, int(MAX_DUPLICATE_SHARE * events))


def event_stats(spark: SparkSession, writer: PartitionWriter, default_time_ms: int) -> dict[str, Any]:
    """The scalars that the checks need, from the staged files in one pass. A day without events has neutral ones."""
    events = read_staged(spark, writer)
    extremes = {"min_time_ms": default_time_ms, "max_time_ms": default_time_ms, "min_actions": 0, "max_actions": 0}
    required = [field.name for field in writer.lake.schemas.events if not field.nullable]
    has_null = functools.reduce(operator.or_, (F.col(name).isNull() for name in required))
    per_key = events.groupBy("user_id", "item_id", "time_ms").agg(
        F.count(F.lit(1)).alias("rows"),
        *(_extreme(name)(name.split("_", 1)[1]).alias(name) for name in extremes),
        F.count_if(has_null).alias("null_rows"),
    )
    total = per_key.agg(
        F.coalesce(F.sum("rows"), F.lit(0)).alias("rows"),
        F.count(F.lit(1)).alias("keys"),
        *(F.coalesce(_extreme(name)(name), F.lit(value)).alias(name) for name, value in extremes.items()),
        F.coalesce(F.sum("null_rows"), F.lit(0)).alias("null_rows"),
    ).collect()[0]
    stats: dict[str, Any] = total.asDict()
    stats["duplicate_keys"] = stats["rows"] - stats.pop("keys")
    return stats | {"schema": staged_schemas(writer)}


def _extreme(name: str) -> Callable[[str], Column]:
    return F.min if name.startswith("min_") else F.max
