"""Registered versions of a pipeline's model `longreel-<name>` in MLflow.

Every trained candidate becomes a version, tagged with its data, its digest and the decision on it. The digest in the
tag and the files must agree before a version is loaded or promoted. ledger.py records which version is the champion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError, TransientError

CHAMPION = "champion"
PENDING = "pending"  # the decision tag of a version that was not evaluated yet
MAX_TAG = 4_500  # stores reject tag values and descriptions beyond 5,000 characters


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version. `tags` are MLflow's, as strings."""

    version: int
    model_digest: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def evaluation_day(self) -> date:
        """The day the version was trained to be evaluated on; it is not among its training days."""
        return date.fromisoformat(self.tags["evaluation_day"])

    @property
    def data_watermark(self) -> date:
        """The last training day."""
        return date.fromisoformat(self.tags["data_watermark"])

    @property
    def decision(self) -> str:
        """promote, hold, reject or pending."""
        return self.tags.get("decision", PENDING)


def model_name(config: Config) -> str:
    """The registered model of a pipeline."""
    return f"longreel-{config.name}"


def _from_mlflow(entity: ModelVersion) -> Version:
    tags, run_id = dict(entity.tags), entity.run_id or ""
    return Version(version=int(entity.version), model_digest=tags["model_digest"], run_id=run_id, tags=tags)


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


def list_versions(client: MlflowClient, name: str) -> list[Version]:
    """Every registered version, oldest first."""
    return [_from_mlflow(entity) for entity in search_versions(client, name) if "model_digest" in entity.tags]


def get_version(client: MlflowClient, name: str, version: int) -> Version:
    """One version.

    Raises:
        LongreelError: there is no such version.
    """
    try:
        return _from_mlflow(client.get_model_version(name, str(version)))
    except (MlflowException, KeyError) as error:
        numbers = [str(v.version) for v in list_versions(client, name)]
        have = f"registered are {', '.join(numbers)}" if numbers else "nothing is registered"
        raise LongreelError(f"{name} has no version {version}; {have}") from error


def download(client: MlflowClient, name: str, version: Version) -> Path:
    """The folder with a version's files, downloaded from a remote store.

    Raises:
        LongreelError: the files are not those that were registered.
        TransientError: they cannot be read: the store does not answer, or they are deleted.
    """
    from longreel.model.training.checkpoint import model_digest

    uri = client.get_model_version_download_uri(name, str(version.version))
    try:
        root = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=client.tracking_uri))
        flavour: dict[str, Any] = Model.load(str(root)).flavors["python_function"]
        folder = root / str(flavour["artifacts"]["model"]["path"])
        digest = model_digest(folder)
    except (OSError, MlflowException, KeyError) as error:
        raise TransientError(f"the files of {name} version {version.version} cannot be read: {error}") from error
    if digest != version.model_digest:
        raise LongreelError(
            f"the files of {name} version {version.version} have digest {digest}, registered was "
            f"{version.model_digest}: they were changed or damaged; roll back, or train again"
        )
    return folder


def last_evaluated_day(registered: list[Version]) -> date | None:
    """The newest day on which the decision on a candidate was completed; None before the first."""
    return max((v.evaluation_day for v in registered if v.decision != PENDING), default=None)
