"""Erasure in files: where users' rows lie, and partition files without them, bucket by bucket with pyarrow.

A file without rows of the users is copied as it is, so that the new build is complete and the old one can be deleted.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longreel.contracts.jagged import Ints
from longreel.contracts.schemas import schema_text
from longreel.lake.files import PublishedFile
from longreel.lake.manifest import Manifest
from longreel.lake.schema_evolution import to_schema
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_checks import Stats, history_stats, sample_stats
from longreel.spark_jobs.array_io import select, write_file
from longreel.spark_jobs.buckets import bucket_of, files_of
from longreel.spark_jobs.user_histories import is_among

SCAN_THREADS = 16  # they wait for the store, they do not compute


def find_rows(lake: Lake, manifests: Iterable[Manifest], users: Ints) -> Iterator[tuple[Manifest, Ints]]:
    """The partitions with rows of `users` [n], increasing, and how many of each [n]."""
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        manifests = list(manifests)
        counts = pool.map(lambda manifest: _rows_of(lake, manifest, users), manifests)
        for manifest, rows in zip(manifests, counts, strict=True):
            if rows.any():
                yield manifest, rows


def _rows_of(lake: Lake, manifest: Manifest, users: Ints) -> Ints:
    buckets = np.unique(bucket_of(users, manifest.buckets)).tolist()
    rows = np.zeros(len(users), np.int64)
    for file in {file for bucket in buckets for file in files_of(lake, manifest, bucket, manifest.buckets)}:
        rows += rows_in_file(lake, file, users)
    return rows


def rows_in_file(lake: Lake, published: PublishedFile, users: Ints) -> Ints:
    """How many rows of each of `users` [n], increasing, a file has. Row groups are skipped by their statistics of
    user ids, where the file has those."""
    rows = np.zeros(len(users), np.int64)
    with lake.open_parquet(published) as file:
        column = file.schema_arrow.names.index("user_id")
        for number in range(file.num_row_groups):
            stats = file.metadata.row_group(number).column(column).statistics
            if stats is not None and stats.has_min_max and not ((users >= stats.min) & (users <= stats.max)).any():
                continue
            ids = pc.drop_null(file.read_row_group(number, columns=["user_id"]).column("user_id")).to_numpy()
            present = ids[is_among(ids, users)]
            rows += np.bincount(np.searchsorted(users, present), minlength=len(users))
    return rows


@dataclass(frozen=True, kw_only=True)
class EraseUsers:
    """Rewrite one file of a partition without the rows of some users."""

    lake: Lake
    dataset: str
    date: str
    source: PublishedFile
    target: str
    bucket: int
    buckets: int
    users: tuple[int, ...]  # increasing
    max_history: int  # of samples

    def run(self) -> Iterator[tuple[str, Stats]]:
        """Write the file; yields the day with the stats of the file, read back, where it holds arrays."""
        lake, users = self.lake, np.array(self.users, np.int64)
        path: str | None = self.target
        with lake.open_parquet(self.source) as file:
            is_unchanged = schema_text(file.schema_arrow) == schema_text(lake.schemas[self.dataset])
            is_unchanged &= not rows_in_file(lake, self.source, users).any()
            if not is_unchanged:
                path = write_file(lake, self.dataset, self.target, self._kept(file, users))
        if is_unchanged:
            lake.filesystem.copy_file(self.source.path, self.target)
        if self.dataset == "samples":
            yield self.date, sample_stats(lake, path, self.bucket, self.buckets, self.max_history)
        elif self.dataset == "history":
            yield self.date, history_stats(lake, path, self.bucket, self.buckets)

    def _kept(self, file: pq.ParquetFile, users: Ints) -> Iterator[pa.Table]:
        for number in range(file.num_row_groups):
            table = to_schema(
                file.read_row_group(number), self.lake.schemas[self.dataset], f"{self.dataset} of {self.date}"
            )
            is_erased = np.asarray(pc.is_in(table.column("user_id"), pa.array(users)))
            yield select(table, np.flatnonzero(~is_erased)) if is_erased.any() else table


def erasure_tasks(manifest: Manifest, writer: PartitionWriter, users: Ints) -> Iterator[EraseUsers]:
    """The tasks that write a partition's new build, one a file."""
    samples = manifest.details.get("definitions", {}).get("samples", {})
    for file in writer.lake.files(manifest):
        yield EraseUsers(
            lake=writer.lake,
            dataset=manifest.dataset,
            date=manifest.date,
            source=file,
            target=f"{writer.path}/{PurePosixPath(file.path).name}",
            bucket=file.bucket,
            buckets=manifest.buckets,
            users=tuple(users.tolist()),
            max_history=int(samples.get("max_history", 0)),
        )
