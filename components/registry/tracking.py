"""What does MLflow know of a run? Opens the store, one run per candidate, and writes what a reader will ask for there.

One experiment per pipeline (`longreel/<name>`), one run per candidate: training, evaluation, decision and plots are all
in it. A training that was killed goes on in the run it began. Works on SQLite, PostgreSQL and an http tracking server.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A tracking server that restarts is waited for: asked again after 0, 2, 6, 14, 30, 62 ... and at last 486 seconds.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

import mlflow
from mlflow import MlflowClient
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context import registry as context_registry

from longreel.contracts.errors import LongreelError, TransientError
from longreel.contracts.report import ALL_TARGETS, METRICS, EvaluationReport
from longreel.lake.home import TRACKING_VARIABLE, Home
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.training.progress import StepStats

RETRIES, PATIENT, IMPATIENT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10", "2"
SERVERS = ("http://", "https://")
DATABASES = ("sqlite:///", "postgresql", "mysql", "mssql")
CURVE_EVERY_S = 1.0  # at most one point of the training curves a second; losses in between are averaged into it
SYSTEM_METRICS_EVERY_S = 5.0
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run a candidate: its training, its evaluation and why it was promoted, held or "
    "rejected (`run_card.html` among its artifacts). Under it, the champion judged on the same day.",
}
RUNS_PAGE = "#/experiments/{id}/runs?workflowType=machine_learning"  # without the type MLflow opens on GenAI traces
AIRFLOW_TAG, AIRFLOW_NAMES = "airflow_run", ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID")
CANDIDATE_TAG = "candidate"  # of a run: the name of what it trains, which says what that is made from
MAX_BATCH = 900  # MLflow takes at most 1,000 metrics a call


def open_store(home: Home, *, patient: bool = True) -> MlflowClient:
    """Point MLflow at this home's store, which is made where it is local and new.

    Args:
        patient: wait for a server that does not answer; otherwise say so after seconds, since a person looks on.

    Raises:
        LongreelError: the store's URI names nothing that MLflow keeps runs and models in.
        TransientError: the server or database does not answer, or refuses.
    """
    uri = home.tracking_uri
    if not uri.startswith((*SERVERS, *DATABASES)):
        raise LongreelError(
            f"{TRACKING_VARIABLE}: expected a server (http://mlflow:5000) or a database (sqlite:////FOLDER/mlflow.db, "
            f"postgresql+psycopg://USER@HOST/DATABASE), got {uri!r}; set it to one, or unset it for a store "
            "in the home"
        )
    if not patient and os.environ[RETRIES] == PATIENT:
        os.environ[RETRIES] = IMPATIENT
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    given = os.environ.get(TRACKING_VARIABLE)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    # MLflow also writes the URI into the environment, where the next home opened by this process would take it for the
    # user's wish and read this home's store.
    if given is None:
        os.environ.pop(TRACKING_VARIABLE, None)
    else:
        os.environ[TRACKING_VARIABLE] = given
    if uri.startswith(DATABASES):
        _require_database(uri, patient)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if uri.startswith(SERVERS):
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            cause = str(error).rpartition(": ")[2].rstrip("\")'")
            raise TransientError(
                f"the MLflow server {uri} gives no answer ({cause}); start it, or set {TRACKING_VARIABLE} to its place"
            ) from error
    return client


def _require_database(uri: str, patient: bool) -> None:
    """Raises LongreelError where a file is no database, and TransientError where one does not let us in and somebody
    looks on; MLflow itself would ask for up to an hour, and says so each time."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    if patient and not uri.startswith("sqlite"):
        return
    try:
        inspect(create_engine(uri)).get_table_names()
    except OperationalError as error:
        said = " ".join(str(error.orig).split())
        raise TransientError(
            f"the MLflow database {make_url(uri)!r} lets nobody in ({said}); start it, or correct {TRACKING_VARIABLE}"
        ) from error
    except (SQLAlchemyError, ImportError) as error:
        said = " ".join(str(getattr(error, "orig", error)).split())
        name = uri if uri.startswith("sqlite") else uri.partition("://")[0]
        raise LongreelError(
            f"the MLflow database {name} cannot be used: {said}; correct {TRACKING_VARIABLE}, or restore the file "
            "from a backup"
        ) from error


