"""`longreel data import-history`: older history -> the bootstrap snapshot, without a partition per day.

    input rows          = events + quarantined rows + exact duplicates + suppressed rows + filtered rows
    history events read = history events kept + history events beyond a user's newest `max_history` of those
                                                 that the log days' requests may see

An event has several history events where timed actions enter the history at their own times.

The snapshot stands for every log day up to and including `through`, so the log's days begin after it.
"""

import argparse
import json
import time
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.dates import parse_day
from longreel.contracts.definitions import sample_definitions
from longreel.contracts.errors import LongreelError
from longreel.contracts.history_cutoff import snapshot_cutoff_ms
from longreel.contracts.log_schema import LogSchema, timed_column
from longreel.lake.erasure import suppression_list
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter, discard_on_error
from longreel.spark_jobs.array_checks import Stats, combine
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.bootstrap_snapshot import find_bootstrap
from longreel.spark_jobs.bucket_tasks import CompactRows
from longreel.spark_jobs.buckets import num_buckets
from longreel.spark_jobs.day_bounds import EARLIEST_MS, log_day_bounds_ms
from longreel.spark_jobs.days import LazySession, code_version, is_unchanged, log_progress
from longreel.spark_jobs.history_checks import check_snapshot
from longreel.spark_jobs.history_events import history_input
from longreel.spark_jobs.ingest import INGEST_VERSION, definitions_digest
from longreel.spark_jobs.items import with_items
from longreel.spark_jobs.rejected_rows import examples_of_stopped
from longreel.spark_jobs.row_counts import Rejected, check_balanced, count_rows, format_counts
from longreel.spark_jobs.sources import Source, name_damaged_file, open_source
from longreel.spark_jobs.suppression import mark_suppressed
from longreel.spark_jobs.tables import in_schema, write_staged
from longreel.spark_jobs.vacuum import vacuum
from longreel.spark_jobs.validate import distinct_rows, evaluate_rows, quarantined_rows, validate_rows

EVENTS_PER_BUCKET = 2_000_000  # history events that a task holds, about
OLDER_ROWS = "the older history"  # as errors name its rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data import-history`."""
    parser.add_argument("--through", required=True, help="last log day that the snapshot stands for, YYYY-MM-DD")
    parser.add_argument("--force", action="store_true", help="import again even where the inputs have not changed")


def run(args: argparse.Namespace, home: Home) -> None:
    """Import the older history."""
    through = parse_day(args.through)
    vacuum(home)
    import_history(home, open_source(home), through, LazySession("longreel data import-history"), force=args.force)


def require_before_log(lake: Lake, source: Source, through: date) -> None:
    """Raises LongreelError where the log or the lake has days that the snapshot would stand for too."""
    bootstrap = find_bootstrap(lake)
    if bootstrap is not None and bootstrap.date != through.isoformat():
        raise LongreelError(
            f"older history is imported through {bootstrap.date} already; import through that day again, or remove "
            f"{bootstrap.dataset}/date={bootstrap.date} from the lake first"
        )
    for dataset in ("events", "history"):
        oldest = next(lake.days(dataset), None)
        if oldest is not None and (oldest < through or (dataset == "events" and oldest == through)):
            raise LongreelError(f"the lake has {dataset} of {oldest}; a snapshot through {through} must end before")
    first = next(iter(source.days()), None)
    if first is not None and first <= through:
        raise LongreelError(
            f"the log in {source.root} begins on {first}; older history must end before, not on {through}"
        )


def import_history(home: Home, source: Source, through: date, session: LazySession, *, force: bool = False) -> None:
    """Publish the older history as the snapshot of `through`; does nothing where the same inputs are published already.

    Raises:
        LongreelError: the log has no older history, or days that the snapshot would stand for.
        QualityError: the checkpoint failed; what was published before stays.
    """
    started = time.monotonic()
    if not source.bootstrap_files():
        raise LongreelError(
            f"no older history in {source.root}; expected a folder history/ beside the date= folders, or for kuairand "
            "files log_history*.csv[.gz]"
        )
    require_before_log(home.lake, source, through)
    inputs = {
        "raw": source.bootstrap_digest(through),
        "definitions": definitions_digest(home.config),
        "max_history": str(home.config.samples.max_history),
        "cutoff_ms": str(_cutoff_ms(home, through)),
        "ingest": str(INGEST_VERSION),
    }
    if is_unchanged(home.lake.manifest("history", through), inputs, force):
        log_progress("history", through, "unchanged")
        return
    writers = {name: home.lake.writer(name, through) for name in ("quarantine", "history")}
    files = [*source.bootstrap_files(), *source.items.files(through)]
    with discard_on_error(*writers.values()), name_damaged_file(files):
        spark = session(sum(path.stat().st_size for path in files))
        task = ImportRun(home=home, source=source, through=through, spark=spark, writers=writers, inputs=inputs)
        staged = task.write(task.validate(task.parse()))
        manifest = task.publish(staged, task.check(staged))
    counts = manifest.counts
    kept = f"{counts['history_events']:,} of {counts['history_events_read']:,} history events kept"
    users = f"{counts['users']:,} users, digest {manifest.digest}"
    log_progress("history", through, f"{format_counts(counts)}; {kept}, {users}", started)


