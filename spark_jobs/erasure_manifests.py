"""Erasure in manifests: a partition without users states what a build without them would have stated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_checks import HISTORY_VIOLATIONS, SAMPLE_VIOLATIONS, Stats
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.drift import NEW_ITEM_EVENTS, trailing_days
from longreel.spark_jobs.ingest_run import EVENT_COUNTS, event_aggregates
from longreel.spark_jobs.items import count_items
from longreel.spark_jobs.row_counts import QUARANTINED, counts_after_erasure
from longreel.spark_jobs.row_digest import digest_columns, digest_from_aggregates
from longreel.spark_jobs.sample_checks import counts_of
from longreel.spark_jobs.sources import Source
from longreel.spark_jobs.tables import in_schema, read_files, read_partitions, write_staged
from longreel.spark_jobs.validate import parsed


@dataclass(frozen=True, kw_only=True)
class RewrittenPartition:
    """A staged build without some users, and the manifest fields that it changes."""

    writer: PartitionWriter
    digest: str
    rows: int
    changes: dict[str, Any]

    def commit(self, manifest: Manifest, inputs: Mapping[str, str], code_version: str) -> Manifest:
        """Commit it in place of `manifest`."""
        new = replace(manifest, **self.changes)
        return self.writer.commit(
            digest=self.digest,
            inputs=inputs,
            buckets=new.buckets,
            counts=new.counts,
            details=new.details,
            min_time_ms=new.min_time_ms,
            max_time_ms=new.max_time_ms,
            code_version=code_version,
        )


def parse_user_ids(spark: SparkSession, source: type[Source], texts: Sequence[str]) -> list[int]:
    """The lake's ids of users as the raw log spells them.

    Raises:
        LongreelError: ingest would quarantine one.
    """
    ids = []
    for text in texts:
        user = parsed("user_id", source.hashes_text_ids)
        row = spark.range(1).select(F.lit(text).alias("user_id")).select(user.alias("id")).first()
        if row is None or row["id"] is None:
            raise LongreelError(f"--user {text!r} is no user id of this source; give it as the raw log spells it")
        ids.append(int(row["id"]))
    return ids


def day_of_file() -> Column:
    """The log day of the file that a row was read from."""
    return F.regexp_extract(F.input_file_name(), r"date(?:=|%3D)(\d{4}-\d\d-\d\d)/", 1)


def quarantine_with_users(
    spark: SparkSession, lake: Lake, source: type[Source], manifests: Sequence[Manifest]
) -> DataFrame:
    """The rows of quarantine partitions, with their `day`, and the `user_id` of the raw row where it can be parsed."""
    rows = read_partitions(spark, lake, "quarantine", manifests)
    user = F.get_json_object("row", f"$.{source.user_column}")
    rows = rows.select("*", day_of_file().alias("day"), user.alias("user_id"))
    return rows.withColumn("user_id", parsed("user_id", source.hashes_text_ids))


def quarantine_without(
    quarantine: DataFrame, manifest: Manifest, writer: PartitionWriter, users: Ints
) -> RewrittenPartition:
    """Stage a quarantine partition's rows (`quarantine_with_users`) without those of the users."""
    is_erased = F.coalesce(F.col("user_id").isin(*users.tolist()), F.lit(False))
    rows = in_schema(quarantine.where(~is_erased), "quarantine")
    reasons = {f"{QUARANTINED}{group['reason']}": group["count"] for group in rows.groupBy("reason").count().collect()}
    digest, observed = write_staged(rows, writer, sort=["reason", "row"])
    counts = {name: value for name, value in manifest.counts.items() if not name.startswith(QUARANTINED)} | reasons
    return RewrittenPartition(writer=writer, digest=digest, rows=observed["digest_rows"], changes={"counts": counts})


def stats_by_day(spark: SparkSession, dataset: str, writers: Sequence[PartitionWriter]) -> dict[str, Stats]:
    """Digest sums of staged builds of events or users, and the `event_aggregates` of events; by day, in one job."""
    rows = read_files(spark, dataset, [writer.path for writer in writers])
    aggregates = event_aggregates() if dataset == "events" else ()
    by_day = rows.withColumn("day", day_of_file()).groupBy("day").agg(*digest_columns(rows), *aggregates)
    return {row["day"]: row.asDict() for row in by_day.collect()}


