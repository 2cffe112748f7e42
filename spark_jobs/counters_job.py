"""The Spark job that counts the values of statistics in events."""

import json
from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.log_schema import LogSchema, timed_column
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.spark_jobs.array_checks import Stats
from longreel.spark_jobs.counters import CounterFiles
from longreel.spark_jobs.local_days import local_day_column
from longreel.spark_jobs.statistic_values import value_column
from longreel.spark_jobs.statistic_windows import COUNTER_KEYS, count_names
from longreel.spark_jobs.tables import day_of_file, read_partitions


def count_values(
    spark: SparkSession, lake: Lake, events: Sequence[Manifest], files: CounterFiles, buckets: int
) -> dict[str, list[Stats]]:
    """Write the counters of the events of some log days; returns what `CounterFiles.write` has of each file, by day.

    Counts are summed before they are shuffled, so a value that many events have is no hot key.
    """
    log = lake.log_schema
    since_ms = min((day.min_time_ms or 0 for day in events if day.rows), default=0)
    names = count_names(log)
    counted = (
        _facts(read_partitions(spark, lake, "events", events), log, since_ms)
        .select("log_day", "day", "known_day", *names, F.explode("values").alias("of"))
        .where("of.value IS NOT NULL")
        .select("log_day", "of.*", "day", "known_day", *names)
        .groupBy("log_day", *COUNTER_KEYS)
        .agg(*(F.sum(name).alias(name) for name in names))
        .withColumn("bucket", F.hash("value").bitwiseAND(F.lit(buckets - 1)))
    )

    def write(key: tuple[pa.Scalar, ...], table: pa.Table) -> pa.Table:
        return files.write(key[0].as_py(), key[1].as_py(), table)

    stats: dict[str, list[Stats]] = {}
    for row in counted.groupBy("log_day", "bucket").applyInArrow(write, "log_day STRING, stats STRING").collect():
        stats.setdefault(row["log_day"], []).append(json.loads(row["stats"]))
    return stats


def _facts(events: DataFrame, log: LogSchema, since_ms: int) -> DataFrame:
    """Of each event a row with its impression and all that became known on its day, and a row for each timed action
    that became known on a later day."""
    actions = [name.removeprefix("action_") for name in count_names(log)[1:]]
    timed = [name for name in actions if name in log.timed_actions]
    known_day = {name: F.col(f"{name}_known_day") for name in timed}

    def local_day(time_ms: Column) -> Column:
        return local_day_column(time_ms, log.time_zone, since_ms - 1)

    values = [
        F.struct(F.lit(i).alias("statistic"), value_column(s).alias("value")) for i, s in enumerate(log.statistics)
    ]
    rows = events.select(
        F.array(*values).alias("values"),
        "actions",
        local_day(F.col("time_ms")).alias("day"),
        day_of_file().alias("log_day"),
        # Known at midnight is known when the day that begins then does, as with known_after = "next day".
        *(local_day(F.col(timed_column(name)) - 1).alias(f"{name}_known_day") for name in timed),
    )

    def happened(action: str) -> Column:
        return F.col("actions").bitwiseAND(F.lit(log.action_bit(action))) != 0

    def fact(day: Column, impressions: int, counts: dict[str, Column]) -> Column:
        of_actions = [counts.get(name, F.lit(False)).cast("bigint").alias(f"action_{name}") for name in actions]
        return F.struct(day.alias("known_day"), F.lit(impressions).cast("bigint").alias("impressions"), *of_actions)

    at_once = {name: happened(name) for name in actions}
    at_once |= {name: happened(name) & (known_day[name] <= F.col("day")) for name in timed}
    facts = [fact(F.col("day"), 1, at_once)]
    for name in timed:
        later = happened(name) & (known_day[name] > F.col("day"))
        facts.append(F.when(later, fact(known_day[name], 0, {name: F.lit(True)})))
    if not timed:
        return rows.select("*", *(facts[0][name].alias(name) for name in ("known_day", *count_names(log))))
    rows = rows.withColumn("fact", F.explode(F.array(*facts))).where("fact IS NOT NULL")
    return rows.select("*", "fact.*")
