"""Which rows are of users whom the lake was told to forget? Ingest and import-history leave them out."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from longreel.lake.erasure import SuppressionList
from longreel.spark_jobs.row_counts import SUPPRESSED


def with_suppressed(judged: DataFrame, suppressed: SuppressionList | None) -> DataFrame:
    """Judged rows, with the reason SUPPRESSED where the user is forgotten.

    The hash is Spark's own, and the set of users is a hash set in the plan: with nobody forgotten nothing is computed.
    """
    if suppressed is None:
        return judged
    hashed = F.sha2(F.concat(F.lit(suppressed.salt), F.col("user_id").cast("string")), 256)
    is_suppressed = F.coalesce(hashed.isin(*sorted(suppressed.users)), F.lit(False))
    return judged.withColumn("reason", F.when(is_suppressed, SUPPRESSED).otherwise(F.col("reason")))
