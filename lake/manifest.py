"""Manifests: what a committed partition holds, and what it was made from."""

import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from longreel.contracts import schemas
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.contracts.serialization import parse_json

MANIFEST = "_manifest.json"
CHECKSUM, CHECKSUM_SINCE = "checksum", 4  # of all else that a stored manifest says; the schema version it came with
_data_file = re.compile(r"build-\d{8}T\d{6}-[0-9a-f]{8}/part-[^/\\]+\.parquet")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One Parquet file of a partition; files.py says how it is checked."""

    path: str  # relative to the partition: BUILD/part-N.parquet
    rows: int
    size_bytes: int
    footer: str = ""  # digest of the file's footer, as `files.footer_digest`; none before CHECKSUM_SINCE
    bucket: int = 0  # the bucket of users whose rows it holds

    def __post_init__(self) -> None:
        if not _data_file.fullmatch(self.path):
            raise ValueError(f"expected a file build-*/part-*.parquet of the partition, got {self.path!r}")

    @property
    def build(self) -> str:
        """The build that the file belongs to."""
        return self.path.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a committed partition is: its content digest, its counts and everything it was made from.

    Users are spread over `buckets`, a power of two, by a hash of their id; with one, every file may hold any user.
    `digest` depends on the rows alone, not on their order, on the files that hold them or on when they were written.
    Code of schema version `readable_since` or newer can read it, and ignores fields that it does not know. A stored
    manifest has a checksum of what it says: nothing is believed of one that was edited or damaged.
    `inputs` maps each input's name to its digest; `counts` holds row counts and other integers; `details` holds
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
    schema_version: int = schemas.SCHEMA_VERSION
    readable_since: int = 1
    code_version: str = ""
    created_at: str = ""

    @property
    def builds(self) -> set[str]:
        """The builds whose files the manifest names."""
        return {file.build for file in self.files}

    @property
    def is_readable(self) -> bool:
        """Whether readers of the dataset take its files; those of an older schema are built again."""
        return self.schema_version >= schemas.READABLE_SINCE[self.dataset]

    def says_the_same(self, other: "Manifest") -> bool:
        """Whether two manifests differ at most in which code wrote them, and when."""
        ours, theirs = ({**asdict(manifest), "created_at": "", "code_version": ""} for manifest in (self, other))
        return ours == theirs

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return with_checksum(json.loads(json.dumps(asdict(self))))

    @staticmethod
    def from_json(text: str) -> "Manifest":
        """Read a stored manifest.

        Raises:
            LongreelError: it was written by a newer schema than this code can read, is not a manifest, or says
                something else than when it was written.
        """
        try:
            values = parse_json(text)
            checksum = values.pop(CHECKSUM, None)
            _require_readable(values)
            is_summed = checksum is not None or values["schema_version"] >= CHECKSUM_SINCE
            if is_summed and digest_of(values) != checksum:
                raise ValueError(f"its checksum is {checksum}, that of what it says {digest_of(values)}")
            files = tuple(DataFile(**_fields_of(DataFile, item)) for item in values.pop("files"))
            manifest = Manifest(files=files, **_fields_of(Manifest, values))
            if (rows := sum(file.rows for file in files)) != manifest.rows:
                raise ValueError(f"it says {manifest.rows:,} rows, its files {rows:,}")
            return manifest
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LongreelError(
                f"not a partition manifest ({error}); restore it, or remove the file and run the partition's step again"
            ) from error


def with_checksum(values: dict[str, Any]) -> str:
    """What a manifest says, as it is stored."""
    return json.dumps(values | {CHECKSUM: digest_of(values)}, indent=1, sort_keys=True)


def _require_readable(values: dict[str, Any]) -> None:
    """Raises LongreelError where this code cannot read a stored manifest, or what it names."""
    where, version = f"{values['dataset']}/date={values['date']}", values["schema_version"]
    required = values.get("readable_since", version)
    if required > schemas.SCHEMA_VERSION:
        raise LongreelError(
            f"{where} was written by schema version {version} and needs version {required} to be read, this code has "
            f"{schemas.SCHEMA_VERSION}; upgrade longreel"
        )


def _fields_of(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """The values that a dataclass has fields for."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
