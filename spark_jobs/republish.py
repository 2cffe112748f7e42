"""What does a partition's manifest say once users' rows are out of it? What a build without them would have said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.actions import ACTIONS
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs import array_digest
from longreel.spark_jobs.array_checks import BROKEN_HISTORY, BROKEN_SAMPLES, Facts
from longreel.spark_jobs.drift import NEW_ITEM_EVENTS, trailing_days
from longreel.spark_jobs.ingest import facts_of_events
from longreel.spark_jobs.items import count_items
from longreel.spark_jobs.row_counts import account_after
from longreel.spark_jobs.row_digest import digest_columns, digest_from
from longreel.spark_jobs.sample_checks import counts_of
from longreel.spark_jobs.sources import Source
from longreel.spark_jobs.tables import in_schema, read_files, read_partitions, write_staged
from longreel.spark_jobs.validate import parsed


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A staged build without some users, and the manifest fields that it changes."""

    writer: PartitionWriter
    digest: str
    rows: int
    changes: dict[str, Any]

    def commit(self, manifest: Manifest, inputs: Mapping[str, str], code_version: str) -> Manifest:
        """Publish it in the place of `manifest`."""
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


def user_ids(spark: SparkSession, source: type[Source], texts: Sequence[str]) -> list[int]:
    """The ids that ingest makes of user ids as the raw log spells them.

    Raises:
        LongreelError: ingest would quarantine one.
    """
    ids = []
    for text in texts:
        made = parsed("user_id", source.hashes_text_ids)
        row = spark.range(1).select(F.lit(text).alias("user_id")).select(made.alias("id")).first()
        if row is None or row["id"] is None:
            raise LongreelError(f"--user {text!r} is no user id of this source; give it as the raw log spells it")
        ids.append(int(row["id"]))
    return ids


def day_of_file() -> Column:
    """The log day of the file that a row was read from."""
    return F.regexp_extract(F.input_file_name(), r"date(?:=|%3D)(\d{4}-\d\d-\d\d)/", 1)


def refused(spark: SparkSession, lake: Lake, source: type[Source], manifests: Sequence[Manifest]) -> DataFrame:
    """The rows of quarantine partitions, with the `day`, and the `user_id` that their raw row names where it can be
    read."""
    rows = read_partitions(spark, lake, "quarantine", manifests)
    user = F.get_json_object("row", f"$.{source.user_column}")
    named = rows.select("*", day_of_file().alias("day"), user.alias("user_id"))
    return named.withColumn("user_id", parsed("user_id", source.hashes_text_ids))


def quarantine_without(refused: DataFrame, manifest: Manifest, writer: PartitionWriter, users: Ints) -> Rebuilt:
    """Stage a quarantine partition's rows without those of the users."""
    gone = F.coalesce(F.col("user_id").isin(*users.tolist()), F.lit(False))
    rows = in_schema(refused.where(~gone), "quarantine")
    reasons = {f"quarantined_{group['reason']}": group["count"] for group in rows.groupBy("reason").count().collect()}
    digest, seen = write_staged(rows, writer, sort=["reason", "row"])
    kept = {name: value for name, value in manifest.counts.items() if not name.startswith("quarantined_")}
    return Rebuilt(writer=writer, digest=digest, rows=seen["digest_rows"], changes={"counts": kept | reasons})


def flat_facts(spark: SparkSession, dataset: str, writers: Sequence[PartitionWriter]) -> dict[str, dict[str, Any]]:
    """Digest sums of staged builds of events or users, and of events what manifests tell of them; by day, one job."""
    rows = read_files(spark, dataset, [writer.path for writer in writers])
    about = facts_of_events() if dataset == "events" else ()
    by_day = rows.withColumn("day", day_of_file()).groupBy("day").agg(*digest_columns(rows), *about)
    return {row["day"]: row.asDict() for row in by_day.collect()}


def flat_rebuilt(
    home: Home, spark: SparkSession, manifest: Manifest, writer: PartitionWriter, seen: dict[str, Any]
) -> Rebuilt:
    """A day's events or users from its `flat_facts`, {} where no row is left."""
    names = ("with_request_id", *(f"action_{name}" for name in ACTIONS))
    zero = dict.fromkeys((each for each in ("digest_rows", "digest_high_1", "digest_low_1")), 0)
    zero |= dict.fromkeys(("digest_high_2", "digest_low_2", *names), 0)
    seen = zero | {"min_time_ms": None, "max_time_ms": None} | seen
    rows, day = int(seen["digest_rows"]), date.fromisoformat(manifest.date)
    if manifest.dataset == "users":
        counts = manifest.counts | {"users": rows}
        return Rebuilt(writer=writer, digest=digest_from(seen), rows=rows, changes={"counts": counts})
    now: dict[str, int] = {name: int(seen[name]) for name in names}
    now["users"] = home.lake.require("users", day).rows
    counts = account_after(manifest.counts, rows, home.lake.manifest("quarantine", day))
    details = {name: value for name, value in manifest.details.items() if name != NEW_ITEM_EVENTS}
    if "items" in counts:
        past = trailing_days(home.lake, "events", day, home.config.drift)
        now["items"], new_items = count_items(spark, home.lake, writer, past)
        details |= {} if new_items is None else {NEW_ITEM_EVENTS: new_items}
    counts = counts | {name: value for name, value in now.items() if name in counts}
    times = {name: seen[name] for name in ("min_time_ms", "max_time_ms")}
    changes = {"counts": counts, "details": details, **times}
    return Rebuilt(writer=writer, digest=digest_from(seen), rows=rows, changes=changes)


def list_rebuilt(lake: Lake, manifest: Manifest, writer: PartitionWriter, found: Facts) -> Rebuilt:
    """A day's samples or a history base from what its files were found to hold, {} where no row is left.

    Raises:
        LongreelError: the files break a promise.
    """
    broken = BROKEN_SAMPLES if manifest.dataset == "samples" else BROKEN_HISTORY
    if wrong := [meaning for name, meaning in broken.items() if found.get(name)]:
        raise LongreelError(
            f"{manifest.dataset} of {manifest.date} without the users would hold {'; '.join(wrong)}; it was not "
            "published, build the day again, then run forget again"
        )
    rows, day = int(found.get("users", 0)), date.fromisoformat(manifest.date)
    changes: dict[str, Any] = {}
    if manifest.dataset == "samples":
        changes["counts"] = manifest.counts | counts_of(found)
        events = lake.manifest("events", day)
        if events is not None:
            changes |= {"min_time_ms": events.min_time_ms, "max_time_ms": events.max_time_ms}
    else:
        changes["counts"] = _base_counts(manifest, found, lake.manifest("quarantine", day))
    return Rebuilt(writer=writer, digest=array_digest.digest_from(found), rows=rows, changes=changes)


def _base_counts(base: Manifest, found: Facts, quarantine: Manifest | None) -> dict[str, int]:
    """Of an archive only the behaviours that the base kept can be told by user: the account goes by those."""
    events = int(found.get("history_events", 0))
    gone = base.counts["history_events"] - events
    now = {"users": int(found.get("users", 0)), "history_events": events, "longest": int(found.get("max_history", 0))}
    if "input_rows" not in base.counts:
        return base.counts | now
    now["behaviours"] = base.counts["behaviours"] - gone
    return account_after(base.counts, base.counts["events"] - gone, quarantine) | now
