"""MLflow store of a home: its connection and the pipeline's experiment."""

import logging
import os
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from longreel.components.registry.location import experiment_name, require_location, require_place
from longreel.contracts.errors import LongreelError, TransientError, from_mlflow_error
from longreel.contracts.passwords import without_password
from longreel.lake.home import TRACKING_VARIABLE, Home, private_file, private_folder

RETRIES, PATIENT, IMPATIENT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "10", "2"
SERVERS = ("http://", "https://")
DATABASES = ("sqlite:///", "postgresql", "mysql", "mssql")
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run per candidate: its training, its evaluation and why it was promoted, held or "
    "rejected (`run_card.html` among its artifacts). Below it, the champion evaluated on the same day.",
}
RUNS_PAGE = "#/experiments/{id}/runs?workflowType=machine_learning"  # without the type MLflow opens on GenAI traces
log = logging.getLogger(__name__)


def open_store(home: Home, *, patient: bool = True) -> MlflowClient:
    """Connect MLflow to this home's store; a local one is created on first use.

    Args:
        patient: wait for a server that does not answer; otherwise fail within seconds, for a person at a terminal.

    Raises:
        LongreelError: the home has no configuration, its store's URI is of no kind that MLflow stores runs and models
            in, or the store names another place for the home.
        TransientError: the server or database does not answer, or refuses the connection.
    """
    _ = home.config  # a mistyped home fails here, before a store is created in it
    uri = home.tracking_uri
    if not uri.startswith((*SERVERS, *DATABASES)):
        raise LongreelError(
            f"{TRACKING_VARIABLE}: expected a server (http://mlflow:5000) or a database (sqlite:////FOLDER/mlflow.db, "
            f"postgresql+psycopg://USER@HOST/DATABASE), got {without_password(uri)!r}; set it to one, or unset it for "
            "a store in the home"
        )
    if not patient and os.environ[RETRIES] == PATIENT:
        os.environ[RETRIES] = IMPATIENT
    require_location(home)
    if uri == f"sqlite:///{home.mlflow_database}":
        private_folder(home.mlflow)
        private_file(home.mlflow_database)
    elif uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    variable = os.environ.get(TRACKING_VARIABLE)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    # MLflow also writes the URI into the environment, where the next home that this process opens would take it for the
    # user's setting. Restore it.
    if variable is None:
        os.environ.pop(TRACKING_VARIABLE, None)
    else:
        os.environ[TRACKING_VARIABLE] = variable
    if uri.startswith(DATABASES):
        _require_database(uri, patient)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if not uri.startswith("sqlite:///"):
        try:
            experiment = client.get_experiment_by_name(experiment_name(home))
        except MlflowException as error:
            if refusal := from_mlflow_error(error):
                raise refusal from error
            cause = str(error).rpartition(": ")[2].rstrip("\")'")
            raise TransientError(
                f"the MLflow server {without_password(uri)} does not answer ({cause}); start it, or correct "
                f"{TRACKING_VARIABLE}"
            ) from error
        require_place(home, experiment.artifact_location if experiment else None)
    return client


def _require_database(uri: str, patient: bool) -> None:
    """Raises LongreelError where a URI or a file is no database's, and TransientError where one refuses the connection.

    MLflow itself retries a connection for up to an hour, which is left to it where `patient`.
    """
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    try:
        engine = create_engine(uri)
        if not patient or uri.startswith("sqlite"):
            inspect(engine).get_table_names()
    except OperationalError as error:
        message = " ".join(str(error.orig).split())
        raise TransientError(
            f"the MLflow database {without_password(uri)} refuses the connection ({message}); start it, or correct "
            f"{TRACKING_VARIABLE}"
        ) from error
    except (SQLAlchemyError, ImportError) as error:
        message = " ".join(str(getattr(error, "orig", error)).split())
        name = uri if uri.startswith("sqlite") else uri.partition("://")[0]
        raise LongreelError(
            f"the MLflow database {name} cannot be used: {message}; correct {TRACKING_VARIABLE}, or restore the file "
            "from a backup"
        ) from error


def experiment_id(home: Home, client: MlflowClient) -> str:
    """The id of the pipeline's experiment, created on first use, and restored with its runs if it was deleted on its
    page. A tracking server chooses where artefacts go."""
    name = experiment_name(home)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            log.warning("experiment %s was deleted in MLflow; restoring it and its runs, which its versions need", name)
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
    local = not home.tracking_uri.startswith(SERVERS)
    if local:
        home.artifacts.mkdir(parents=True, exist_ok=True)
    location = home.artifacts.as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))


def runs_page(home: Home) -> str:
    """The page of the pipeline's runs on a tracking server; "" before the first run."""
    experiment = open_store(home).get_experiment_by_name(experiment_name(home))
    return "" if experiment is None else RUNS_PAGE.format(id=experiment.experiment_id)
