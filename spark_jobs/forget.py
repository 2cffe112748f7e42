"""`longreel data forget`: erases users from every partition of the lake, with a record of counts.

Events, users, quarantine, history snapshots and samples that hold rows of the users are published again without them,
as if the log had never had them; the builds that did hold them are deleted at once. Partitions made from these name
the new digests among their inputs, so nothing downstream becomes stale. Counters and statistics of days that held them
are deleted: they are caches, which the next build makes again. Raw files are not touched: the record keeps
the users' salted hashes, and ingest and import-history leave their rows out from then on.

Killed halfway, every partition is readable, and the same call completes the work. A second call waits for the end of
the first. Other steps that are running
meanwhile cannot commit what they began before (`lake.table.PartitionWriter`); a step that reads a deleted build fails
and must be run again. Models that were trained on such samples stay as they are.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from pyspark.sql import SparkSession

from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.contracts.jagged import Ints
from longreel.contracts.schemas import DATASETS
from longreel.lake.erasure import (
    ErasureRequest,
    Removal,
    erasure_requests,
    lake_salt,
    new_request,
    one_erasure,
    request_path,
    user_hash,
    write_request,
)
from longreel.lake.home import Home
from longreel.lake.lineage import DERIVED
from longreel.lake.maintenance import delete_unreferenced
from longreel.lake.manifest import Manifest
from longreel.lake.storage import utc_stamp
from longreel.lake.table import Lake, PartitionWriter, discard_on_error
from longreel.spark_jobs.array_checks import Stats
from longreel.spark_jobs.bootstrap_snapshot import find_bootstrap
from longreel.spark_jobs.bucket_tasks import run_tasks
from longreel.spark_jobs.counters import drop_stale_counters
from longreel.spark_jobs.days import LazySession, code_version, log_progress
from longreel.spark_jobs.erasure_files import erasure_tasks, find_rows
from longreel.spark_jobs.erasure_manifests import (
    RewrittenPartition,
    parse_user_ids,
    rewritten_array_partition,
    rewritten_flat_partition,
    stats_by_day,
)
from longreel.spark_jobs.history import partition_bytes
from longreel.spark_jobs.rejected_rows import EXAMPLES_FILE
from longreel.spark_jobs.row_counts import counts_after_erasure
from longreel.spark_jobs.stored_columns import by_columns
from longreel.spark_jobs.vacuum import vacuum_builds

ORDER = ("quarantine", "users", "events", "history", "samples")  # a partition comes after what it is made from
PARTITIONS_PER_JOB = 64  # staged together: until all are published, their builds lie beside the published ones
MAX_SCANS = 3  # scans of the whole lake, until one finds no rows of the users


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data forget`."""
    text = "a user's id as the raw log spells it; may be given several times"
    parser.add_argument("--user", action="append", required=True, metavar="ID", help=text)


def run(args: argparse.Namespace, home: Home) -> int:
    """Erase the named users."""
    with one_erasure(home.lake.storage):
        vacuum_builds(home.lake)
        return forget(home, args.user, LazySession("longreel data forget"))


def forget(home: Home, texts: Sequence[str], session: LazySession) -> int:
    """Erase users, named as the raw log spells them, from the lake.

    Returns:
        0, or 3 where the lake had no rows of one of the users. Rows that come later are left out all the same.

    Raises:
        LongreelError: a text is no user id of this source; or other steps keep publishing rows of the users.
    """
    started, lake = time.monotonic(), home.lake
    spark = session(sum(partition_bytes(manifest) for dataset in ORDER for manifest in _published(lake, dataset)))
    users = dict.fromkeys(parse_user_ids(spark, home.config.source, texts))
    salt = lake_salt(lake.storage)
    erased_before = {user for record in erasure_requests(lake.storage) if record.finished for user in record.users}
    erasure = ErasureRun(home=home, spark=spark, users=np.array(sorted(users), np.int64), salt=salt)
    if erasure.hashes <= erased_before and not any(list(erasure.affected(dataset)) for dataset in ORDER):
        print("erased already, and no rows of theirs have come back")
        return 0
    record = erasure.erase_all(_open_record(lake, erasure.hashes))
    for examples in home.reports.glob(f"*/{EXAMPLES_FILE}"):
        examples.unlink()
    record = replace(record, finished=utc_stamp())
    write_request(lake.storage, record)
    _print_record(lake, record, started)
    absent = [
        n for n, user in enumerate(users, 1) if user_hash(salt, user) not in {*record.users_with_rows, *erased_before}
    ]
    for number in absent:  # not by id: what is printed may be kept in a log
        print(f"user {number} of {len(users)}: the lake has no rows of this user; rows that come are left out")
    return DataNotReadyError.exit_code if absent else 0


