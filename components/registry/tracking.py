"""MLflow run of a candidate: its lifecycle, settings, tags and data.

There is one experiment per pipeline (`longreel/<name>`) and one run per candidate with its training, evaluation,
decision and plots. A training that was killed resumes in its run. Works on SQLite, PostgreSQL and an http server.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context import registry as context_registry

from longreel.components.registry.store import experiment_id
from longreel.components.registry.versions import Version, is_absent, is_missing
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake

SYSTEM_METRICS_EVERY_S = 5.0
AIRFLOW_TAG, AIRFLOW_NAMES = "airflow_run", ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID")
CANDIDATE_TAG = "candidate"  # of a run: its training spec's name, which identifies what is trained


def airflow_run() -> dict[str, str]:
    """A tag that names the Airflow run that started this process; empty outside of Airflow."""
    names = [os.environ.get(name, "") for name in AIRFLOW_NAMES]
    return {AIRFLOW_TAG: "/".join(names)} if all(names) else {}


def git_sha() -> str:
    """The commit of this code, with `-dirty` where files differ; $LONGREEL_CODE_VERSION where there is no checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        output = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        ).stdout
        return output.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("LONGREEL_CODE_VERSION", "unknown")


@contextmanager
def training_run(home: Home, client: MlflowClient, *, name: str, candidate: str) -> Iterator[str]:
    """The one run of a candidate, with system metrics sampled; yields its id. The caller holds the candidate's lock.

    The run is created with a tag and looked up by it, so a training resumes in its run even if it was interrupted right
    after the run was created. An error marks the run as failed.
    """
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_EVERY_S)
    experiment = experiment_id(home, client)
    if not (run_ids := candidate_runs(client, experiment, candidate)):
        tags = context_registry.resolve_tags({CANDIDATE_TAG: candidate})
        client.create_run(experiment, run_name=name, tags=tags)
        # If a response is lost, the client retries and creates a second run, which would stay RUNNING for ever.
        run_ids = candidate_runs(client, experiment, candidate)
    for duplicate in run_ids[1:]:
        client.delete_run(duplicate)
    mlflow.start_run(run_id=run_ids[0], log_system_metrics=True)
    try:
        yield run_ids[0]
    except BaseException:
        mlflow.end_run(RunStatus.to_string(RunStatus.FAILED))
        raise
    mlflow.end_run()


def candidate_runs(client: MlflowClient, experiment: str, candidate: str) -> list[str]:
    """The ids of a candidate's runs, oldest first: one, or none yet."""
    filter_string = f"tags.{CANDIDATE_TAG} = '{candidate}'"
    return [
        run.info.run_id for run in client.search_runs([experiment], filter_string, order_by=["start_time", "run_id"])
    ]


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Whether a run can be written to: it was neither deleted on its page nor removed by `mlflow gc`."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    except MlflowException as error:
        if is_absent(error) or error.error_code == "INVALID_PARAMETER_VALUE":  # of a version without a run
            return False
        raise


def require_run(client: MlflowClient, version: Version) -> None:
    """Raises LongreelError where the run of a version was deleted."""
    if not has_run(client, version.run_id):
        raise LongreelError(
            f"run {version.run_id} of version {version.version} was deleted in MLflow; restore it there, "
            f"or train again: longreel model train --date {version.evaluation_day}"
        )


def download_artifact(client: MlflowClient, version: Version, path: str) -> Path:
    """A file or folder of a version's run, downloaded from a remote store.

    Raises:
        LongreelError: it does not exist.
    """
    try:
        uri = client.tracking_uri
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path, tracking_uri=uri))
    except (MlflowException, OSError) as error:
        if not is_missing(error):
            raise
        raise LongreelError(
            f"run {version.run_id} of version {version.version} has no {path} any more; evaluate it again (`longreel "
            f"model evaluate --date DAY --version {version.version} --out FILE`) and decide (`longreel model decide "
            f"--candidate FILE --record {version.version}`)"
        ) from error


def end_orphaned_runs(home: Home, client: MlflowClient, candidate: str) -> None:
    """Mark the run of a candidate that no process trains as killed; a training that resumes restarts it."""
    for run_id in candidate_runs(client, experiment_id(home, client), candidate):
        if client.get_run(run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
            client.set_terminated(run_id, RunStatus.to_string(RunStatus.KILLED))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow parameters: {"training": {"seed": 0}} -> {"training.seed": "0"}."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return flat


def log_settings(client: MlflowClient, run_id: str, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Parameters and tags of a run; parameters that a resumed run already has are left alone."""
    logged = client.get_run(run_id).data.params
    params = [Param(key, value) for key, value in flatten(settings).items() if key not in logged]
    client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])


def _source(lake: Lake, manifest: Manifest) -> DatasetSource:
    location = f"{lake.root}/{manifest.dataset}/date={manifest.date}"
    return resolve_dataset_source(location) if "://" in lake.root else LocalArtifactDatasetSource(location)


def log_datasets(client: MlflowClient, run_id: str, lake: Lake, manifests: Iterable[Manifest], context: str) -> None:
    """Log partitions as dataset inputs of a run, with their content digests. `context`: "training" or "evaluation"."""
    inputs = []
    for manifest in manifests:
        name = f"{manifest.dataset}/{manifest.date}"
        source = _source(lake, manifest)
        dataset = Dataset(
            name=name,
            digest=manifest.digest[:36],
            source_type=source._get_source_type(),
            source=source.to_json(),
            profile=json.dumps(manifest.counts),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    client.log_inputs(run_id, inputs)


def log_quality(client: MlflowClient, run_id: str, lake: Lake, manifests: Iterable[Manifest]) -> None:
    """Data checkpoints of the training days as `quality/training_days.json`, and their number of warnings as the tag
    `data_warnings`, which the table of runs can show."""
    checkpoints: dict[str, dict[str, Any]] = {}
    for samples in manifests:
        events = lake.manifest("events", date.fromisoformat(samples.date))
        for manifest in (events, samples):
            if manifest is not None:
                result = {name: manifest.details.get(name) for name in ("quality", "warnings")}
                checkpoints.setdefault(samples.date, {})[manifest.dataset] = result
    warnings = sum(len(result["warnings"] or ()) for day in checkpoints.values() for result in day.values())
    client.log_dict(run_id, checkpoints, "quality/training_days.json")
    client.set_tag(run_id, "data_warnings", str(warnings))
