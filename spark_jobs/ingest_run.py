"""The steps of ingesting one log day: parse, validate, write, check, publish."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.actions import ACTIONS
from longreel.contracts.schemas import HISTORY_FIELDS
from longreel.lake.erasure import suppression_list
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.buckets import num_buckets
from longreel.spark_jobs.day_bounds import event_bounds_ms
from longreel.spark_jobs.days import code_version, log_progress
from longreel.spark_jobs.drift import NEW_ITEM_EVENTS, event_drift, trailing_days
from longreel.spark_jobs.event_checks import check_events
from longreel.spark_jobs.items import count_items
from longreel.spark_jobs.quality import verdict
from longreel.spark_jobs.row_counts import check_balanced, count_rows
from longreel.spark_jobs.sources import Source
from longreel.spark_jobs.suppression import mark_suppressed
from longreel.spark_jobs.tables import in_schema, write_staged
from longreel.spark_jobs.users import unknown_features, user_features, write_users
from longreel.spark_jobs.validate import distinct_rows, quarantined_rows, validate_rows

ROWS_PER_BUCKET = 2_000_000  # of a file, about
EVENT_ORDER = ["user_id", *HISTORY_FIELDS, "request_id"]  # the order in which samples are built
EVENT_COUNTS = ("with_request_id", *(f"action_{name}" for name in ACTIONS))  # counts among `event_aggregates`


@dataclass(frozen=True, kw_only=True)
class StagedDay:
    """The staged, not yet published, partitions of a day."""

    counts: dict[str, int]
    buckets: int  # of events and users
    digests: dict[str, str]  # by dataset
    min_time_ms: int | None
    max_time_ms: int | None
    user_features: list[str]
    new_item_events: int | None  # None without trailing days
    past: list[Manifest]  # the trailing days' events


@dataclass(frozen=True, kw_only=True)
class IngestRun:
    """One log day on its way into the lake."""

    home: Home
    source: Source
    day: date
    spark: SparkSession
    writers: dict[str, PartitionWriter]
    inputs: dict[str, str]
    accept_drift: bool

    def parse(self) -> DataFrame:
        """The day's distinct raw rows, with RAW_COLUMNS as text."""
        return self.source.standard(distinct_rows(self.source.rows(self.spark, self.day)))

    def validate(self, rows: DataFrame) -> DataFrame:
        """The rows with the columns of events, and the `reason` why a row is no event, or null."""
        bounds_ms = event_bounds_ms(self.day, self.home.config.source)
        validated = validate_rows(rows, bounds_ms, self.source.hashes_text_ids)
        return mark_suppressed(validated, suppression_list(self.home.lake.storage))

    def write(self, validated: DataFrame) -> StagedDay:
        """Stage quarantine, events and users.

        Raises:
            LongreelError: the rows written do not add up to the rows read.
        """
        validated = validated.persist()
        counts = count_rows(validated)
        buckets = num_buckets(counts["events"], ROWS_PER_BUCKET)
        events = in_schema(validated.where("reason IS NULL"), "events")
        event_digest, observed = write_staged(
            events, self.writers["events"], buckets=buckets, sort=EVENT_ORDER, more=event_aggregates()
        )
        quarantine_digest, quarantine = write_staged(
            quarantined_rows(validated), self.writers["quarantine"], sort=["reason", "row"]
        )
        validated.unpersist()
        check_balanced(counts, observed["digest_rows"], quarantine["digest_rows"], self.day)
        names, features = user_features(self.source, self.spark, self.source.hashes_text_ids)
        users_digest, users = write_users(self.spark, self.writers, names, features, buckets)
        past = trailing_days(self.home.lake, "events", self.day, self.home.config.drift)
        items, new_item_events = count_items(self.spark, self.home.lake, self.writers["events"], past)
        counts |= {"users": users, "items": items} | {name: observed[name] for name in EVENT_COUNTS}
        return StagedDay(
            counts=counts,
            buckets=buckets,
            digests={"quarantine": quarantine_digest, "users": users_digest, "events": event_digest},
            min_time_ms=observed["min_time_ms"],
            max_time_ms=observed["max_time_ms"],
            user_features=names,
            new_item_events=new_item_events,
            past=past,
        )

    def check(self, staged: StagedDay) -> dict[str, Any]:
        """Run the checkpoint of the staged events, drift included; returns the details for the manifest.

        Raises:
            QualityError: a check failed.
        """
        drift = event_drift(
            self.home.config.drift,
            self.day,
            staged.counts,
            staged.new_item_events,
            staged.past,
            accepted=self.accept_drift,
        )
        quality = check_events(self.spark, self.home, self.day, self.writers["events"], staged.counts, drift)
        details = {**verdict(quality), "source": self.home.config.source.kind}
        if staged.new_item_events is not None:
            details[NEW_ITEM_EVENTS] = staged.new_item_events
        if not staged.counts["input_rows"]:
            details["warnings"] = ["the log day has no rows", *details.get("warnings", [])]
        for warning in details.get("warnings", []):
            log_progress("events", self.day, f"warning: {warning}")
        return details

    def publish(self, staged: StagedDay, details: dict[str, Any]) -> Manifest:
        """Publish quarantine, users and, last, events; returns the events' manifest."""
        common: dict[str, Any] = {"inputs": self.inputs, "code_version": code_version()}
        self.writers["quarantine"].commit(digest=staged.digests["quarantine"], counts=staged.counts, **common)
        self.writers["users"].commit(
            digest=staged.digests["users"],
            buckets=staged.buckets,
            counts={"users": staged.counts["users"]},
            details={
                "user_features": staged.user_features,
                "unknown_features": unknown_features(self.spark, staged.user_features),
            },
            **common,
        )
        return self.writers["events"].commit(
            digest=staged.digests["events"],
            buckets=staged.buckets,
            counts=staged.counts,
            details=details,
            min_time_ms=staged.min_time_ms,
            max_time_ms=staged.max_time_ms,
            **common,
        )


def event_aggregates() -> tuple[Column, ...]:
    """What a manifest states of its events, as aggregates of them."""
    return (
        F.min("time_ms").alias("min_time_ms"),
        F.max("time_ms").alias("max_time_ms"),
        F.count("request_id").alias("with_request_id"),
        *(
            F.count_if(F.col("actions").bitwiseAND(F.lit(bit)) != 0).alias(f"action_{name}")
            for name, bit in ACTIONS.items()
        ),
    )