@dataclass(frozen=True, kw_only=True)
class StagedSnapshot:
    """The staged, not yet published, snapshot and its quarantine."""

    counts: dict[str, int]
    rejected: dict[str, Rejected]  # rows by reason
    buckets: int
    stats: Stats  # of the snapshot's files, read back
    quarantine_digest: str


@dataclass(frozen=True, kw_only=True)
class ImportRun:
    """Older history on its way into the lake."""

    home: Home
    source: Source
    through: date
    spark: SparkSession
    writers: dict[str, PartitionWriter]
    inputs: dict[str, str]

    def parse(self) -> DataFrame:
        """The distinct raw rows, with a column for each expression of the configuration."""
        rows, what = distinct_rows(self.source.bootstrap_rows(self.spark)), OLDER_ROWS
        if self.source.items.exist:
            items = f"the items of {self.source.items.name(self.through)}"
            table = self.source.items.read(self.spark, self.through)
            rows, what = with_items(rows, table, self.home.config, items), f"{what} and {items}"
        return evaluate_rows(rows, self.home.config, what, with_users=False)

    def validate(self, evaluated: DataFrame) -> DataFrame:
        """The rows with the columns of events, and the `reason` why a row is no event, or null."""
        bounds_ms = (EARLIEST_MS, log_day_bounds_ms(self.through, self.home.config.source)[1])
        validated = validate_rows(evaluated, self.home.config, bounds_ms, OLDER_ROWS)
        return mark_suppressed(validated, suppression_list(self.home.lake.storage))

    def write(self, validated: DataFrame) -> StagedSnapshot:
        """Stage the snapshot and the quarantine.

        Raises:
            LongreelError: the rows written do not add up to the rows read.
        """
        validated = validated.persist()
        lake, limit, cutoff_ms = (
            self.home.lake,
            self.home.config.samples.max_history,
            _cutoff_ms(self.home, self.through),
        )
        events = in_schema(validated.where("reason IS NULL AND history <> 0"), lake.schemas.events)
        events = events.select(history_input(lake.log_schema))
        counts, rejected = count_rows(validated)
        counts |= _history_counts(events, lake.log_schema, limit, cutoff_ms) | {"max_history": limit}
        buckets = num_buckets(counts["history_events_read"], EVENTS_PER_BUCKET)
        task = CompactRows(
            writer=self.writers["history"], day=self.through, buckets=buckets, max_history=limit, cutoff_ms=cutoff_ms
        )
        rows = events.repartition(buckets, "user_id").mapInArrow(task.run, "stats STRING").collect()
        stats = combine(json.loads(row["stats"]) for row in rows)
        quarantine_digest, quarantine = write_staged(
            quarantined_rows(validated), self.writers["quarantine"], sort=["reason", "row"]
        )
        validated.unpersist()
        check_balanced(counts, counts["events"], quarantine["digest_rows"], self.through)
        counts["longest_history"] = stats.get("max_history", 0)
        return StagedSnapshot(
            counts=counts, rejected=rejected, buckets=buckets, stats=stats, quarantine_digest=quarantine_digest
        )

    def check(self, staged: StagedSnapshot) -> dict[str, Any]:
        """Run the checkpoint of the staged snapshot; returns the details for the manifest.

        Raises:
            QualityError: a check failed.
        """
        with examples_of_stopped(self.home.reports / str(self.through), self.writers["quarantine"], staged.rejected):
            quality = check_snapshot(self.home, self.through, staged.stats, staged.counts, staged.rejected)
        return {
            "definitions": sample_definitions(self.home.config),
            "cutoff_ms": _cutoff_ms(self.home, self.through),
            "quality": f"{len(quality['checks'])} checks passed",
        }

    def publish(self, staged: StagedSnapshot, details: dict[str, Any]) -> Manifest:
        """Publish the quarantine and, last, the snapshot; returns the snapshot's manifest."""
        common: dict[str, Any] = {"inputs": self.inputs, "counts": staged.counts, "code_version": code_version()}
        self.writers["quarantine"].commit(digest=staged.quarantine_digest, **common)
        digest = digest_from_sums(staged.stats)
        return self.writers["history"].commit(digest=digest, buckets=staged.buckets, details=details, **common)


def _cutoff_ms(home: Home, through: date) -> int:
    return snapshot_cutoff_ms(through, home.config.log_schema, home.config.source.max_lateness_hours)


def _history_counts(events: DataFrame, log: LogSchema, limit: int, cutoff_ms: int) -> dict[str, int]:
    """Users, history events read, and those kept: of each user the newest `limit` before the cutoff, all from it on."""
    older = F.lit(0)
    for bit, name in enumerate(["time_ms", *map(timed_column, log.timed_actions)]):
        is_older = (F.col("history").bitwiseAND(1 << bit) != 0) & (F.col(name) < cutoff_ms)
        older += F.when(is_older, 1).otherwise(0)
    read = F.sum(F.bit_count("history"))
    per_user = events.groupBy("user_id").agg(read.alias("read"), F.sum(older).alias("older"))
    kept = F.col("read") - F.greatest(F.col("older") - limit, F.lit(0))
    sums = [F.coalesce(F.sum(value), F.lit(0)) for value in (F.col("read"), kept)]
    users, read, kept = per_user.agg(F.count(F.lit(1)), *sums).collect()[0]
    return {"users": users, "history_events_read": read, "history_events": kept}
