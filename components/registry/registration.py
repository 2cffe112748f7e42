"""Registration of a trained model as a version in MLflow, with the code that serves it."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array

import longreel
from longreel.components.registry.versions import (
    CHAMPION,
    PENDING,
    Version,
    download_uri,
    folder_digest,
    list_versions,
    model_name,
)
from longreel.contracts.errors import TransientError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import added_column_of, dataset_schemas
from longreel.lake.home import Home

SCRIPT = Path(__file__).with_name("pyfunc_model.py")
SERVED = ("contracts", "lake", "model")  # the packages that a served model imports; they are packed with it
SERVING_REQUIREMENTS = ["mlflow==3.17.2", "torch>=2.11", "numpy>=2.2", "pandas>=2.2", "pyarrow>=25", "safetensors>=0.8"]


# 32-bit columns are declared as 64-bit: a request that comes as JSON or as Python lists has these.
MLFLOW_TYPES = {
    pa.int64(): DataType.long,
    pa.int32(): DataType.long,
    pa.float32(): DataType.double,
    pa.string(): DataType.string,
}


def request_signature(log_schema: LogSchema, tasks: tuple[str, ...]) -> ModelSignature:
    """MLflow's signature of scoring: the request table of a log in, a probability or number per task out."""

    def spec(field: pa.Field) -> ColSpec:
        is_required = added_column_of(field) is None
        if pa.types.is_list(field.type):
            return ColSpec(Array(MLFLOW_TYPES[field.type.value_type]), field.name, required=is_required)
        return ColSpec(MLFLOW_TYPES[field.type], field.name, required=is_required)

    inputs: list[ColSpec | TensorSpec] = [spec(field) for field in dataset_schemas(log_schema).request_table]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.long, "user_id")]
    outputs += [ColSpec(DataType.string, "request_id"), ColSpec(DataType.long, "item_id")]
    outputs += [ColSpec(DataType.double, task) for task in tasks]
    return ModelSignature(
        inputs=Schema(inputs),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("window", DataType.long, 10_240)]),
    )


def _example(model_dir: Path) -> Any:
    """A synthetic request to try the model with; every version keeps it, so it must not hold a user's data."""
    from longreel.model.training import golden

    table = golden.example_request(model_dir)
    if table is None:
        return None
    import pandas as pd

    return pd.DataFrame(table.to_pylist())


def register_version(
    home: Home, client: MlflowClient, model_dir: Path, *, run_id: str, tasks: tuple[str, ...], tags: Mapping[str, str]
) -> Version:
    """Log a trained model to its run and register it as a version, unless the run has registered it already."""
    from longreel.model.training.checkpoint import load_log_schema, model_digest  # imports torch

    name, digest = model_name(home.config), model_digest(model_dir)
    registered = _registered(client, name, run_id, digest)
    if registered is not None:
        return registered
    active = mlflow.active_run()
    is_open = active is not None and active.info.run_id == run_id
    with (
        nullcontext() if is_open else mlflow.start_run(run_id=run_id),
        warnings.catch_warnings(),
        _serving_code() as code,
    ):
        warnings.simplefilter("ignore", UserWarning)  # it misses type hints; the signature is exact
        info = mlflow.pyfunc.log_model(
            name="ranker",
            python_model=str(SCRIPT),
            artifacts={"model": str(model_dir)},
            model_config={"model_digest": digest},
            signature=request_signature(load_log_schema(model_dir), tasks),
            input_example=_example(model_dir),
            pip_requirements=SERVING_REQUIREMENTS,
            code_paths=[str(code)],
        )
    try:
        client.create_registered_model(
            name,
            description=f"Rankers of one longreel pipeline, one version per candidate; `{CHAMPION}` is the one to use. "
            f"[{name}-ledger](#/models/{name}-ledger) records who made which version the champion, when and why.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    digests = {"model_digest": digest, "files_digest": folder_digest(download_uri(client, info.model_uri))}
    for key, value in digests.items():
        client.set_tag(run_id, key, value)
    all_tags = {"decision": PENDING, **tags, **digests}
    client.create_model_version(name, source=info.model_uri, run_id=run_id, tags=all_tags, model_id=info.model_id)
    version = _registered(client, name, run_id, digest)
    if version is None:
        raise TransientError(f"{name}: the version of run {run_id} was created and is not listed; try again")
    return version


def _registered(client: MlflowClient, name: str, run_id: str, digest: str) -> Version | None:
    """The version of a run's model. The oldest: if a response is lost, MLflow's client retries and creates a second."""
    return next((v for v in list_versions(client, name) if (v.run_id, v.model_digest) == (run_id, digest)), None)


@contextmanager
def _serving_code() -> Iterator[Path]:
    """A temporary folder `longreel` with only the packages that a served model imports."""
    root = Path(longreel.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "longreel"
        code.mkdir()
        shutil.copy(root / "__init__.py", code)
        for package in SERVED:
            shutil.copytree(root / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
        yield code
