"""The same samples the usual way: one row per target in Spark, each with its own copy of the history it sees.

Events are numbered within each user by time, collected into one array per user, joined to the impressions and sliced.
This relies on the benchmark's logs having no late rows.

    python -m benchmarks.samples.exploded_samples HOME OUT START END
"""

import argparse
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.window import Window

from benchmarks.arguments import existing_home, run_main
from longreel.contracts.argument_types import calendar_day
from longreel.contracts.dates import day_range
from longreel.lake.home import Home
from longreel.spark_jobs.history import find_history
from longreel.spark_jobs.session import spark_session
from longreel.spark_jobs.tables import read_partitions

TARGET_FIELDS = ["item_id", "author_id", "tag", "duration_ms", "surface"]  # of logs.py
FIELDS = ["time_ms", *TARGET_FIELDS, "play_ms", "actions"]


def build(home: Home, out: Path, start: date, end: date) -> None:
    """Write the rows of the days to `out`, zstd."""
    lake, most = home.lake, home.config.samples.max_history
    spark = spark_session("exploded samples", input_bytes=1 << 40)
    source = find_history(lake, home.config, start)
    days = [lake.require("events", day) for day in day_range(start, end)]
    past = read_partitions(spark, lake, "events", source.increments).select(
        "user_id", *FIELDS, F.lit(False).alias("shown")
    )
    if source.snapshot:
        base = read_partitions(spark, lake, "history", [source.snapshot])
        zipped = F.explode(F.arrays_zip(*(F.col(f"history_{name}").alias(name) for name in FIELDS))).alias("event")
        old = base.select("user_id", zipped).select("user_id", "event.*", F.lit(False).alias("shown"))
        past = past.union(old.select(past.columns))
    shown = read_partitions(spark, lake, "events", days).withColumn("shown", F.lit(True))
    clicked = F.col("actions").bitwiseAND(F.lit(1)) == 1
    rows = shown.unionByName(past.where(clicked), allowMissingColumns=True)
    older = Window.partitionBy("user_id").orderBy("time_ms").rangeBetween(Window.unboundedPreceding, -1)
    rows = rows.withColumn("end", F.count_if(clicked).over(older))
    histories = rows.where(clicked).groupBy("user_id").agg(F.array_sort(F.collect_list(F.struct(*FIELDS))).alias("h"))
    history = F.slice("h", F.greatest(F.col("end") - most, F.lit(0)) + 1, F.least(F.col("end"), F.lit(most)))
    targets = rows.where("shown").join(histories, "user_id", "left")
    _lists(targets.withColumn("h", history)).write.option("compression", "zstd").parquet(str(out))


def _lists(rows: DataFrame) -> DataFrame:
    """The target's columns, its labels' sources, and the history as parallel lists."""
    kept = ["user_id", "request_id", "time_ms", *TARGET_FIELDS, "actions", "play_ms"]
    none = F.array().cast(T.ArrayType(T.LongType()))
    fields = (F.coalesce(F.col(f"h.{name}"), none).alias(f"history_{name}") for name in FIELDS)
    return rows.select(*kept, *fields)


def main() -> None:
    """Build a range of days."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=existing_home)
    parser.add_argument("out", type=Path)
    parser.add_argument("start", type=calendar_day)
    parser.add_argument("end", type=calendar_day)
    args = parser.parse_args()
    build(Home(args.home.absolute()), args.out.absolute(), args.start, args.end)


if __name__ == "__main__":
    run_main(main)
