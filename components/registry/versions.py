"""Registered versions of a pipeline's model `longreel-<name>` in MLflow.

Every trained candidate becomes a version, tagged with its data, its digests and the decision on it. The digests in the
tags and the files must agree before a version is loaded or promoted. ledger.py records which version is the champion.

People can edit and delete all of this on MLflow's pages. So what the store holds is parsed in two places, here and in
entries.py: into a value, or into a `Fault` that names it. Commands leave a fault out and list it.
"""

import hashlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from longreel.contracts.config import Config
from longreel.contracts.dates import parse_day
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError, MissingModelError, TransientError

CHAMPION = "champion"
PENDING = "pending"  # the decision tag of a version that was not evaluated yet
MAX_TAG = 4_500  # stores reject tag values and descriptions beyond 5,000 characters


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A version or ledger entry that cannot be read and is left out; `text` says what was expected, what came and what
    to do."""

    name: str  # of the registered model
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.name} version {self.number} is left out: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version. `tags` are MLflow's, as strings.

    `model_digest` is of weights and configuration, `files_digest` of all files (`folder_digest`).
    `evaluation_day` is the day that it was trained to be evaluated on, which is not among its training days;
    `data_watermark` is the last training day.
    """

    version: int
    model_digest: str
    files_digest: str
    run_id: str
    evaluation_day: date
    data_watermark: date
    tags: Mapping[str, str]

    @property
    def decision(self) -> str:
        """promote, hold, reject or pending."""
        return self.tags.get("decision", PENDING)


def model_name(config: Config) -> str:
    """The registered model of a pipeline."""
    return f"longreel-{config.name}"


def _parse(entity: ModelVersion) -> Version | Fault:
    tags, number, run_id = dict(entity.tags), int(entity.version), entity.run_id or ""
    digests, days = {}, {}
    try:
        for name in ("model_digest", "files_digest"):
            digests[name] = tags[name]
        for name in ("evaluation_day", "data_watermark"):
            days[name] = parse_day(tags[name])
    except (KeyError, LongreelError) as error:
        wrong = "was removed" if isinstance(error, KeyError) else f"was edited: {error}"
        advice = f"set it again on the version's page, to the value of that tag on its run {run_id}"
        return Fault(name=entity.name, number=number, text=f"its tag {name} {wrong}; {advice}")
    return Version(
        version=number,
        model_digest=digests["model_digest"],
        files_digest=digests["files_digest"],
        run_id=run_id,
        evaluation_day=days["evaluation_day"],
        data_watermark=days["data_watermark"],
        tags=tags,
    )


def search_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a registered model as MLflow's entities, oldest first; none where there is no such model."""
    entities: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=200, page_token=token)
        entities += page
        token = page.token
        if not token:
            return sorted(entities, key=lambda entity: int(entity.version))


def read_versions(client: MlflowClient, name: str) -> tuple[list[Version], list[Fault]]:
    """Every registered version, oldest first, and what cannot be read as one."""
    parsed = [_parse(entity) for entity in search_versions(client, name)]
    return [p for p in parsed if isinstance(p, Version)], [p for p in parsed if isinstance(p, Fault)]


def list_versions(client: MlflowClient, name: str) -> list[Version]:
    """Every registered version, oldest first. A warning names each one that is left out."""
    registered, faults = read_versions(client, name)
    warn_of(*faults)
    return registered


def warn_of(*faults: Fault) -> None:
    """Log a warning of each fault, once in a process."""
    for fault in faults:
        _warn_once(str(fault))


@cache
def _warn_once(text: str) -> None:
    log.warning(text)


def get_version(client: MlflowClient, name: str, version: int) -> Version:
    """One version.

    Raises:
        LongreelError: there is no such version, or its tags cannot be read.
    """
    registered, faults = read_versions(client, name)
    for one in registered:
        if one.version == version:
            return one
    for fault in faults:
        if fault.number == version:
            raise LongreelError(f"{name} version {version} cannot be used: {fault.text}")
    numbers = [str(v.version) for v in registered]
    have = f"registered are {', '.join(numbers)}" if numbers else "nothing is registered"
    raise LongreelError(f"{name} has no version {version}; {have}")


