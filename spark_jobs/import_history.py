"""`longreel data import-history`: an archive of older events -> the first history base, without a partition per day.

    archive rows = events + quarantined rows + exact repeats + suppressed rows
    events       = behaviours kept + behaviours beyond a user's newest `max_history` + other events

The archive stands for every log day up to and including `through`, so the log's days begin after it.
"""

import argparse
import json
import time
from datetime import date
from typing import TYPE_CHECKING, Any

from longreel.contracts.actions import action_mask
from longreel.contracts.dates import parse_day
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import HISTORY_FIELDS
from longreel.lake.erasure import suppression_list
from longreel.lake.home import Home
from longreel.lake.table import Lake, PartitionWriter, discard_on_error
from longreel.spark_jobs.bootstrap_snapshot import imported_archive
from longreel.spark_jobs.days import LazySession, code_version, is_unchanged, say
from longreel.spark_jobs.ingest import INGEST_VERSION, distinct_rows, quarantine_of, settings_digest
from longreel.spark_jobs.row_counts import account_of, require_closed, told
from longreel.spark_jobs.sources import Source, damage_named, open_source
from longreel.spark_jobs.vacuum import vacuum

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BUCKET_BEHAVIOURS = 2_000_000  # behaviours that a task holds, about


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data import-history`."""
    parser.add_argument("--through", required=True, help="last log day that the archive stands for, YYYY-MM-DD")
    parser.add_argument("--force", action="store_true", help="do it again even where the inputs have not changed")


def run(args: argparse.Namespace, home: Home) -> None:
    """Import the archive."""
    through = parse_day(args.through)
    vacuum(home.lake)
    import_history(home, open_source(home), through, LazySession("longreel data import-history"), force=args.force)


def require_room(lake: Lake, source: Source, through: date) -> None:
    """Raises LongreelError where the log or the lake has days that the archive would stand for too."""
    archive = imported_archive(lake)
    if archive is not None and archive.date != through.isoformat():
        raise LongreelError(
            f"an archive is imported through {archive.date} already; import through that day again, or remove "
            f"{archive.dataset}/date={archive.date} from the lake first"
        )
    for dataset in ("events", "history"):
        oldest = next(lake.days(dataset), None)
        if oldest is not None and (oldest < through or (dataset == "events" and oldest == through)):
            raise LongreelError(f"the lake has {dataset} of {oldest}; an archive through {through} must end before")
    first = next(iter(source.days()), None)
    if first is not None and first <= through:
        raise LongreelError(f"the log in {source.root} begins on {first}; an archive must end before, not on {through}")


def import_history(home: Home, source: Source, through: date, session: LazySession, *, force: bool = False) -> None:
    """Publish the archive as the history base of `through`; does nothing where the same inputs are published already.

    Raises:
        LongreelError: the log has no archive, or days that the archive would stand for.
        QualityError: the checkpoint failed; what was published before stays.
    """
    began = time.monotonic()
    if not source.archive_files():
        raise LongreelError(
            f"no archive in {source.root}; expected a folder history/ beside the date= folders, or for kuairand files "
            "log_history*.csv[.gz]"
        )
    require_room(home.lake, source, through)
    inputs = {
        "raw": source.archive_digest(),
        "settings": settings_digest(home.config),
        "behaviour": ",".join(sorted(home.config.source.behaviour)),
        "max_history": str(home.config.samples.max_history),
        "ingest": str(INGEST_VERSION),
    }
    if is_unchanged(home.lake.manifest("history", through), inputs, force):
        say("history", through, "unchanged")
        return
    writers = {name: home.lake.writer(name, through) for name in ("quarantine", "history")}
    with discard_on_error(*writers.values()), damage_named(source.archive_files()):
        _build(home, source, through, session, inputs, writers, began)


def write_base(
    behaviours: "DataFrame", writer: PartitionWriter, through: date, buckets: int, max_history: int
) -> dict[str, Any]:
    """Write the history base of behaviours (rows of `user_id` and HISTORY_FIELDS), one task a bucket of users.

    Returns:
        What the files were found to hold when they were read back.
    """
    from longreel.spark_jobs.array_checks import combined
    from longreel.spark_jobs.bucket_tasks import FoldBehaviours

    task = FoldBehaviours(writer=writer, day=through, buckets=buckets, max_history=max_history)
    found = behaviours.repartition(buckets, "user_id").mapInArrow(task.run, "facts STRING").collect()
    return combined(json.loads(row["facts"]) for row in found)


def _build(
    home: Home,
    source: Source,
    through: date,
    session: LazySession,
    inputs: dict[str, str],
    writers: dict[str, PartitionWriter],
    began: float,
) -> None:
    from pyspark.sql import functions as F

    from longreel.spark_jobs.array_digest import digest_from
    from longreel.spark_jobs.buckets import num_buckets
    from longreel.spark_jobs.history import history_settings
    from longreel.spark_jobs.history_checks import check_base
    from longreel.spark_jobs.suppression import with_suppressed
    from longreel.spark_jobs.tables import in_schema, write_staged
    from longreel.spark_jobs.validate import judge, log_day_bounds_ms

    config = home.config
    spark = session(sum(path.stat().st_size for path in source.archive_files()))
    mask, most = action_mask(config.source.behaviour), config.samples.max_history
    rows = source.standard(distinct_rows(source.archive_rows(spark)))
    bounds_ms = (0, log_day_bounds_ms(through, config.source)[1])  # of any age since 1970
    judged = with_suppressed(
        judge(rows, bounds_ms, source.hashes_text_ids), suppression_list(home.lake.storage)
    ).persist()
    events, counts = judged.where("reason IS NULL"), account_of(judged)
    behaviours = events.where(F.col("actions").bitwiseAND(F.lit(mask)) != 0).select("user_id", *HISTORY_FIELDS)
    each = behaviours.groupBy("user_id").agg(F.count(F.lit(1)).alias("all"))
    least = F.least("all", F.lit(most))
    sums = [F.coalesce(F.sum(value), F.lit(0)) for value in ("all", least)]
    size = each.agg(F.count(F.lit(1)), *sums).collect()[0]
    counts |= {"users": size[0], "behaviours": size[1], "history_events": size[2], "max_history": most}
    buckets = num_buckets(counts["behaviours"], BUCKET_BEHAVIOURS)
    found = write_base(behaviours, writers["history"], through, buckets, most)
    counts["longest"] = found.get("max_history", 0)
    refused_digest, refused = write_staged(
        in_schema(quarantine_of(judged), "quarantine"), writers["quarantine"], sort=["reason", "row"]
    )
    judged.unpersist()
    require_closed(counts, counts["events"], refused["digest_rows"], through)
    quality = check_base(home, through, found, counts)
    about: dict[str, Any] = {"inputs": inputs, "counts": counts, "code_version": code_version()}
    writers["quarantine"].commit(digest=refused_digest, **about)
    details = {"settings": history_settings(config), "quality": f"{len(quality['checks'])} checks passed"}
    manifest = writers["history"].commit(digest=digest_from(found), buckets=buckets, details=details, **about)
    kept = f"{counts['history_events']:,} of {counts['behaviours']:,} behaviours kept, {counts['users']:,} users"
    say("history", through, f"{told(counts)}; {kept}, digest {manifest.digest}", began)
