"""`longreel data forget`: users out of every partition of the lake, for good, with a record of counts.

Events, users, quarantine, history bases and samples that hold rows of theirs are published again without those, as if
the log had never had them; the builds that did hold them are deleted at once. Partitions made from these name the new
digests among their inputs, so nothing downstream is stale or built again. Raw files are not touched: the record keeps
the users' salted hashes, and ingest and import-history leave their rows out from then on.

Killed halfway, every partition is readable, and the same call goes on to the end. Other steps that are at work
meanwhile cannot commit what they began before (`lake.table.PartitionWriter`); one that reads a deleted build fails, and
is run again. Models that were trained on such samples stay as they are.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.contracts.jagged import Ints
from longreel.contracts.schemas import DATASETS
from longreel.lake.erasure import (
    ErasureRequest,
    Removal,
    erasure_requests,
    lake_salt,
    new_request,
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
from longreel.spark_jobs.bootstrap_snapshot import imported_archive
from longreel.spark_jobs.build_samples import run_tasks
from longreel.spark_jobs.days import LazySession, code_version, say
from longreel.spark_jobs.history import bytes_of
from longreel.spark_jobs.removal import find_rows, removal_tasks
from longreel.spark_jobs.row_counts import account_after
from longreel.spark_jobs.sources import Source, source_class
from longreel.spark_jobs.vacuum import vacuum

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from longreel.spark_jobs.republish import Rebuilt

ORDER = ("quarantine", "users", "events", "history", "samples")  # a partition comes after what it is made from
STRETCH = 64  # partitions that are staged together: for so long their builds lie beside the published ones
LOOKS = 3  # times that the lake is looked through, until nothing of the users is found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `longreel data forget`."""
    told = "a user's id as the raw log spells it; may be given several times"
    parser.add_argument("--user", action="append", required=True, metavar="ID", help=told)


def run(args: argparse.Namespace, home: Home) -> int:
    """Forget the users named."""
    vacuum(home.lake)
    return forget(home, args.user, LazySession("longreel data forget"))


def forget(home: Home, texts: Sequence[str], session: LazySession) -> int:
    """Remove users, named as the raw log spells them, from the lake.

    Returns:
        0, or 3 where nothing of one of the users was there. Rows that come later are left out all the same.

    Raises:
        LongreelError: a text is no user id of this source; or other steps keep publishing rows of the users.
    """
    from longreel.spark_jobs.republish import user_ids

    began, lake, source = time.monotonic(), home.lake, source_class(home.config.source.kind)
    spark = session(sum(bytes_of(each) for dataset in ORDER for each in _published(lake, dataset)))
    users = dict.fromkeys(user_ids(spark, source, texts))
    salt = lake_salt(lake.storage)
    before = {user for record in erasure_requests(lake.storage) if record.finished for user in record.users}
    work = _Work(home=home, source=source, spark=spark, users=np.array(sorted(users), np.int64), salt=salt)
    if work.hashes <= before and not any(list(work.held(dataset)) for dataset in ORDER):
        print("forgotten already, and nothing of theirs has come back")
        return 0
    record = work.remove_all(_record_of(lake, work.hashes))
    record = replace(record, finished=utc_stamp())
    write_request(lake.storage, record)
    _tell(lake, record, began)
    absent = [n for n, user in enumerate(users, 1) if user_hash(salt, user) not in {*record.users_with_rows, *before}]
    for number in absent:  # not by id: what is printed may be kept in a log
        print(f"user {number} of {len(users)}: nothing of theirs is in the lake; rows that come are left out")
    return DataNotReadyError.exit_code if absent else 0


def _published(lake: Lake, dataset: str) -> Iterator[Manifest]:
    return (lake.require(dataset, day) for day in lake.days(dataset))


