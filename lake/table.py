"""Where partitions live, and how one becomes visible: data first, manifest last.

    <root>/<dataset>/date=2026-11-01/<build>/part-*.parquet     data of one build, invisible by itself
    <root>/<dataset>/date=2026-11-01/_manifest.json             names the build that readers see

Writing the manifest is the commit, and it is one atomic step (a rename on a local disk, one PUT on an object store).
A killed job leaves a folder that no manifest names, which is swept once nobody works on it (lease.py); replacing a
partition never shows a reader half of it. Readers take file names from the manifest and never list a folder.

    <root>/erasure_requests/                                    requests to forget users, see lake/erasure.py
"""

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import DataNotReadyError, LongreelError, TransientError
from longreel.contracts.schemas import DATASETS, READABLE_SINCE, SCHEMA_VERSION, schema_text
from longreel.lake import lease
from longreel.lake.schema_evolution import stored_columns, to_schema

MANIFEST = "_manifest.json"
ERASURE_REQUESTS = "erasure_requests"  # the folder of erasure requests


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One Parquet file of a partition: path relative to the partition, rows, size in bytes, and the bucket of users
    whose rows it holds."""

    path: str
    rows: int
    bytes: int
    bucket: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a published partition is: its content digest, its counts and everything it was made from.

    Users are spread over `buckets`, a power of two, by a hash of their id; with one, every file may hold any user.
    `digest` depends on the rows alone, not on their order, on the files that hold them or on when they were written.
    Code of schema version `readable_since` or newer can read it; what such code does not know, it leaves aside.
    `inputs` maps each input's name to its digest; `counts` holds the row account and other integers; `details` holds
    what else a reader may need (the request rule, names of user features, quality results).
    """

    dataset: str
    date: str
    digest: str
    rows: int
    files: tuple[DataFile, ...]
    buckets: int = 1
    inputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    min_time_ms: int | None = None
    max_time_ms: int | None = None
    schema_version: int = SCHEMA_VERSION
    readable_since: int = 1
    code_version: str = ""
    created_at: str = ""

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """Read a stored manifest.

        Raises:
            LongreelError: it was written by a newer schema than this code can read, or is not a manifest.
        """
        try:
            values = json.loads(text)
            needed = values.setdefault("readable_since", values["schema_version"])
            if needed > SCHEMA_VERSION:
                raise LongreelError(
                    f"{values['dataset']}/date={values['date']} was written by schema version "
                    f"{values['schema_version']} and needs version {needed} to be read, this code has "
                    f"{SCHEMA_VERSION}; upgrade longreel"
                )
            files = tuple(DataFile(**_known(DataFile, item)) for item in values.pop("files"))
            return Manifest(files=files, **_known(Manifest, values))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LongreelError(
                f"not a partition manifest ({error}); remove the file and run the partition's step again"
            ) from error


