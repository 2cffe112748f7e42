"""Suppression of rows of erased users, which ingest and import-history leave out."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from longreel.lake.erasure import SuppressionList
from longreel.spark_jobs.row_counts import FILTERED, SUPPRESSED


def mark_suppressed(validated: DataFrame, suppressed: SuppressionList | None) -> DataFrame:
    """Validated rows, with the reason SUPPRESSED where the user is on the suppression list and the row not left out.

    Spark computes the hash, and the list is a hash set in its plan; without a list nothing is computed.
    """
    if suppressed is None:
        return validated
    hashed = F.sha2(F.concat(F.lit(suppressed.salt), F.col("user_id").cast("string")), 256)
    is_left_out = F.coalesce(F.col("reason") == FILTERED, F.lit(False))
    is_suppressed = F.coalesce(hashed.isin(*sorted(suppressed.users)), F.lit(False)) & ~is_left_out
    return validated.withColumn("reason", F.when(is_suppressed, SUPPRESSED).otherwise(F.col("reason")))