def folder_digest(root: Path) -> str:
    """16 hex digits over the relative path and the bytes of every file of a logged model, its code and MLmodel too.

    MLflow writes `registered_model_meta` on each download by name and version, and Python writes `__pycache__`: both
    are left out, and no command reads them (`without_bytecode`). A link counts as its target's path.
    """
    digests = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if "__pycache__" in name.parts or str(name) == "registered_model_meta":
            continue
        if path.is_symlink():
            digests[name.as_posix()] = f"link to {path.readlink()}"
        elif path.is_file():
            with path.open("rb") as stream:
                digests[name.as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest_of(digests)


@contextmanager
def without_bytecode() -> Iterator[None]:
    """Imports inside read and write no `__pycache__`: Python would run what lies there in place of a checked file."""
    before = sys.pycache_prefix
    with tempfile.TemporaryDirectory() as folder:
        sys.pycache_prefix = folder
        try:
            yield
        finally:
            sys.pycache_prefix = before


def download(client: MlflowClient, name: str, version: Version) -> Path:
    """The folder with a version's weights and configuration, after checking all files as `download_all`."""
    return _model_folder(download_all(client, name, version))


def download_all(client: MlflowClient, name: str, version: Version) -> Path:
    """The folder with all files of a version, as MLflow loads it, downloaded from a remote store and checked.

    Raises:
        MissingModelError: the files are deleted.
        LongreelError: the files are not those that were registered.
        TransientError: they cannot be read, for example because the store does not answer.
    """
    from longreel.model.training.checkpoint import model_digest

    try:
        uri = client.get_model_version_download_uri(name, str(version.version))
        root = download_uri(client, uri)
        if (files_digest := folder_digest(root)) != version.files_digest:  # before anything of it is parsed
            raise LongreelError(
                f"the files of {name} version {version.version}, with the code that serves it, have digest "
                f"{files_digest}, registered was {version.files_digest}: one in {root} was changed, added or removed; "
                "restore it from a backup, roll back, or train again"
            )
        digest = model_digest(_model_folder(root))
    except (OSError, MlflowException, KeyError) as error:
        if is_missing(error):
            raise MissingModelError(
                f"the files of {name} version {version.version} are deleted ({error}); restore them from a backup, or "
                "make another version the champion (`longreel model rollback`)"
            ) from error
        raise TransientError(f"the files of {name} version {version.version} cannot be read: {error}") from error
    if digest != version.model_digest:
        raise LongreelError(
            f"{name} version {version.version} is tagged with the model digest {version.model_digest}, its files have "
            f"{digest}: set the tag model_digest again, to the value of that tag on its run {version.run_id}"
        )
    return root


def download_uri(client: MlflowClient, uri: str) -> Path:
    """A folder of artefacts as MLflow stores it, downloaded from a remote store."""
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=client.tracking_uri))


def _model_folder(root: Path) -> Path:
    """The folder with weights and configuration within a logged model. Raises KeyError where MLmodel names none."""
    flavour: dict[str, Any] = Model.load(str(root)).flavors["python_function"]
    return root / str(flavour["artifacts"]["model"]["path"])


def is_missing(error: Exception) -> bool:
    """Whether a store says that files do not exist: repeating the request cannot help."""
    if isinstance(error, MlflowException):
        return is_absent(error) or "No such artifact" in str(error)
    return isinstance(error, FileNotFoundError)


def is_absent(error: MlflowException) -> bool:
    """Whether the store says that it has no such thing."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def last_evaluated_day(registered: Sequence[Version]) -> date | None:
    """The newest day on which the decision on a candidate was completed; None before the first."""
    return max((v.evaluation_day for v in registered if v.decision != PENDING), default=None)
