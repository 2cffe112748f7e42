"""Erasure in manifests: a partition without users states what a build without them would have stated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.config import SourceConfig
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.array_checks import HISTORY_VIOLATIONS, SAMPLE_VIOLATIONS, Stats
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.drift import NEW_ITEM_EVENTS, trailing_days
from longreel.spark_jobs.expressions import Setting, evaluate
from longreel.spark_jobs.ingest_run import event_aggregates, event_counts
from longreel.spark_jobs.items import WITHOUT_DESCRIPTION, count_items
from longreel.spark_jobs.row_counts import QUARANTINED, counts_after_erasure
from longreel.spark_jobs.row_digest import digest_columns, digest_from_aggregates
from longreel.spark_jobs.sample_checks import counts_of
from longreel.spark_jobs.tables import day_of_file, read_files, read_staged
from longreel.spark_jobs.typed_values import id_of


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


def parse_user_ids(spark: SparkSession, source: SourceConfig, texts: Sequence[str]) -> list[int]:
    """The lake's ids of users as the raw log spells them, or as [source] user_id makes them of several columns.

    Raises:
        LongreelError: ingest would quarantine one.
    """
    ids, setting = [], Setting("[source] user_id", source.user_id, "user_id")
    for text in texts:
        spelled = text.strip() or None  # as raw rows are read: trimmed, and blank text is a missing value
        rows = spark.range(1).select(F.lit(spelled).cast("string").alias("user_id"))
        if len(setting.names) == 1 and not setting.names & {name.lower() for name in source.derived}:
            raw = rows.select(F.col("user_id").alias(*setting.names))
            rows = evaluate(raw, [setting], f"--user {text!r}", [])
        row = rows.select(id_of(F.col("user_id"), rows.schema["user_id"].dataType).alias("id")).first()
        if row is None or row["id"] is None:
            raise LongreelError(f"--user {text!r} is no user id of this source; give it as the raw log spells it")
        ids.append(int(row["id"]))
    return ids


def stats_by_day(spark: SparkSession, dataset: str, writers: Sequence[PartitionWriter]) -> dict[str, Stats]:
    """Digest sums of staged builds of quarantine, events or users, and the `event_aggregates` of events; by day, in one
    job."""
    lake = writers[0].lake
    rows = read_files(spark, lake.schemas[dataset], [writer.path for writer in writers])
    aggregates = event_aggregates(lake.log_schema) if dataset == "events" else ()
    by_day = rows.withColumn("day", day_of_file()).groupBy("day").agg(*digest_columns(rows), *aggregates)
    return {row["day"]: row.asDict() for row in by_day.collect()}


def rewritten_flat_partition(
    home: Home, spark: SparkSession, manifest: Manifest, writer: PartitionWriter, stats: Stats
) -> RewrittenPartition:
    """A day's quarantine, events or users from its `stats_by_day`, {} where no row is left."""
    lake, log = home.lake, writer.lake.log_schema
    sums = ("digest_rows", "digest_high_1", "digest_low_1", "digest_high_2", "digest_low_2")
    empty: Stats = dict.fromkeys((*sums, *event_counts(log)), 0) | {"min_time_ms": None, "max_time_ms": None}
    stats = empty | stats
    rows, day = int(stats["digest_rows"]), date.fromisoformat(manifest.date)
    staged = read_staged(spark, writer)
    changes: dict[str, Any] = {"details": manifest.details}
    if "categories" in manifest.details:
        prefix = "user_" if manifest.dataset == "users" else ""
        changes["details"] = manifest.details | {
            "categories": _categories(staged, manifest.details["categories"], prefix)
        }
    if manifest.dataset == "quarantine":
        reasons = {
            f"{QUARANTINED}{group['reason']}": group["count"] for group in staged.groupBy("reason").count().collect()
        }
        others = {name: value for name, value in manifest.counts.items() if not name.startswith(QUARANTINED)}
        changes["counts"] = others | reasons
    elif manifest.dataset == "users":
        changes["counts"] = manifest.counts | {"users": rows}
    else:
        updates = {name: int(stats[name]) for name in event_counts(log)} | {"users": lake.require("users", day).rows}
        counts = counts_after_erasure(manifest.counts, rows, lake.manifest("quarantine", day))
        if "items" in counts:
            past = trailing_days(lake, "events", day, home.config.drift)
            items = count_items(spark, lake, writer, past)
            updates["items"] = items.items
            counts.pop(WITHOUT_DESCRIPTION, None)  # the raw table of items is not read again
            changes["details"] = {name: v for name, v in changes["details"].items() if name != NEW_ITEM_EVENTS}
            changes["details"] |= {} if items.new_item_events is None else {NEW_ITEM_EVENTS: items.new_item_events}
        changes["counts"] = counts | {name: value for name, value in updates.items() if name in counts}
        changes |= {name: stats[name] for name in ("min_time_ms", "max_time_ms")}
    return RewrittenPartition(writer=writer, digest=digest_from_aggregates(stats), rows=rows, changes=changes)


def _categories(rows: DataFrame, stored: Mapping[str, list[list[Any]]], prefix: str) -> dict[str, list[list[Any]]]:
    """Codes, names and counts of categories (`count_categories`) in the rows that are left. Names are those stored; of
    UNKNOWN, which rows without a value have too, no more are counted than were."""
    fields = list(stored)
    if not fields:
        return {}
    values = F.array(*(F.struct(F.lit(name).alias("field"), F.col(f"{prefix}{name}").alias("code")) for name in fields))
    groups = rows.select(F.explode(values).alias("value")).groupBy("value.field", "value.code").count().collect()
    counts = {(group["field"], group["code"]): int(group["count"]) for group in groups}
    categories = {}
    for field, entries in stored.items():
        left = ([code, name, min(count, counts.get((field, code), 0))] for code, name, count in entries)
        categories[field] = sorted((entry for entry in left if entry[2]), key=lambda entry: (-entry[2], entry[0]))
    return categories


def rewritten_array_partition(manifest: Manifest, writer: PartitionWriter, stats: Stats) -> RewrittenPartition:
    """A day's samples or a history snapshot from the stats of its files, {} where no row is left.

    Raises:
        LongreelError: the files violate a rule of the dataset.
    """
    lake = writer.lake
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