def rewritten_flat_partition(
    home: Home, spark: SparkSession, manifest: Manifest, writer: PartitionWriter, stats: Stats
) -> RewrittenPartition:
    """A day's events or users from its `stats_by_day`, {} where no row is left."""
    sums = ("digest_rows", "digest_high_1", "digest_low_1", "digest_high_2", "digest_low_2")
    empty: Stats = dict.fromkeys((*sums, *EVENT_COUNTS), 0) | {"min_time_ms": None, "max_time_ms": None}
    stats = empty | stats
    rows, day = int(stats["digest_rows"]), date.fromisoformat(manifest.date)
    digest = digest_from_aggregates(stats)
    if manifest.dataset == "users":
        return RewrittenPartition(
            writer=writer, digest=digest, rows=rows, changes={"counts": manifest.counts | {"users": rows}}
        )
    updates = {name: int(stats[name]) for name in EVENT_COUNTS}
    updates["users"] = home.lake.require("users", day).rows
    counts = counts_after_erasure(manifest.counts, rows, home.lake.manifest("quarantine", day))
    details = {name: value for name, value in manifest.details.items() if name != NEW_ITEM_EVENTS}
    if "items" in counts:
        past = trailing_days(home.lake, "events", day, home.config.drift)
        updates["items"], new_items = count_items(spark, home.lake, writer, past)
        details |= {} if new_items is None else {NEW_ITEM_EVENTS: new_items}
    counts = counts | {name: value for name, value in updates.items() if name in counts}
    times = {name: stats[name] for name in ("min_time_ms", "max_time_ms")}
    changes = {"counts": counts, "details": details, **times}
    return RewrittenPartition(writer=writer, digest=digest, rows=rows, changes=changes)


def rewritten_array_partition(
    lake: Lake, manifest: Manifest, writer: PartitionWriter, stats: Stats
) -> RewrittenPartition:
    """A day's samples or a history snapshot from the stats of its files, {} where no row is left.

    Raises:
        LongreelError: the files violate a rule of the dataset.
    """
    violations = SAMPLE_VIOLATIONS if manifest.dataset == "samples" else HISTORY_VIOLATIONS
    if broken := [meaning for name, meaning in violations.items() if stats.get(name)]:
        raise LongreelError(
            f"{manifest.dataset} of {manifest.date} without the users would hold {'; '.join(broken)}; it was not "
            "published, rebuild the day, then run forget again"
        )
    rows, day = int(stats.get("users", 0)), date.fromisoformat(manifest.date)
    changes: dict[str, Any] = {}
    if manifest.dataset == "samples":
        changes["counts"] = manifest.counts | counts_of(stats, lake.log_schema)
        events = lake.manifest("events", day)
        if events is not None:
            changes |= {"min_time_ms": events.min_time_ms, "max_time_ms": events.max_time_ms}
    else:
        changes["counts"] = _snapshot_counts(manifest, stats, lake.manifest("quarantine", day))
    return RewrittenPartition(writer=writer, digest=digest_from_sums(stats), rows=rows, changes=changes)


def _snapshot_counts(snapshot: Manifest, stats: Stats, quarantine: Manifest | None) -> dict[str, int]:
    """Counts of a snapshot without the users. Of the rows that a bootstrap snapshot did not keep the users are unknown,
    so its row counts are reduced by the removed history events only."""
    events = int(stats.get("history_events", 0))
    removed = snapshot.counts["history_events"] - events
    updates = {
        "users": int(stats.get("users", 0)),
        "history_events": events,
        "longest_history": int(stats.get("max_history", 0)),
    }
    if "input_rows" not in snapshot.counts:
        return snapshot.counts | updates
    updates["history_events_read"] = snapshot.counts["history_events_read"] - removed
    return counts_after_erasure(snapshot.counts, snapshot.counts["events"] - removed, quarantine) | updates
