"""What must hold for an imported archive before a day's samples are built on it?"""

from datetime import date
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from contracts.home import Home
from contracts.lake import Stage
from contracts.schemas import HISTORY, HISTORY_FIELDS
from spark_jobs.quality import Between, Check, Equal, check
from spark_jobs.tables import read_files, schema_text, staged_schemas
from spark_jobs.validate import log_day_bounds_ms


def check_archive(
    spark: SparkSession, home: Home, through: date, stage: Stage, counts: dict[str, int]
) -> dict[str, Any]:
    """Read a staged base back and run its checkpoint; returns the quality summary.

    Raises:
        QualityError: a check failed.
    """
    source, (_, end_ms) = home.config.source, log_day_bounds_ms(through, home.config.source)
    distinct = counts["events"] + counts["quarantined"]
    facts = base_facts(spark, stage) | {"quarantined_share": counts["quarantined"] / distinct if distinct else 0.0}
    checks: list[Check] = [
        Equal("schema", schema_text(HISTORY), "columns and types"),
        Between("users", 1, None, "the archive holds behaviour"),
        Equal("repeated_users", 0, "one row a user"),
        Between("history_events", counts["history_events"], counts["behaviours"], "behaviours written are those kept"),
        Between("longest", 1, counts["max_history"], "no history is longer than max_history"),
        Between("quarantined_share", 0, source.max_quarantined_share, "share of rows quarantined"),
        Between("min_time_ms", 0, end_ms - 1, "earliest behaviour since 1970"),
        Between("max_time_ms", 0, end_ms - 1, "latest behaviour before the archive ends"),
        Equal("unordered", 0, "histories are ordered by time"),
        Equal("ragged", 0, "lists of a row are equally long"),
    ]
    return check(home.reports, through, "history", facts, checks)


def base_facts(spark: SparkSession, stage: Stage) -> dict[str, Any]:
    """The scalars that the checks look at, from the staged files."""
    base = read_files(spark, "history", [stage.path])
    times, size = F.col("history_time_ms"), F.size("history_time_ms")
    same = [F.size(f"history_{name}") == size for name in HISTORY_FIELDS]
    ragged = F.lit(False)
    for holds in same:
        ragged = ragged | ~holds
    found = base.agg(
        F.count(F.lit(1)).alias("users"),
        (F.count(F.lit(1)) - F.count_distinct("user_id")).alias("repeated_users"),
        F.coalesce(F.sum(size), F.lit(0)).alias("history_events"),
        F.coalesce(F.max(size), F.lit(0)).alias("longest"),
        F.coalesce(F.min(F.array_min(times)), F.lit(0)).alias("min_time_ms"),
        F.coalesce(F.max(F.array_max(times)), F.lit(0)).alias("max_time_ms"),
        F.count_if(times != F.array_sort(times)).alias("unordered"),
        F.count_if(ragged).alias("ragged"),
    ).collect()[0]
    facts: dict[str, Any] = found.asDict()
    return facts | {"schema": staged_schemas(stage)}
