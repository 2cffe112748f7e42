"""Categorical features of the users active on a day, each hashed to 64 bits as xxhash64("name=value")."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.sources import Source
from longreel.spark_jobs.tables import in_schema, read_files, write_staged
from longreel.spark_jobs.validate import parsed


def user_features(source: Source, spark: SparkSession, hashes_text: bool) -> tuple[list[str], DataFrame]:
    """Feature names, and `user_id, user_features` of every user that the source describes; one row a user."""
    names, table = source.users(spark)
    if table is None:
        return names, read_files(spark, "users", [])
    hashed = [F.xxhash64(F.concat(F.lit(f"{name}="), F.coalesce(F.col(f"`{name}`"), F.lit("")))) for name in names]
    features = F.array(*hashed) if names else F.array().cast("array<bigint>")
    described = table.select(parsed("user_id", hashes_text).alias("user_id"), features.alias("user_features"))
    # A user described twice: the smaller list, so that the choice does not depend on the order of reading.
    return names, described.where("user_id IS NOT NULL").groupBy("user_id").agg(
        F.min("user_features").alias("user_features")
    )


def unknown_features(spark: SparkSession, names: list[str]) -> list[int]:
    """The features of a user whom the source does not describe: every name with an empty value."""
    if not names:
        return []
    row = spark.range(1).select(*(F.xxhash64(F.lit(f"{name}=")).alias(f"f{i}") for i, name in enumerate(names))).first()
    return [] if row is None else [int(value) for value in row]


def write_users(
    spark: SparkSession, writers: dict[str, PartitionWriter], names: list[str], features: DataFrame, buckets: int
) -> tuple[str, int]:
    """Stage the users of the staged events, all with as many features as there are names; returns digest and rows."""
    active = _staged(spark, writers["events"]).select("user_id").distinct()
    unknown = F.array(*(F.xxhash64(F.lit(f"{name}=")) for name in names)) if names else F.array()
    filled = F.coalesce("user_features", unknown.cast("array<bigint>")).alias("user_features")
    users = active.join(features, "user_id", "left").select("user_id", filled)
    digest, observed = write_staged(in_schema(users, "users"), writers["users"], buckets=buckets, sort=["user_id"])
    return digest, int(observed["digest_rows"])


def _staged(spark: SparkSession, writer: PartitionWriter) -> DataFrame:
    return read_files(spark, writer.dataset, [writer.path])
