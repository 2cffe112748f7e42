"""What must hold for a day's samples before anyone trains on them? Above all: no request sees its own time or later."""

from datetime import date
from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from contracts.actions import LABELS
from contracts.home import Home
from contracts.lake import Manifest, Stage
from contracts.schemas import HISTORY_FIELDS, SAMPLES, TARGET_FIELDS
from spark_jobs.drift import sample_drift
from spark_jobs.quality import Between, Check, Equal, check
from spark_jobs.tables import read_files, schema_text, staged_schemas

ALL_LABELS = sum(LABELS.values())


def check_samples(
    spark: SparkSession,
    home: Home,
    day: date,
    stage: Stage,
    events: Manifest,
    num_features: int,
    *,
    accept_drift: bool = False,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Read staged samples back and run their checkpoint.

    Returns:
        The quality summary, and the counts for the manifest.

    Raises:
        QualityError: a check failed.
    """
    facts = sample_facts(spark, stage, num_features)
    settings = home.config.samples
    checks: list[Check] = [
        Equal("schema", schema_text(SAMPLES), "columns and types"),
        Equal("rows", events.counts["users"], "one row for every user of the day's events"),
        Equal("users", events.counts["users"], "no user has two rows"),
        Equal("targets", events.rows, "targets add up to the day's events"),
        Between("max_request_targets", 0, settings.max_targets, "targets of a request"),
        Equal("empty_requests", 0, "requests without targets"),
        *(Equal(name, 0, meaning) for name, (_, meaning) in broken_rows(num_features).items()),
    ]
    names = ("users", "requests", "targets", "history_events", "max_history", "max_request_targets")
    counts = {name: int(facts[name]) for name in names}
    drift_facts, drift = sample_drift(home, day, counts, accepted=accept_drift)
    return check(home.reports, day, "samples", facts | drift_facts, [*checks, *drift]), counts


def sample_facts(spark: SparkSession, stage: Stage, num_features: int) -> dict[str, Any]:
    """The scalars that the checks look at, from the staged files in one pass."""
    rows = read_files(spark, "samples", [stage.path])
    sizes = F.transform(_with_previous("request_target_end"), lambda pair: pair["end"] - pair["previous"])
    broken = broken_rows(num_features)
    per_user = rows.select(
        "user_id",
        F.size("request_time_ms").alias("requests"),
        F.size("target_item_id").alias("targets"),
        F.size("history_time_ms").alias("history"),
        F.array_max(sizes).alias("largest"),
        F.size(F.filter(sizes, lambda size: size <= 0)).alias("empty"),
        *((~condition).cast("int").alias(name) for name, (condition, _) in broken.items()),
    )
    totals = {"requests": "requests", "targets": "targets", "history_events": "history", "empty_requests": "empty"}
    totals |= {name: name for name in broken}
    found = per_user.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_distinct("user_id").alias("users"),
        F.coalesce(F.max("history"), F.lit(0)).alias("max_history"),
        F.coalesce(F.max("largest"), F.lit(0)).alias("max_request_targets"),
        *(F.coalesce(F.sum(column), F.lit(0)).alias(name) for name, column in totals.items()),
    ).collect()[0]
    return found.asDict() | {"schema": staged_schemas(stage)}


def broken_rows(num_features: int) -> dict[str, tuple[Column, str]]:
    """Name of a count -> what must hold in every row, and what a row that breaks it is called."""
    ends = F.arrays_zip(F.col("request_time_ms").alias("time"), F.col("request_history_end").alias("end"))
    history = F.col("history_time_ms")
    newest_seen = lambda r: F.try_element_at(history, r["end"])  # noqa: E731
    oldest_unseen = lambda r: F.try_element_at(history, r["end"] + 1)  # noqa: E731
    return {
        "leaking": (
            F.forall(ends, lambda r: (r["end"] == 0) | (newest_seen(r) < r["time"])),
            "users with a request that sees an event at or after its own time",
        ),
        "blind": (
            F.forall(ends, lambda r: (r["end"] == F.size(history)) | (oldest_unseen(r) >= r["time"])),
            "users with a request that misses an older event",
        ),
        "unsorted_history": (history == F.sort_array(history), "users whose history is not in time order"),
        "unsorted_requests": (_is_sorted("request_time_ms"), "users whose requests are not in time order"),
        "unequal_history": (_same_size("history", list(HISTORY_FIELDS)), "users with history lists of unequal length"),
        "unequal_targets": (
            _same_size("target", [*TARGET_FIELDS, "labels"])
            & (F.element_at("request_target_end", -1) == F.size("target_item_id")),
            "users whose requests and targets do not match",
        ),
        "unequal_requests": (
            (F.size("request_id") == F.size("request_time_ms"))
            & (F.size("request_history_end") == F.size("request_time_ms"))
            & (F.size("request_target_end") == F.size("request_time_ms")),
            "users with request lists of unequal length",
        ),
        "unknown_labels": (
            F.forall("target_labels", lambda label: label.bitwiseAND(F.lit(~ALL_LABELS)) == 0),
            "users with labels of unknown bits",
        ),
        "odd_features": (F.size("user_features") == num_features, "users without all their features"),
    }


def _is_sorted(name: str) -> Column:
    return F.col(name) == F.sort_array(name)


def _same_size(prefix: str, fields: list[str]) -> Column:
    sizes = [F.size(f"{prefix}_{field}") for field in fields]
    same = F.lit(True)
    for size in sizes[1:]:
        same = same & (size == sizes[0])
    return same


def _with_previous(name: str) -> Column:
    """Pairs of each element (`end`) with the one before it (`previous`, 0 for the first)."""
    column = F.col(name)
    shifted = F.concat(F.array(F.lit(0)), F.slice(column, 1, F.greatest(F.size(column) - 1, F.lit(0))))
    return F.arrays_zip(column.alias("end"), shifted.alias("previous"))