def experiment_id(home: Home, client: MlflowClient) -> str:
    """The pipeline's experiment, made on first use. A tracking server chooses where its artefacts lie."""
    name = f"longreel/{home.config.name}"
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = not home.tracking_uri.startswith(SERVERS)
    if local:
        home.artifacts.mkdir(parents=True, exist_ok=True)
    place = home.artifacts.as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=place, tags=EXPERIMENT_TAGS))


def runs_page(home: Home) -> str:
    """Where on a tracking server the pipeline's runs are; "" before there are any."""
    found = open_store(home).get_experiment_by_name(f"longreel/{home.config.name}")
    return "" if found is None else RUNS_PAGE.format(id=found.experiment_id)


def airflow_run() -> dict[str, str]:
    """A tag that names the Airflow run at whose wish this process works; none where a person started it."""
    names = [os.environ.get(name, "") for name in AIRFLOW_NAMES]
    return {AIRFLOW_TAG: "/".join(names)} if all(names) else {}


def git_sha() -> str:
    """The commit this code is of, `-dirty` where files differ; $LONGREEL_CODE_VERSION where there is no checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("LONGREEL_CODE_VERSION", "unknown")


@contextmanager
def training_run(home: Home, client: MlflowClient, *, name: str, candidate: str) -> Iterator[str]:
    """The one run of a candidate, with system metrics sampled; yields its id. The caller holds the candidate.

    The run is found by its tag, which it is created with: so an interrupted training is gone on with wherever it was
    interrupted, in the moment after the run was created too. An error marks the run as failed.
    """
    mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_EVERY_S)
    experiment = experiment_id(home, client)
    if not (begun := runs_of(client, experiment, candidate)):
        tags = context_registry.resolve_tags({CANDIDATE_TAG: candidate})
        client.create_run(experiment, run_name=name, tags=tags)
        # an answer that was lost makes the client ask again, and of two runs one would stay RUNNING for ever
        begun = runs_of(client, experiment, candidate)
    for again in begun[1:]:
        client.delete_run(again)
    mlflow.start_run(run_id=begun[0], log_system_metrics=True)
    try:
        yield begun[0]
    except BaseException:
        mlflow.end_run(RunStatus.to_string(RunStatus.FAILED))
        raise
    mlflow.end_run()


def runs_of(client: MlflowClient, experiment: str, candidate: str) -> list[str]:
    """The ids of a candidate's runs, oldest first: one, or none yet."""
    wanted = f"tags.{CANDIDATE_TAG} = '{candidate}'"
    return [run.info.run_id for run in client.search_runs([experiment], wanted, order_by=["start_time", "run_id"])]


def end_abandoned(home: Home, client: MlflowClient, candidate: str) -> None:
    """Mark the run of a candidate that nobody trains as ended; whoever goes on with it starts it again."""
    for run_id in runs_of(client, experiment_id(home, client), candidate):
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
    known = client.get_run(run_id).data.params
    params = [Param(key, value) for key, value in flatten(settings).items() if key not in known]
    client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])


def _source(lake: Lake, manifest: Manifest) -> DatasetSource:
    place = f"{lake.root}/{manifest.dataset}/date={manifest.date}"
    return resolve_dataset_source(place) if "://" in lake.root else LocalArtifactDatasetSource(place)