def _known(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values that a dataclass has fields for."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def build_time() -> str:
    """Now (UTC), as the names of builds spell it; they sort by it."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime())


class Lake:
    """A lake on a local folder or on any URL that pyarrow or (as `fsspec+PROTOCOL://`) fsspec opens."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        if "://" in self.root:
            self._fs, base = pafs.FileSystem.from_uri(self.root)
        else:
            self._fs, base = pafs.LocalFileSystem(), str(Path(self.root).absolute())
        self._base = PurePosixPath(base)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem that `paths` belong to."""
        return self._fs

    def _partition(self, dataset: str, day: date) -> PurePosixPath:
        if dataset not in DATASETS:
            raise LongreelError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}")
        return self._base / dataset / f"date={day.isoformat()}"

    def manifest(self, dataset: str, day: date) -> Manifest | None:
        """The published partition's manifest, or None where the day is not published.

        Raises:
            LongreelError: as `Manifest.from_json`.
        """
        path = str(self._partition(dataset, day) / MANIFEST)
        text = self.get_text(path)
        try:
            return None if text is None else Manifest.from_json(text)
        except LongreelError as error:
            raise LongreelError(f"{path}: {error}") from error

    def require(self, dataset: str, day: date) -> Manifest:
        """As `manifest`, but a missing day is an error.

        Raises:
            DataNotReadyError: the day is not published.
        """
        found = self.manifest(dataset, day)
        if found is None:
            days = list(self.days(dataset))
            have = f"published: {days[0]} .. {days[-1]} ({len(days)})" if days else "nothing is published"
            raise DataNotReadyError(f"{dataset} of {day} expected in {self.root}, but {have}; run its step first")
        return found

    def days(self, dataset: str) -> Iterator[date]:
        """The published days of a dataset, oldest first."""
        for day in self.folders(dataset):
            path = str(self._partition(dataset, day) / MANIFEST)
            if self._fs.get_file_info(path).type == pafs.FileType.File:
                yield day

    def paths(self, manifest: Manifest) -> list[str]:
        """Absolute paths (on `filesystem`) of a partition's data files; Spark and pyarrow both take them.

        Raises:
            LongreelError: the partition is older than what readers of its dataset expect now.
        """
        needed = READABLE_SINCE[manifest.dataset]
        if manifest.schema_version < needed:
            raise LongreelError(
                f"{manifest.dataset} of {manifest.date} has schema version {manifest.schema_version}, but "
                f"{manifest.dataset} changed in version {needed}; run its step again"
            )
        folder = self._partition(manifest.dataset, date.fromisoformat(manifest.date))
        return [str(folder / item.path) for item in manifest.files]

    def read(self, manifest: Manifest, columns: list[str] | None = None) -> pa.Table:
        """A partition's rows, or of some columns only.

        Raises:
            LongreelError: a column is missing and has no default; or as `paths`.
        """
        schema = DATASETS[manifest.dataset]
        schema = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        tables = []
        for path in self.paths(manifest):
            with self.parquet(path) as file:
                found = file.read(columns=stored_columns(schema, file.schema_arrow.names))
                tables.append(to_schema(found, schema, f"{manifest.dataset} of {manifest.date}"))
        return pa.concat_tables(tables) if tables else schema.empty_table()

    @contextmanager
    def parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        """One data file of a published partition, open to be read.

        Raises:
            LongreelError: it is damaged.
            TransientError: it is not there any more.
        """
        # Built again, the same rows would find their digest published and leave these files in place.
        again = f"remove {PurePosixPath(path).parent.parent / MANIFEST} and run the step of that day again"
        try:
            with pq.ParquetFile(path, filesystem=self._fs) as file:
                yield file
        except FileNotFoundError as error:
            raise TransientError(
                f"{path} is gone. If the day was published again meanwhile, the same command finds the new files; "
                f"if the file was lost, {again}"
            ) from error
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's fault
                raise
            said = " ".join(str(error).split())
            raise LongreelError(f"{path} is damaged ({said}); restore it, or {again}") from error

    def put_text(self, path: str, text: str, draft: str | None = None) -> None:
        """Write a small file in one atomic step: on a local disk through `draft`, which is renamed."""
        if isinstance(self._fs, pafs.LocalFileSystem):
            draft = draft or f"{path}.draft"
            with self._fs.open_output_stream(draft) as stream:
                stream.write(text.encode())
            Path(draft).replace(path)
        else:  # an object store shows an object only once it is whole
            with self._fs.open_output_stream(path) as stream:
                stream.write(text.encode())

    def put_text_once(self, path: str, text: str) -> str:
        """Write a small file where none is, and give what stands there, be it another's.

        On a disk that knows hard links one of several that do so at once wins; elsewhere the last of those that looked
        before any had written.
        """
        found = self.get_text(path)
        if found is not None:
            return found
        self.filesystem.create_dir(str(PurePosixPath(path).parent), recursive=True)
        if isinstance(self._fs, pafs.LocalFileSystem):
            draft = Path(f"{path}.{uuid.uuid4().hex}.draft")
            draft.write_text(text)
            try:
                Path(path).hardlink_to(draft)
            except FileExistsError:
                pass
            except OSError:  # no hard links here
                draft.replace(path)
            draft.unlink(missing_ok=True)
        else:
            self.put_text(path, text)
        found = self.get_text(path)
        assert found is not None
        return found

    def get_text(self, path: str) -> str | None:
        """A small file's text, or None where there is none."""
        if self._fs.get_file_info(path).type != pafs.FileType.File:
            return None
        with self._fs.open_input_stream(path) as stream:
            return str(stream.read().decode())

    def rewrite_manifest(self, manifest: Manifest) -> None:
        """Replace a published partition's manifest by one that says something else of the same files.

        Raises:
            TransientError: the partition is made of other files by now.
        """
        day = date.fromisoformat(manifest.date)
        if self.require(manifest.dataset, day).files != manifest.files:
            raise TransientError(f"{manifest.dataset} of {day} was published again meanwhile; run the step again")
        self.put_text(str(self._partition(manifest.dataset, day) / MANIFEST), manifest.to_json())

    @property
    def erasure_folder(self) -> str:
        """The folder of requests to forget users, on `filesystem`."""
        return str(self._base / ERASURE_REQUESTS)

    def erasure_request_names(self) -> tuple[str, ...]:
        """The names of all requests to forget users, oldest first."""
        found = self._fs.get_file_info(pafs.FileSelector(self.erasure_folder, allow_not_found=True))
        names = (PurePosixPath(info.path).name for info in found)
        return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))

    def delete_unreferenced(self, dataset: str, day: date, begun_by: str) -> int:
        """Delete at once every build of a partition that its manifest does not name and that was begun by a time, as
        build names spell it (`build_time`); returns how many. A reader that holds an older manifest loses its files."""
        published = self.manifest(dataset, day)
        live = _builds_of(published)
        folder, deleted = str(self._partition(dataset, day)), 0
        for info in self._fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
            name = PurePosixPath(info.path).name
            if info.type == pafs.FileType.Directory and name not in live and name[len("build-") :] <= f"{begun_by}~":
                self._fs.delete_dir(info.path)
                deleted += 1
        return deleted

    def orphaned_builds(self) -> Iterator[str]:
        """Every build that no manifest names and that nobody has worked on for EXPIRES_AFTER_S, as its path."""
        for dataset in DATASETS:
            for day in self.folders(dataset):
                yield from (path for path, _ in self._orphans_of(dataset, day))

    def remove_orphans(self) -> Iterator[str]:
        """Delete what is abandoned, of all partitions; gives the paths of what was deleted."""
        for dataset in DATASETS:
            for day in self.folders(dataset):
                yield from self.sweep_partition(dataset, day)

    def sweep_partition(self, dataset: str, day: date) -> Iterator[str]:
        """As `sweep`, of one partition."""
        for path, has_writer in self._orphans_of(dataset, day):
            # a writer that only stood still may want to publish it at this moment: whoever claims it has it
            if lease.release(self._fs, path) or not has_writer:
                _delete(self._fs, path)
                yield path

    def _orphans_of(self, dataset: str, day: date) -> Iterator[tuple[str, bool]]:
        found = self._fs.get_file_info(pafs.FileSelector(str(self._partition(dataset, day)), allow_not_found=True))
        builds = [info for info in found if info.type == pafs.FileType.Directory]
        if len(builds) == len(found) - 1 == 1:  # one build and a manifest: nothing to look for
            return
        live = _builds_of(self.manifest(dataset, day))
        for info in builds:
            sign, has_writer = lease.last_heartbeat(self._fs, info)
            is_old = time.time() - sign > lease.EXPIRES_AFTER_S
            if is_old and PurePosixPath(info.path).name not in live:
                yield info.path, has_writer

    def drop_partition(self, manifest: Manifest) -> None:
        """Take a partition out of the lake, the manifest first: from then on it is not there."""
        folder = self._partition(manifest.dataset, date.fromisoformat(manifest.date))
        self._fs.delete_file(str(folder / MANIFEST))
        for build in _builds_of(manifest):
            _delete(self._fs, str(folder / build))

    def folders(self, dataset: str) -> Iterator[date]:
        """The days that a dataset has a folder for, published or not."""
        folder = str(self._base / dataset)
        for info in sorted(self._fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True)), key=_path_of):
            if (name := PurePosixPath(info.path).name).startswith("date="):
                try:
                    yield parse_day(name.removeprefix("date="))
                except LongreelError as error:
                    raise LongreelError(f"{info.path}: {error}; nothing else belongs here, remove it") from error

    def writer(self, dataset: str, day: date) -> "PartitionWriter":
        """A fresh, invisible build folder for a partition; `PartitionWriter.commit` makes it the partition."""
        return PartitionWriter(self, dataset, day)


