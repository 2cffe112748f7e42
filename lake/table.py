"""Partitions of a lake: find and read them, and commit new ones with the data first and the manifest last.

    <root>/<dataset>/date=2026-11-01/<build>/part-*.parquet     data of one build, invisible without a manifest
    <root>/<dataset>/date=2026-11-01/_manifest.json             names the build that readers see
    <root>/erasure_requests/                                    see erasure.py

Writing the manifest is the commit, and it is one atomic step (a rename on a local disk, one PUT on an object store).
A killed job leaves a build that no manifest names; maintenance.py removes it once its lease (lease.py) has expired.
Replacing a partition never shows a reader half of it. Readers take file names from the manifest; they list no folder.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from longreel.contracts import schemas
from longreel.contracts.dates import parse_day
from longreel.contracts.errors import DataNotReadyError, LongreelError, TransientError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import DATASETS, READABLE_SINCE, DatasetSchemas, dataset_schemas, schema_text
from longreel.lake import lease
from longreel.lake.erasure import request_names
from longreel.lake.files import PublishedFile, check_file, footer_digest, open_parquet, read_through
from longreel.lake.manifest import MANIFEST, DataFile, Manifest
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.storage import Storage, utc_stamp


class Lake:
    """The partitions below a root (a local folder, or a URL that `Storage` opens), with the columns of a log schema."""

    def __init__(self, root: str | Path, log_schema: LogSchema = LogSchema()) -> None:  # noqa: B008  # frozen
        self.root = str(root)
        self.storage = Storage(root)
        self.log_schema = log_schema

    @property
    def schemas(self) -> DatasetSchemas:
        """The schemas of its datasets."""
        return dataset_schemas(self.log_schema)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem that `paths` belong to."""
        return self.storage.filesystem

    def partition_path(self, dataset: str, day: date) -> str:
        """The folder of a partition, committed or not.

        Raises:
            LongreelError: there is no such dataset.
        """
        if dataset not in DATASETS:
            raise LongreelError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}")
        return self.storage.path(dataset, f"date={day.isoformat()}")

    def manifest_path(self, dataset: str, day: date) -> str:
        """Where the manifest of a partition is, or would be."""
        return f"{self.partition_path(dataset, day)}/{MANIFEST}"

    def manifest(self, dataset: str, day: date) -> Manifest | None:
        """The committed partition's manifest, or None where there is none.

        Raises:
            LongreelError: as `Manifest.from_json`; or it is another partition's.
        """
        path = self.manifest_path(dataset, day)
        if (text := self.storage.read_text(path)) is None:
            return None
        try:
            manifest = Manifest.from_json(text)
        except LongreelError as error:
            raise LongreelError(f"{path}: {error}") from error
        if (manifest.dataset, manifest.date) != (dataset, day.isoformat()):
            raise LongreelError(
                f"{path} is the manifest of {manifest.dataset} of {manifest.date}; restore that of {dataset} of {day}, "
                "or remove the file and run the partition's step again"
            )
        return manifest

    def require(self, dataset: str, day: date) -> Manifest:
        """As `manifest`, but a missing day is an error.

        Raises:
            DataNotReadyError: the day is not published.
        """
        manifest = self.manifest(dataset, day)
        if manifest is None:
            days = list(self.days(dataset))
            have = f"published: {days[0]} .. {days[-1]} ({len(days)})" if days else "nothing is published"
            command = "ingest" if dataset in ("events", "users", "quarantine") else "build-samples"
            raise DataNotReadyError(
                f"{dataset} of {day} expected in {self.root}, but {have}; run `longreel data {command} --date {day}`"
            )
        return manifest

    def days(self, dataset: str) -> Iterator[date]:
        """The published days of a dataset, oldest first."""
        return (day for day in self.folders(dataset) if self.storage.has_file(self.manifest_path(dataset, day)))

    def folders(self, dataset: str) -> Iterator[date]:
        """The days that a dataset has a folder for, published or not, oldest first.

        Raises:
            LongreelError: a folder is named like a day and is none.
        """
        for info in self.storage.list(self.storage.path(dataset)):
            if (name := PurePosixPath(info.path).name).startswith("date="):
                try:
                    yield parse_day(name.removeprefix("date="))
                except LongreelError as error:
                    raise LongreelError(f"{info.path}: {error}; nothing else belongs here, remove it") from error

    def files(self, manifest: Manifest) -> list[PublishedFile]:
        """A partition's data files, in the manifest's order.

        Raises:
            LongreelError: the partition is older than what readers of its dataset expect now.
        """
        if not manifest.is_readable:
            raise LongreelError(
                f"{manifest.dataset} of {manifest.date} has schema version {manifest.schema_version}, but "
                f"{manifest.dataset} changed in version {READABLE_SINCE[manifest.dataset]}; run its step again"
            )
        folder = self.partition_path(manifest.dataset, date.fromisoformat(manifest.date))
        return [
            PublishedFile(
                path=f"{folder}/{file.path}",
                size_bytes=file.size_bytes,
                footer=file.footer,
                bucket=file.bucket,
            )
            for file in manifest.files
        ]

    def paths(self, manifest: Manifest) -> list[str]:
        """Absolute paths of a partition's data files, each of the published size and footer, for readers other than
        `open_parquet`: Spark and pyarrow take them.

        Raises:
            LongreelError: as `files`; or a file is damaged.
            TransientError: a file is gone.
        """
        files = self.files(manifest)
        for file in files:
            check_file(self.filesystem, file)
        return [file.path for file in files]

    def read(self, manifest: Manifest, columns: list[str] | None = None) -> pa.Table:
        """A partition's rows, or some columns of them.

        Raises:
            LongreelError: a column is missing and has no default; or as `paths`.
        """
        schema = self.schemas[manifest.dataset]
        schema = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        tables = []
        for file in self.files(manifest):
            with self.open_parquet(file) as parquet:
                table = parquet.read(columns=stored_columns(schema, parquet.schema_arrow.names))
                tables.append(to_schema(table, schema, f"{manifest.dataset} of {manifest.date}"))
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def open_parquet(self, file: PublishedFile) -> AbstractContextManager[pq.ParquetFile]:
        """One data file of a published partition, open for reading; `files.open_parquet` says what it raises."""
        return open_parquet(self.filesystem, file)

    def rewrite_manifest(self, manifest: Manifest) -> None:
        """Replace a published partition's manifest by one that describes the same files differently.

        Raises:
            TransientError: the partition has other files by now.
        """
        day = date.fromisoformat(manifest.date)
        if self.require(manifest.dataset, day).files != manifest.files:
            raise TransientError(f"{manifest.dataset} of {day} was published again meanwhile; run the step again")
        self.storage.write_atomic(self.manifest_path(manifest.dataset, day), manifest.to_json())

    def drop_partition(self, manifest: Manifest) -> None:
        """Delete a partition, the manifest first: from then on readers do not see it."""
        day = date.fromisoformat(manifest.date)
        self.storage.delete_file(self.manifest_path(manifest.dataset, day))
        for build in manifest.builds:
            self.storage.try_delete_folder(f"{self.partition_path(manifest.dataset, day)}/{build}")

    def writer(self, dataset: str, day: date) -> "PartitionWriter":
        """A writer with a new, invisible build of a partition; `PartitionWriter.commit` makes it the partition."""
        return PartitionWriter(self, dataset, day)