def _published(lake: Lake, dataset: str) -> Iterator[Manifest]:
    return (lake.require(dataset, day) for day in lake.days(dataset))


def _open_record(lake: Lake, users: set[str]) -> ErasureRequest:
    """The record of an unfinished request for these users, or a new one, written before the lake is scanned: any build
    that is published from now on either left the users out, or is rejected."""
    for record in erasure_requests(lake.storage):
        if record.finished is None and set(record.users) == users:
            print(f"resuming the request of {record.began}")
            return record
    write_request(lake.storage, record := new_request(users))
    return record


@dataclass(frozen=True, kw_only=True)
class ErasureRun:
    """The erasure of some users from one lake."""

    home: Home
    spark: SparkSession
    users: Ints  # increasing
    salt: str

    @property
    def hashes(self) -> set[str]:
        """The users as records name them."""
        return {user_hash(self.salt, user) for user in self.users.tolist()}

    def affected(self, dataset: str) -> Iterator[tuple[Manifest, Ints]]:
        """The partitions of a dataset with rows of the users, and how many of each user."""
        return find_rows(self.home.lake, _published(self.home.lake, dataset), self.users)

    def erase_all(self, record: ErasureRequest) -> ErasureRequest:
        """Erase the users until a scan finds no rows of theirs, then update what was made from the old partitions.

        Raises:
            LongreelError: other steps keep publishing rows of the users.
        """
        for _ in range(MAX_SCANS):
            before = record
            for dataset in ORDER:
                rows = {manifest.date: (manifest, rows) for manifest, rows in self.affected(dataset)}
                for lake, manifests in by_columns(self.home.lake, (manifest for manifest, _ in rows.values())):
                    affected = [rows[manifest.date] for manifest in manifests]
                    for first in range(0, len(affected), PARTITIONS_PER_JOB):
                        record = self._erase(lake, record, affected[first : first + PARTITIONS_PER_JOB])
            if record is before:
                return _update_references(self.home.lake, record)
        raise LongreelError("other steps keep publishing rows of these users; stop them, then run forget again")

    def _erase(self, lake: Lake, record: ErasureRequest, affected: Sequence[tuple[Manifest, Ints]]) -> ErasureRequest:
        """Publish some partitions of a dataset without the users, and delete the builds that had them; `lake` has the
        columns of their files."""
        manifests = [manifest for manifest, _ in affected]
        writers = [lake.writer(manifest.dataset, date.fromisoformat(manifest.date)) for manifest in manifests]
        with discard_on_error(*writers):
            stats = self._write(manifests, writers)
            for (manifest, rows), writer in zip(affected, writers, strict=True):
                new = self._rewritten(manifest, writer, stats.get(manifest.date, {}))
                if new.rows != manifest.rows - rows.sum():
                    raise LongreelError(
                        f"{manifest.dataset} of {manifest.date} has {manifest.rows:,} rows, {rows.sum():,} of them of "
                        f"these users, but {new.rows:,} were left; nothing was published, run forget again"
                    )
                removal = Removal(
                    dataset=manifest.dataset,
                    date=manifest.date,
                    rows=int(rows.sum()),
                    before=manifest.digest,
                    after=new.digest,
                )
                present = (user_hash(self.salt, user) for user in self.users[rows > 0].tolist())
                record = record.with_removal(removal, present)
                write_request(lake.storage, record)
                new.commit(manifest, record.updated_inputs(manifest.inputs), code_version())
                deleted = delete_unreferenced(lake, writer.dataset, writer.day, utc_stamp())
                record = replace(record, builds_deleted=record.builds_deleted + deleted)
                removed = f"{rows.sum():,} of {manifest.rows:,} rows removed"
                log_progress(writer.dataset, writer.day, f"{removed}, digest {new.digest}")
        return record

    def _write(self, manifests: Sequence[Manifest], writers: Sequence[PartitionWriter]) -> dict[str, Stats]:
        """Stage the partitions without the users; returns the stats of the staged files, by day."""
        dataset, pairs = manifests[0].dataset, zip(manifests, writers, strict=True)
        tasks = [task for old, writer in pairs for task in erasure_tasks(old, writer, self.users)]
        stats = run_tasks(self.spark, tasks)
        return stats if dataset in DERIVED else stats_by_day(self.spark, dataset, writers)

    def _rewritten(self, manifest: Manifest, writer: PartitionWriter, stats: Stats) -> RewrittenPartition:
        if manifest.dataset in DERIVED:
            return rewritten_array_partition(manifest, writer, stats)
        return rewritten_flat_partition(self.home, self.spark, manifest, writer, stats)


