"""Where are users' rows in the lake, and how are they taken out of a file? Bucket by bucket, with pyarrow.

A file without rows of theirs is copied as it is, so that a new build is whole by itself and the old one can be deleted.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.jagged import Ints
from longreel.contracts.schemas import DATASETS, schema_text
from longreel.lake.manifest import Manifest
from longreel.lake.schema_evolution import to_schema
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.array_checks import Facts, history_facts, sample_facts
from longreel.spark_jobs.array_io import select, write_file
from longreel.spark_jobs.buckets import bucket_of, files_of
from longreel.spark_jobs.user_histories import is_among

LOOKS = 16  # files looked into at once: waiting for a store, not computing


def find_rows(lake: Lake, manifests: Iterable[Manifest], users: Ints) -> Iterator[tuple[Manifest, Ints]]:
    """The partitions with rows of `users` [n], increasing, and how many of each [n]."""
    with ThreadPoolExecutor(LOOKS) as pool:
        manifests = list(manifests)
        for manifest, rows in zip(
            manifests, pool.map(lambda each: _rows_of(lake, each, users), manifests), strict=True
        ):
            if rows.any():
                yield manifest, rows


def _rows_of(lake: Lake, manifest: Manifest, users: Ints) -> Ints:
    buckets = np.unique(bucket_of(users, manifest.buckets)).tolist()
    wanted = {item.path for bucket in buckets for item in files_of(manifest, bucket, manifest.buckets)}
    found = np.zeros(len(users), np.int64)
    for path, item in zip(lake.paths(manifest), manifest.files, strict=True):
        if item.path in wanted:
            found += rows_in_file(lake, path, users)
    return found


def rows_in_file(lake: Lake, path: str, users: Ints) -> Ints:
    """How many rows of each of `users` [n], increasing, a file has. Row groups are skipped by their least and greatest
    user id, where the file tells those."""
    found = np.zeros(len(users), np.int64)
    with pq.ParquetFile(path, filesystem=lake.filesystem) as file:
        column = file.schema_arrow.names.index("user_id")
        for number in range(file.num_row_groups):
            told = file.metadata.row_group(number).column(column).statistics
            if told is not None and told.has_min_max and not ((users >= told.min) & (users <= told.max)).any():
                continue
            ids = file.read_row_group(number, columns=["user_id"]).column("user_id").to_numpy()
            mine = ids[is_among(ids, users)]
            found += np.bincount(np.searchsorted(users, mine), minlength=len(users))
    return found


@dataclass(frozen=True, kw_only=True)
class RemoveUsers:
    """Write one file of a partition again, without the rows of some users."""

    lake_root: str
    dataset: str
    date: str
    source: str
    target: str
    bucket: int
    buckets: int
    features: int  # of a user, in samples
    users: tuple[int, ...]  # increasing

    def run(self) -> Iterator[tuple[str, Facts]]:
        """Write the file; yields the day with what the file was found to hold, where it holds lists."""
        lake, users = Lake(self.lake_root), np.array(self.users, np.int64)
        path: str | None = self.target
        with pq.ParquetFile(self.source, filesystem=lake.filesystem) as file:
            as_it_is = schema_text(file.schema_arrow) == schema_text(DATASETS[self.dataset])
            as_it_is &= not rows_in_file(lake, self.source, users).any()
            if not as_it_is:
                path = write_file(lake, self.dataset, self.target, self._kept(file, users))
        if as_it_is:
            lake.filesystem.copy_file(self.source, self.target)
        if self.dataset == "samples":
            yield self.date, sample_facts(lake, path, self.bucket, self.buckets, self.features)
        elif self.dataset == "history":
            yield self.date, history_facts(lake, path, self.bucket, self.buckets)

    def _kept(self, file: pq.ParquetFile, users: Ints) -> Iterator[pa.Table]:
        for number in range(file.num_row_groups):
            table = to_schema(file.read_row_group(number), DATASETS[self.dataset], f"{self.dataset} of {self.date}")
            gone = is_among(table.column("user_id").to_numpy(), users)
            yield select(table, np.flatnonzero(~gone)) if gone.any() else table


def removal_tasks(lake: Lake, manifest: Manifest, writer: PartitionWriter, users: Ints) -> Iterator[RemoveUsers]:
    """The tasks that write a partition's new build, one a file."""
    for path, item in zip(lake.paths(manifest), manifest.files, strict=True):
        yield RemoveUsers(
            lake_root=lake.root,
            dataset=manifest.dataset,
            date=manifest.date,
            source=path,
            target=f"{writer.path}/{PurePosixPath(path).name}",
            bucket=item.bucket,
            buckets=manifest.buckets,
            features=len(manifest.details.get("user_features", ())),
            users=tuple(users.tolist()),
        )