class PartitionWriter:
    """One build of one partition, under a lease. Write Parquet files into `path`, then `commit`."""

    def __init__(self, lake: Lake, dataset: str, day: date) -> None:
        self.lake, self.dataset, self.day = lake, dataset, day
        self.build = f"build-{utc_stamp()}-{uuid.uuid4().hex[:8]}"
        self._erasure_requests = request_names(lake.storage)
        self.path = f"{lake.partition_path(dataset, day)}/{self.build}"
        lake.storage.create_folder(self.path)
        lease.acquire(lake.filesystem, self.path)

    def commit(
        self,
        *,
        digest: str,
        inputs: Mapping[str, str],
        buckets: int = 1,
        counts: Mapping[str, int] | None = None,
        details: Mapping[str, Any] | None = None,
        min_time_ms: int | None = None,
        max_time_ms: int | None = None,
        code_version: str = "",
    ) -> Manifest:
        """Make this build the partition. Where the published one has the same digest, it keeps its files: the manifest
        names the new inputs and this build is deleted, so that a rebuild changes nothing for readers. With several
        buckets, file `part-<n>...` holds bucket n of them.

        Raises:
            LongreelError: a file's columns are not the dataset's.
            TransientError: users were erased since this build began, so that it may hold their rows; or this process
                was suspended for so long that its lease expired and the build was deleted.
        """
        self._end_lease()
        published = self.lake.manifest(self.dataset, self.day)
        if published is not None and published.digest == digest and self._is_intact(published):
            files, buckets = published.files, published.buckets
        else:
            files = tuple(self._data_files(buckets))
        manifest = Manifest(
            dataset=self.dataset,
            date=self.day.isoformat(),
            digest=digest,
            rows=sum(file.rows for file in files),
            files=files,
            buckets=buckets,
            inputs=dict(inputs),
            counts=dict(counts or {}),
            details=dict(details or {}),
            min_time_ms=min_time_ms,
            max_time_ms=max_time_ms,
            schema_version=schemas.SCHEMA_VERSION,
            readable_since=READABLE_SINCE[self.dataset],
            code_version=code_version,
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        if published is not None and published.says_the_same(manifest):
            manifest = published
        else:
            path = self.lake.manifest_path(self.dataset, self.day)
            self.lake.storage.write_atomic(path, manifest.to_json(), draft=f"{self.path}/{MANIFEST}")
        if self.build not in manifest.builds:
            self.lake.storage.try_delete_folder(self.path)
        return manifest

    def discard(self) -> None:
        """Delete this build, unless it is committed."""
        lease.release(self.lake.filesystem, self.path)
        published = self.lake.manifest(self.dataset, self.day)
        is_committed = published is not None and self.build in published.builds
        if not is_committed and self.lake.storage.has_folder(self.path):
            self.lake.storage.delete_folder(self.path)

    def _end_lease(self) -> None:
        """Raises TransientError where this build must not be committed any more."""
        if request_names(self.lake.storage) != self._erasure_requests:
            raise TransientError(
                f"users were erased while {self.dataset} of {self.day} was being built, and the build may hold "
                "their rows; it was not published, run the step again"
            )
        if not lease.release(self.lake.filesystem, self.path):
            raise TransientError(
                f"this build of {self.dataset} of {self.day} renewed no lease for "
                f"{lease.EXPIRES_AFTER_S / 3600:g} h and another process removed it; run the step again"
            )

    def _is_intact(self, published: Manifest) -> bool:
        """Whether the published files can be read to their end and have the columns that this build has: a digest may
        not tell a renamed field."""
        expected = schema_text(self.lake.schemas[self.dataset])
        try:
            for file in self.lake.files(published):
                with self.lake.open_parquet(file) as parquet:
                    if schema_text(parquet.schema_arrow) != expected:
                        return False
                    read_through(parquet)
        except (LongreelError, OSError):  # gone, damaged or of an older schema: this build replaces it
            return False
        return True

    def _data_files(self, buckets: int) -> Iterator[DataFile]:
        expected = self.lake.schemas[self.dataset]
        for info in self.lake.storage.list(self.path):
            name = PurePosixPath(info.path).name
            if not name.endswith(".parquet"):
                continue
            with self.lake.filesystem.open_input_file(info.path) as stream:
                footer = footer_digest(stream)
                parquet = pq.ParquetFile(stream)
                columns, rows = parquet.schema_arrow, parquet.metadata.num_rows
            if schema_text(columns) != schema_text(expected):
                raise LongreelError(f"{self.dataset} of {self.day}: expected columns\n{expected}\nbut got\n{columns}")
            bucket = int(name.removesuffix(".parquet").split("-")[1]) if buckets > 1 else 0
            path = f"{self.build}/{name}"
            yield DataFile(path=path, rows=rows, size_bytes=info.size, footer=footer, bucket=bucket)


@contextmanager
def discard_on_error(*writers: PartitionWriter) -> Iterator[None]:
    """Discard these builds where the block ends with an error; what they have committed stays."""
    try:
        yield
    except BaseException:
        for writer in writers:
            writer.discard()
        raise