def _update_references(lake: Lake, record: ErasureRequest) -> ErasureRequest:
    """Update the manifests that name removed rows without having held them: row counts, and inputs of derived
    partitions; and delete counters and statistics that may name the users, and every unpublished build begun before
    the request."""
    bootstrap = find_bootstrap(lake)
    for day in sorted({removal.date for removal in record.removals if removal.dataset in ("events", "quarantine")}):
        quarantine = lake.manifest("quarantine", date.fromisoformat(day))
        is_bootstrap = bootstrap is not None and bootstrap.date == day
        main = bootstrap if is_bootstrap else lake.manifest("events", date.fromisoformat(day))
        if main is None or quarantine is None or "input_rows" not in main.counts:
            continue
        counts = counts_after_erasure(main.counts, main.counts["events"], quarantine)
        for manifest in (main, quarantine):
            if manifest.counts != counts:
                lake.rewrite_manifest(replace(manifest, counts=counts))
    relinked, deleted = record.relinked, record.builds_deleted
    for dataset in DERIVED:
        for manifest in _published(lake, dataset):
            inputs = record.updated_inputs(manifest.inputs)
            if inputs != manifest.inputs:
                lake.rewrite_manifest(replace(manifest, inputs=inputs))
                relinked += 1
    for manifest in drop_stale_counters(lake):
        log_progress(manifest.dataset, date.fromisoformat(manifest.date), "deleted; the next build makes it again")
    for dataset in DATASETS:
        for folder_day in lake.folders(dataset):
            deleted += delete_unreferenced(lake, dataset, folder_day, record.began)
    return replace(record, relinked=relinked, builds_deleted=deleted)


def _print_record(lake: Lake, record: ErasureRequest, started: float) -> None:
    for dataset, (partitions, rows) in record.totals().items():
        print(f"{dataset}: {rows:,} rows removed from {partitions:,} partitions")
    print(f"{record.relinked:,} more partitions name the new inputs, {record.builds_deleted:,} old builds were deleted")
    print(f"record: {request_path(lake.storage, record.name)}, in {time.monotonic() - started:.1f} s")
    days = [removal.date for removal in record.removals if removal.dataset == "samples"]
    if days:
        print(
            f"models are not changed: those trained on samples of {days[0]} .. {days[-1]} used these users' events; "
            "train again on the samples as they are now to replace them"
        )
    if days and lake.log_schema.statistics:
        print(
            "statistics of other users in published samples still count these users' impressions: "
            "`longreel data build-samples --force` on those days counts again"
        )
