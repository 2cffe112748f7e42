"""Which rows are of users whom the lake was told to forget? Ingest and import-history leave them out."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from longreel.lake.erasure import Tombstones
from longreel.spark_jobs.row_counts import FORGOTTEN


def without_forgotten(judged: DataFrame, stones: Tombstones | None) -> DataFrame:
    """Judged rows, with the reason FORGOTTEN where the user is forgotten.

    The hash is Spark's own, and the set of users is a hash set in the plan: with nobody forgotten nothing is computed.
    """
    if stones is None:
        return judged
    hashed = F.sha2(F.concat(F.lit(stones.salt), F.col("user_id").cast("string")), 256)
    is_forgotten = F.coalesce(hashed.isin(*sorted(stones.users)), F.lit(False))
    return judged.withColumn("reason", F.when(is_forgotten, FORGOTTEN).otherwise(F.col("reason")))
