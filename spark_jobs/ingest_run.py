"""The steps of ingesting one log day: parse, validate, write, check, publish."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.definitions import event_definitions
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import QUARANTINE
from longreel.lake.erasure import suppression_list
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.buckets import num_buckets
from longreel.spark_jobs.categories import TEXT, category_aggregates, named_categories
from longreel.spark_jobs.day_bounds import event_bounds_ms
from longreel.spark_jobs.days import code_version, log_progress
from longreel.spark_jobs.drift import NEW_ITEM_EVENTS, event_drift, trailing_days
from longreel.spark_jobs.event_checks import check_events
from longreel.spark_jobs.field_checks import field_aggregates, field_report, outcome_report
from longreel.spark_jobs.history_events import event_order
from longreel.spark_jobs.id_checks import SPELLED_NULL, id_aggregates, id_warnings
from longreel.spark_jobs.items import WITHOUT_DESCRIPTION, count_items, described_ids, with_items
from longreel.spark_jobs.quality import verdict
from longreel.spark_jobs.rejected_rows import examples_of_stopped
from longreel.spark_jobs.row_counts import Rejected, check_balanced, count_rows
from longreel.spark_jobs.sources import Source
from longreel.spark_jobs.suppression import mark_suppressed
from longreel.spark_jobs.tables import in_schema, read_files, write_staged
from longreel.spark_jobs.users import StagedUsers, users_of_rows, users_of_table, write_users
from longreel.spark_jobs.validate import KEYS, distinct_rows, evaluate_rows, quarantined_rows, validate_rows

ROWS_PER_BUCKET = 2_000_000  # of a file, about


@dataclass(frozen=True, kw_only=True)
class StagedDay:
    """The staged, not yet published, partitions of a day."""

    counts: dict[str, int]
    rejected: dict[str, Rejected]  # rows by reason
    buckets: int  # of events and users
    digests: dict[str, str]  # by dataset
    observed: dict[str, Any]  # the aggregates of events
    users: StagedUsers
    categories: dict[str, list[list[Any]]]
    repeated_items: int  # items in more than one row of their table
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

    @property
    def log(self) -> LogSchema:
        """The log schema."""
        return self.home.config.log_schema

    @property
    def what(self) -> str:
        """The day's rows, as an error names them."""
        return f"the rows of {self.day}"

    def parse(self) -> DataFrame:
        """The day's distinct raw rows, with a column for each expression of the configuration."""
        rows = distinct_rows(self.source.rows(self.spark, self.day))
        items, what = self.source.items, self.what
        if items.exist:
            rows = with_items(rows, items.read(self.spark, self.day), self.home.config, self._items_name)
            what = f"{what} and {self._items_name}"
        return evaluate_rows(rows, self.home.config, what, with_users=not self._has_user_table)

    def validate(self, evaluated: DataFrame) -> DataFrame:
        """The rows with the columns of events, and the `reason` why a row is no event, or null."""
        bounds_ms = event_bounds_ms(self.day, self.home.config.source)
        validated = validate_rows(evaluated, self.home.config, bounds_ms, self.what)
        return mark_suppressed(validated, suppression_list(self.home.lake.storage))

    def write(self, validated: DataFrame) -> StagedDay:
        """Stage quarantine, events and users.

        Raises:
            LongreelError: the rows written do not add up to the rows read.
        """
        validated = validated.persist()
        counts, rejected = count_rows(validated)
        buckets = num_buckets(counts["events"], ROWS_PER_BUCKET)
        accepted = validated.where("reason IS NULL")
        fields = self.log.of_place("item", "request", "event")
        texts = [name for name in validated.columns if name.startswith((TEXT, SPELLED_NULL))]
        event_digest, observed = write_staged(
            in_schema(accepted, self.home.lake.schemas.events, more=texts),
            self.writers["events"],
            buckets=buckets,
            sort=["user_id", *event_order(self.log), "request_id"],
            more=(
                *event_aggregates(self.log),
                *field_aggregates(fields),
                *category_aggregates(fields),
                *id_aggregates(KEYS),
            ),
        )
        no_events = quarantined_rows(validated) if rejected else read_files(self.spark, QUARANTINE, [])
        quarantine_digest, quarantine = write_staged(no_events, self.writers["quarantine"], sort=["reason", "row"])
        check_balanced(counts, observed["digest_rows"], quarantine["digest_rows"], self.day)
        users = write_users(self.spark, self.writers, self._described_users(accepted), buckets)
        validated.unpersist()
        past = trailing_days(self.home.lake, "events", self.day, self.home.config.drift)
        items = count_items(self.spark, self.home.lake, self.writers["events"], past, self._described_items())
        counts |= {"users": users.rows, "items": items.items} | {
            name: observed[name] for name in event_counts(self.log)
        }
        if items.without_description is not None:
            counts[WITHOUT_DESCRIPTION] = items.without_description
        return StagedDay(
            counts=counts,
            rejected=rejected,
            buckets=buckets,
            digests={"quarantine": quarantine_digest, "users": users.digest, "events": event_digest},
            observed=observed,
            users=users,
            categories=named_categories(fields, observed),
            repeated_items=items.repeated,
            new_item_events=items.new_item_events,
            past=past,
        )

    def check(self, staged: StagedDay) -> dict[str, Any]:
        """Run the checkpoint of the staged events, drift included; returns the details for the manifest.

        Raises:
            QualityError: a check failed.
        """
        config = self.home.config
        drift = event_drift(
            config.drift,
            self.day,
            staged.counts,
            staged.new_item_events,
            staged.past,
            actions=self.log.action_names,
            accepted=self.accept_drift,
        )
        fields = field_report(
            self.log,
            staged.observed | staged.users.observed,
            staged.categories | staged.users.categories,
            staged.counts,
        )
        with examples_of_stopped(self.home.reports / str(self.day), self.writers["quarantine"], staged.rejected):
            quality = check_events(
                self.spark,
                self.home,
                self.day,
                self.writers["events"],
                staged.counts,
                drift,
                fields.without_values,
                staged.rejected,
            )
        details: dict[str, Any] = {
            **verdict(quality),
            "source": config.source.kind,
            "definitions": event_definitions(config),
            "categories": staged.categories,
        }
        if staged.new_item_events is not None:
            details[NEW_ITEM_EVENTS] = staged.new_item_events
        outcome_warnings, outcome_notes = outcome_report(config, staged.counts)
        warnings = [
            *details.get("warnings", []),
            *outcome_warnings,
            *id_warnings(config.source, staged.observed, staged.counts),
            *self._described_in_part(),
        ]
        notes = [*fields.notes, *outcome_notes, *self._repeated(staged)]
        if not staged.counts["input_rows"]:
            warnings.insert(0, "the log day has no rows")
        if unknown := self._unknown_items(staged.counts):
            (warnings if staged.counts[WITHOUT_DESCRIPTION] == staged.counts["items"] else notes).append(unknown)
        details |= {name: lines for name, lines in (("warnings", warnings), ("notes", notes)) if lines}
        for name, lines in (("warning", warnings), ("note", notes)):
            for line in lines:
                log_progress("events", self.day, f"{name}: {line}")
        return details

    def publish(self, staged: StagedDay, details: dict[str, Any]) -> Manifest:
        """Publish quarantine, users and, last, events; returns the events' manifest."""
        common: dict[str, Any] = {"inputs": self.inputs, "code_version": code_version()}
        self.writers["quarantine"].commit(digest=staged.digests["quarantine"], counts=staged.counts, **common)
        self.writers["users"].commit(
            digest=staged.digests["users"],
            buckets=staged.buckets,
            counts={"users": staged.counts["users"]},
            details={"categories": staged.users.categories},
            **common,
        )
        return self.writers["events"].commit(
            digest=staged.digests["events"],
            buckets=staged.buckets,
            counts=staged.counts,
            details=details,
            min_time_ms=staged.observed["min_time_ms"],
            max_time_ms=staged.observed["max_time_ms"],
            **common,
        )

    @property
    def _items_name(self) -> str:
        return f"the items of {self.source.items.name(self.day)}"

    def _described_items(self) -> DataFrame | None:
        if not self.source.items.describe(self.day):
            return None
        table = self.source.items.read(self.spark, self.day)
        return None if table is None else described_ids(table, self.home.config, self._items_name)

    @property
    def _has_user_table(self) -> bool:
        return bool(self.log.described_user_columns) and self.source.users.describe(self.day)

    def _described_users(self, accepted: DataFrame) -> DataFrame | None:
        if not self.log.described_user_columns:
            return None
        table = self.source.users.read(self.spark, self.day) if self._has_user_table else None
        if table is None:
            return users_of_rows(accepted, self.log)
        return users_of_table(table, self.home.config, f"the users of {self.source.users.name(self.day)}")

    def _described_in_part(self) -> Iterator[str]:
        """Warnings of a day before the first table, and of tables with rows that cannot be read."""
        for what, tables in (("items", self.source.items), ("users", self.source.users)):
            if tables.exist and not tables.describe(self.day):
                yield f"no table of {what} in {tables.name(self.day)} is dated {self.day} or before"
            if rows := tables.unreadable_rows(self.spark, self.day):
                yield (
                    f"{rows:,} rows of {tables.name(self.day)} are left out: they do not fit the header or are no UTF-8"
                )

    def _repeated(self, staged: StagedDay) -> Iterator[str]:
        """Notes of what a table describes more than once."""
        for what, rows, tables in (
            ("items", staged.repeated_items, self.source.items),
            ("users", staged.users.repeated, self.source.users),
        ):
            if rows:
                yield f"{what} in more than one row of {tables.name(self.day)}: {rows:,}; the smallest row counts"

    def _unknown_items(self, counts: dict[str, int]) -> str:
        """How many items the table lacks, in words; empty where none."""
        unknown = counts.get(WITHOUT_DESCRIPTION, 0)
        return (
            f"{unknown:,} of {counts['items']:,} items are not in {self.source.items.name(self.day)}" if unknown else ""
        )


def event_counts(log: LogSchema) -> tuple[str, ...]:
    """The counts among `event_aggregates`."""
    labels = (label.name for label in log.labels)
    return (
        "with_request_id",
        "history_impressions",
        *(f"action_{name}" for name in log.action_names),
        *(f"label_{name}" for name in labels),
    )


def event_aggregates(log: LogSchema) -> tuple[Column, ...]:
    """What a manifest states of its events, as aggregates of them; of number labels, how many events have a value."""

    def bits(column: str, names: tuple[str, ...], prefix: str) -> list[Column]:
        masks = ((name, F.col(column).bitwiseAND(F.lit(1 << bit))) for bit, name in enumerate(names))
        return [F.count_if(mask != 0).alias(f"{prefix}_{name}") for name, mask in masks]

    return (
        F.min("time_ms").alias("min_time_ms"),
        F.max("time_ms").alias("max_time_ms"),
        F.count("request_id").alias("with_request_id"),
        F.count_if(F.col("history") != 0).alias("history_impressions"),
        *bits("actions", log.action_names, "action"),
        *bits("labels", log.binary_labels, "label"),
        *(F.count_if(~F.isnan(f"label_{name}")).alias(f"label_{name}") for name in log.number_labels),
    )