def log_data(client: MlflowClient, run_id: str, lake: Lake, manifests: Iterable[Manifest], context: str) -> None:
    """Name partitions as a run's dataset inputs, by their content digest. `context`: "training" or "evaluation"."""
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
    """What the checkpoints said of the training days, as `quality/training_days.json`, and how many warnings that
    were as the tag `data_warnings`, which the table of runs can show."""
    said: dict[str, dict[str, Any]] = {}
    for samples in manifests:
        events = lake.manifest("events", date.fromisoformat(samples.date))
        for manifest in (events, samples):
            if manifest is not None:
                about = {name: manifest.details.get(name) for name in ("quality", "warnings")}
                said.setdefault(samples.date, {})[manifest.dataset] = about
    warnings = sum(len(each["warnings"] or ()) for day in said.values() for each in day.values())
    client.log_dict(run_id, said, "quality/training_days.json")
    client.set_tag(run_id, "data_warnings", str(warnings))


class TrainingCurves:
    """Called with every step's stats; writes training curves (`train/...`) in batches, thinned to a point a second."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._losses: list[float] = []
        self._metrics: list[Metric] = []
        self._last_point = self._last_flush = 0.0

    def __call__(self, stats: StepStats) -> None:
        """Take one step's stats."""
        self._losses.append(stats.loss)
        self._latest = stats
        now = time.monotonic()
        if now - self._last_point >= CURVE_EVERY_S:
            self._point()
            if now - self._last_flush >= 5 * CURVE_EVERY_S or len(self._metrics) >= MAX_BATCH:
                self.flush()

    def _point(self) -> None:
        stats, at = self._latest, int(time.time() * 1000)
        values = {
            "loss": sum(self._losses) / len(self._losses),
            "learning_rate": stats.lr,
            "targets_per_s": stats.targets_per_s,
            "tokens_per_s": stats.tokens_per_s,
            "mean_window": stats.mean_window,
            "data_wait_share": stats.data_wait_share,
            "gradient_norm": stats.gradient_norm,
            "peak_memory_mib": stats.peak_memory_mib,
        }
        if stats.flop_utilisation is not None:
            values["flop_utilisation"] = stats.flop_utilisation
        self._metrics += [Metric(f"train/{name}", float(value), at, stats.step) for name, value in values.items()]
        self._losses, self._last_point = [], time.monotonic()

    def flush(self) -> None:
        """Write what is pending."""
        if self._losses:
            self._point()
        log_metrics(self._client, self._run_id, self._metrics)
        self._metrics, self._last_flush = [], time.monotonic()


def log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    """Write metrics in as many calls as MLflow's limit asks for."""
    for start in range(0, len(metrics), MAX_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_BATCH])


def log_gain(client: MlflowClient, run_id: str, report: EvaluationReport, champion: EvaluationReport) -> None:
    """Paired differences of AUC over the champion's on the same data: `gain_by_window/click`, `_low` and `_high`."""
    at, metrics = int(time.time() * 1000), []
    for task in report.tasks:
        for window in report.windows:
            gain = report.auc_gain(champion, task, window)
            ends = {"": gain.value, "_low": gain.low, "_high": gain.high}
            values = {f"gain_by_window/{task}{end}": value for end, value in ends.items() if value is not None}
            metrics += [Metric(name, value, at, window) for name, value in values.items()]
    log_metrics(client, run_id, metrics)


def log_report(client: MlflowClient, run_id: str, report: EvaluationReport) -> None:
    """A report's metrics: `auc_by_window/click` with the window as step, so that the chart's axis is the window, and
    `auc/click` at the longest window, which sorts and compares in the table of runs."""
    at, longest, metrics = int(time.time() * 1000), report.windows[-1], []
    for row in report.rows:
        if row.slice != ALL_TARGETS:
            continue
        for metric in METRICS:
            estimate = getattr(row, metric)
            if estimate.value is None:
                continue
            metrics.append(Metric(f"{metric}_by_window/{row.task}", estimate.value, at, row.window))
            if row.window == longest:
                metrics.append(Metric(f"{metric}/{row.task}", estimate.value, at, 0))
    for name in ("latency_ms", "peak_memory_mib") if report.scoring is not None else ():
        metrics.append(Metric(f"scoring/{name}", getattr(report.scoring, name), at, 0))
    log_metrics(client, run_id, metrics)
