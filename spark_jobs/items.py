"""Item counts of a day: distinct items, and impressions on items that no trailing day has."""

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.tables import read_partitions, read_staged


def count_items(
    spark: SparkSession, lake: Lake, writer: PartitionWriter, past: list[Manifest]
) -> tuple[int, int | None]:
    """Distinct items of the staged events, and events on items that are new; None without trailing days.

    Reads one column of the trailing days.
    """
    shown = read_staged(spark, writer).groupBy("item_id").agg(F.count(F.lit(1)).alias("events"))
    old = read_partitions(spark, lake, "events", past).select("item_id").distinct().withColumn("is_old", F.lit(1))
    totals = (
        shown.join(old, "item_id", "left")
        .agg(F.count(F.lit(1)).alias("items"), F.sum(F.when(F.col("is_old").isNull(), F.col("events"))).alias("new"))
        .collect()[0]
    )
    return int(totals["items"]), (int(totals["new"] or 0) if past else None)