def _record_of(lake: Lake, users: set[str]) -> ErasureRequest:
    """The record of an unfinished request for these users, or a new one, written before anything is looked for: what
    is published from now on was begun with the users known as forgotten, or is refused."""
    for record in erasure_requests(lake.storage):
        if record.finished is None and set(record.users) == users:
            print(f"going on with what was begun at {record.began}")
            return record
    write_request(lake.storage, record := new_request(users))
    return record


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Removing some users from one lake."""

    home: Home
    source: type[Source]
    spark: "SparkSession"
    users: Ints  # increasing
    salt: str

    @property
    def hashes(self) -> set[str]:
        """What records call the users."""
        return {user_hash(self.salt, user) for user in self.users.tolist()}

    def held(self, dataset: str) -> Iterator[tuple[Manifest, Ints]]:
        """The partitions of a dataset with rows of the users, and how many of each user."""
        manifests = list(_published(self.home.lake, dataset))
        if dataset != "quarantine":
            yield from find_rows(self.home.lake, manifests, self.users)
        elif manifests:
            yield from self._refused(manifests)

    def _refused(self, manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, Ints]]:
        from pyspark.sql import functions as F

        from longreel.spark_jobs.republish import refused

        theirs = refused(self.spark, self.home.lake, self.source, manifests).where(
            F.col("user_id").isin(*self.users.tolist())
        )
        counts: dict[str, Ints] = {}
        for group in theirs.groupBy("day", "user_id").count().collect():
            rows = counts.setdefault(group["day"], np.zeros(len(self.users), np.int64))
            rows[np.searchsorted(self.users, group["user_id"])] += group["count"]
        yield from ((manifest, counts[manifest.date]) for manifest in manifests if manifest.date in counts)

    def remove_all(self, record: ErasureRequest) -> ErasureRequest:
        """Remove the users until nothing of theirs is found, and bring to date what was made from the old partitions.

        Raises:
            LongreelError: other steps keep publishing rows of theirs.
        """
        for _ in range(LOOKS):
            before = record
            for dataset in ORDER:
                record = self._remove(record, dataset)
            if record is before:
                return _settle(self.home.lake, record)
        raise LongreelError("other steps keep publishing rows of these users; stop them, then run forget again")

    def _remove(self, record: ErasureRequest, dataset: str) -> ErasureRequest:
        held = list(self.held(dataset))
        for first in range(0, len(held), STRETCH):
            record = self._remove_stretch(record, held[first : first + STRETCH])
        return record

    def _remove_stretch(self, record: ErasureRequest, held: Sequence[tuple[Manifest, Ints]]) -> ErasureRequest:
        """Publish some partitions of a dataset without the users, and delete the builds that had them."""
        lake = self.home.lake
        manifests = [manifest for manifest, _ in held]
        writers = [lake.writer(each.dataset, date.fromisoformat(each.date)) for each in manifests]
        with discard_on_error(*writers):
            seen = self._write(manifests, writers)
            for (manifest, rows), writer in zip(held, writers, strict=True):
                new = self._rebuilt(manifest, writer, seen)
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
                record = record.with_removal(
                    removal, (user_hash(self.salt, each) for each in self.users[rows > 0].tolist())
                )
                write_request(lake.storage, record)
                new.commit(manifest, record.updated_inputs(manifest.inputs), code_version())
                deleted = delete_unreferenced(lake, writer.dataset, writer.day, utc_stamp())
                record = replace(record, builds_deleted=record.builds_deleted + deleted)
                say(
                    writer.dataset, writer.day, f"{rows.sum():,} of {manifest.rows:,} rows removed, digest {new.digest}"
                )
        return record

    def _write(self, manifests: Sequence[Manifest], writers: Sequence[PartitionWriter]) -> dict[str, dict[str, int]]:
        """Stage the partitions without the users; returns what was found in them, by day."""
        from longreel.spark_jobs.republish import flat_facts

        dataset = manifests[0].dataset
        if dataset == "quarantine":
            return {}
        pairs = zip(manifests, writers, strict=True)
        tasks = [task for each, writer in pairs for task in removal_tasks(self.home.lake, each, writer, self.users)]
        seen = run_tasks(self.spark, tasks)
        return seen if dataset in DERIVED else flat_facts(self.spark, dataset, writers)

    def _rebuilt(self, manifest: Manifest, writer: PartitionWriter, seen: dict[str, dict[str, int]]) -> "Rebuilt":
        from longreel.spark_jobs import republish

        if manifest.dataset == "quarantine":
            rows = republish.refused(self.spark, self.home.lake, self.source, [manifest])
            return republish.quarantine_without(rows, manifest, writer, self.users)
        found = seen.get(manifest.date, {})
        if manifest.dataset in DERIVED:
            return republish.list_rebuilt(self.home.lake, manifest, writer, found)
        return republish.flat_rebuilt(self.home, self.spark, manifest, writer, found)


def _settle(lake: Lake, record: ErasureRequest) -> ErasureRequest:
    """Bring to date the manifests that name removed rows without having held them: row accounts, inputs of derived
    partitions; and delete every build begun before the request that is not published."""
    archive = imported_archive(lake)
    for day in sorted({each.date for each in record.removals if each.dataset in ("events", "quarantine")}):
        refused = lake.manifest("quarantine", date.fromisoformat(day))
        main = archive if archive and archive.date == day else lake.manifest("events", date.fromisoformat(day))
        if main is None or refused is None or "input_rows" not in main.counts:
            continue
        counts = account_after(main.counts, main.counts["events"], refused)
        for manifest in (main, refused):
            if manifest.counts != counts:
                lake.rewrite_manifest(replace(manifest, counts=counts))
    relinked, deleted = record.relinked, record.builds_deleted
    for dataset in DERIVED:
        for manifest in _published(lake, dataset):
            inputs = record.updated_inputs(manifest.inputs)
            if inputs != manifest.inputs:
                lake.rewrite_manifest(replace(manifest, inputs=inputs))
                relinked += 1
    for dataset in DATASETS:
        for each in lake.folders(dataset):
            deleted += delete_unreferenced(lake, dataset, each, record.began)
    return replace(record, relinked=relinked, builds_deleted=deleted)


def _tell(lake: Lake, record: ErasureRequest, began: float) -> None:
    for dataset, (partitions, rows) in record.totals().items():
        print(f"{dataset}: {rows:,} rows removed from {partitions:,} partitions")
    print(f"{record.relinked:,} more partitions name the new inputs, {record.builds_deleted:,} old builds were deleted")
    print(f"record: {request_path(lake.storage, record.name)}, in {time.monotonic() - began:.1f} s")
    days = [each.date for each in record.removals if each.dataset == "samples"]
    if days:
        print(
            f"models are not changed: those trained on samples of {days[0]} .. {days[-1]} saw these users, "
            "until a training on the samples as they are now replaces them"
        )