class PartitionWriter:
    """One build of one partition, on its way. Write Parquet files into `path`, then `publish`."""

    def __init__(self, lake: Lake, dataset: str, day: date) -> None:
        self.lake, self.dataset, self.day = lake, dataset, day
        self.build = f"build-{build_time()}-{uuid.uuid4().hex[:8]}"
        self._forgotten = lake.erasure_request_names()
        self._folder = lake._partition(dataset, day)
        self.path = str(self._folder / self.build)
        lake.filesystem.create_dir(self.path, recursive=True)
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
        """Make this build the partition. Where the published one already has the same digest, only what it was made
        from is brought up to date and the new files are thrown away, so that a rebuild changes nothing for readers.
        With several buckets, file `part-<n>...` holds bucket n of them.

        Raises:
            LongreelError: a staged file's columns are not the dataset's.
            TransientError: users were forgotten since this build was begun, so that it may hold their rows; or this
                process stood still for so long that the build was taken for abandoned and swept away.
        """
        if self.lake.erasure_request_names() != self._forgotten:
            raise TransientError(
                f"users were forgotten while {self.dataset} of {self.day} was being built, and the build may hold "
                "their rows; it was not published, run the step again"
            )
        if not lease.release(self.lake.filesystem, self.path):
            raise TransientError(
                f"this build of {self.dataset} of {self.day} renewed no lease for "
                f"{lease.EXPIRES_AFTER_S / 3600:g} h and another process removed it; run the step again"
            )
        published = self.lake.manifest(self.dataset, self.day)
        same = published is not None and published.digest == digest
        if published is not None and same:
            files, buckets = published.files, published.buckets
        else:
            files = tuple(self._staged_files(buckets))
        manifest = Manifest(
            dataset=self.dataset,
            date=self.day.isoformat(),
            digest=digest,
            rows=sum(item.rows for item in files),
            files=files,
            buckets=buckets,
            inputs=dict(inputs),
            counts=dict(counts or {}),
            details=dict(details or {}),
            min_time_ms=min_time_ms,
            max_time_ms=max_time_ms,
            schema_version=SCHEMA_VERSION,
            readable_since=READABLE_SINCE[self.dataset],
            code_version=code_version,
            created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        if published is not None and same and _meaning(published) == _meaning(manifest):
            manifest = published
        else:
            self._put(manifest)
        self._sweep(manifest)
        return manifest

    def discard(self) -> None:
        """Drop this build; what is published stays, this one too where it is."""
        lease.release(self.lake.filesystem, self.path)
        published = self.lake.manifest(self.dataset, self.day)
        exists = self.lake.filesystem.get_file_info(self.path).type == pafs.FileType.Directory
        if exists and self.build not in _builds_of(published):
            self.lake.filesystem.delete_dir(self.path)

    def _staged_files(self, buckets: int) -> Iterator[DataFile]:
        expected = DATASETS[self.dataset]
        for info in sorted(self.lake.filesystem.get_file_info(pafs.FileSelector(self.path)), key=_path_of):
            name = PurePosixPath(info.path).name
            if not name.endswith(".parquet"):
                continue
            footer = pq.ParquetFile(info.path, filesystem=self.lake.filesystem)
            came = footer.schema_arrow
            if schema_text(came) != schema_text(expected):
                raise LongreelError(f"{self.dataset} of {self.day}: expected columns\n{expected}\nbut staged\n{came}")
            bucket = int(name.removesuffix(".parquet").split("-")[1]) if buckets > 1 else 0
            rows = footer.metadata.num_rows
            yield DataFile(path=f"{self.build}/{name}", rows=rows, bytes=info.size, bucket=bucket)

    def _put(self, manifest: Manifest) -> None:
        self.lake.put_text(str(self._folder / MANIFEST), manifest.to_json(), draft=f"{self.path}/{MANIFEST}")

    def _sweep(self, manifest: Manifest) -> None:
        """Remove this partition's builds that no reader can need: this one where it was not needed, and old ones."""
        if self.build not in _builds_of(manifest):
            _delete(self.lake.filesystem, self.path)
        for _ in self.lake.sweep_partition(self.dataset, self.day):
            pass


def _delete(fs: pafs.FileSystem, folder: str) -> None:
    if isinstance(fs, pafs.LocalFileSystem):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        fs.delete_dir(folder)


def _builds_of(manifest: Manifest | None) -> set[str]:
    """The builds whose files a manifest names."""
    return {item.path.split("/")[0] for item in manifest.files} if manifest else set()


@contextmanager
def discard_on_error(*writers: PartitionWriter) -> Iterator[None]:
    """Drop these builds where the block is left by an error; what was published from them before stays."""
    try:
        yield
    except BaseException:
        for writer in writers:
            writer.discard()
        raise


def _path_of(info: pafs.FileInfo) -> str:
    return str(info.path)


def _meaning(manifest: Manifest) -> dict[str, Any]:
    """A manifest without what differs between two builds of the same thing."""
    values = asdict(manifest)
    for name in ("created_at", "code_version"):
        values.pop(name)
    return values
