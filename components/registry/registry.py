"""Which trained models are there, and are their files what was registered? Versions of `longreel-<name>` in MLflow.

Every trained candidate becomes a version, tagged with its data, its digest and what was decided of it. The digest in
the tag and the files must agree before a version is loaded or promoted. Which version is the champion: ledger.py.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array

import longreel
from longreel.contracts.config import Config
from longreel.contracts.decision import STOPPING, VERDICTS, Decision
from longreel.contracts.errors import LongreelError, TransientError
from longreel.contracts.schemas import REQUEST_TABLE, added_column_of
from longreel.lake.home import Home

CHAMPION = "champion"
PENDING = "pending"  # the decision tag of a version that was not judged yet
HEADLINE_REASONS = 3  # a broken candidate fails a dozen gates for one cause; its run card has all
MAX_TAG = 4_500  # stores refuse tag values and descriptions beyond 5,000 characters
SCRIPT = Path(__file__).with_name("pyfunc_model.py")
# What the scoring script needs where a version is served; the code of `contracts` and `model` travels with it.
SERVED = ("contracts", "lake", "model")  # the packages that a served model imports
SERVING_REQUIREMENTS = ["mlflow==3.17.2", "torch>=2.11", "numpy>=2.2", "pandas>=2.2", "pyarrow>=25", "safetensors>=0.8"]


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version. `tags` are MLflow's, as strings."""

    version: int
    model_digest: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def evaluated_day(self) -> date:
        """The day the version was trained for, which it has not seen."""
        return date.fromisoformat(self.tags["evaluated_day"])

    @property
    def data_watermark(self) -> date:
        """The last day it was trained on."""
        return date.fromisoformat(self.tags["data_watermark"])

    @property
    def decision(self) -> str:
        """promote, hold, reject or pending."""
        return self.tags.get("decision", PENDING)


def model_name(config: Config) -> str:
    """The registered model of a pipeline."""
    return f"longreel-{config.name}"


def _read(found: ModelVersion) -> Version:
    tags = dict(found.tags)
    return Version(version=int(found.version), model_digest=tags["model_digest"], run_id=found.run_id or "", tags=tags)


def all_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Every version of a registered model, as MLflow has it, oldest first; none where there is no such model."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=200, page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def versions(client: MlflowClient, name: str) -> list[Version]:
    """Every registered version, oldest first."""
    return [_read(found) for found in all_of(client, name) if "model_digest" in found.tags]


def get_version(client: MlflowClient, name: str, version: int) -> Version:
    """One version.

    Raises:
        LongreelError: there is no such version.
    """
    try:
        return _read(client.get_model_version(name, str(version)))
    except (MlflowException, KeyError) as error:
        known = [v.version for v in versions(client, name)]
        have = f"registered are {', '.join(map(str, known))}" if known else "nothing is registered"
        raise LongreelError(f"{name} has no version {version}; {have}") from error


def request_signature(tasks: tuple[str, ...]) -> ModelSignature:
    """MLflow's signature of scoring: the request table in, a probability per task out."""
    # 32-bit columns are declared long: a request that comes as JSON or as Python lists has 64-bit integers.
    kinds = {pa.int64(): DataType.long, pa.int32(): DataType.long, pa.string(): DataType.string}

    def spec(field: pa.Field) -> ColSpec:
        if pa.types.is_list(field.type):
            return ColSpec(Array(kinds[field.type.value_type]), field.name, required=added_column_of(field) is None)
        return ColSpec(kinds[field.type], field.name, required=added_column_of(field) is None)

    inputs: list[ColSpec | TensorSpec] = [spec(field) for field in REQUEST_TABLE]
    outputs: list[ColSpec | TensorSpec] = [spec(REQUEST_TABLE.field("user_id"))]
    outputs += [ColSpec(DataType.string, "request_id"), ColSpec(DataType.long, "item_id")]
    outputs += [ColSpec(DataType.double, task) for task in tasks]
    return ModelSignature(
        inputs=Schema(inputs),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("window", DataType.long, 10_240)]),
    )


def _example(model_dir: Path) -> Any:
    """A request to try the model with; invented, because `longreel data forget` does not reach what a version keeps."""
    from longreel.model.training import golden

    found = golden.example_request(model_dir)
    if found is None:
        return None
    import pandas as pd

    return pd.DataFrame(found.to_pylist())


def register(
    home: Home, client: MlflowClient, model_dir: Path, *, run_id: str, tasks: tuple[str, ...], tags: Mapping[str, str]
) -> Version:
    """Log a trained model to its run and register it; a model that the run has registered before is not repeated."""
    from longreel.model.training.checkpoint import model_digest  # imports torch, which most steps do without

    name, digest = model_name(home.config), model_digest(model_dir)
    for known in versions(client, name):
        if (known.run_id, known.model_digest) == (run_id, digest):
            return known
    active = mlflow.active_run()
    is_open = active is not None and active.info.run_id == run_id
    with (
        nullcontext() if is_open else mlflow.start_run(run_id=run_id),
        warnings.catch_warnings(),
        _serving_code() as code,
    ):
        warnings.simplefilter("ignore", UserWarning)  # asks for type hints; the signature is exact
        info = mlflow.pyfunc.log_model(
            name="ranker",
            python_model=str(SCRIPT),
            artifacts={"model": str(model_dir)},
            model_config={"model_digest": digest},
            signature=request_signature(tasks),
            input_example=_example(model_dir),
            pip_requirements=SERVING_REQUIREMENTS,
            code_paths=[str(code)],
        )
    try:
        client.create_registered_model(
            name,
            description=f"Rankers of one longreel pipeline, one version a candidate; `{CHAMPION}` is the one to use. "
            f"[{name}-ledger](#/models/{name}-ledger) says who made which version the champion, when and why.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    all_tags = {"decision": PENDING, **tags, "model_digest": digest}
    client.create_model_version(name, source=info.model_uri, run_id=run_id, tags=all_tags, model_id=info.model_id)
    # the oldest that is this: where an answer was lost, MLflow's client asked again and made two
    return next(known for known in versions(client, name) if (known.run_id, known.model_digest) == (run_id, digest))


@contextmanager
def _serving_code() -> Iterator[Path]:
    """A folder `longreel` with the packages that a served model imports, and no others."""
    root = Path(longreel.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "longreel"
        code.mkdir()
        shutil.copy(root / "__init__.py", code)
        for package in SERVED:
            shutil.copytree(root / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
        yield code


def fetch(client: MlflowClient, name: str, version: Version) -> Path:
    """The folder with a version's files, downloaded where the store is elsewhere.

    Raises:
        LongreelError: the files are not those that were registered.
        TransientError: they cannot be read: the store is away, or they are gone.
    """
    from longreel.model.training.checkpoint import model_digest

    uri = client.get_model_version_download_uri(name, str(version.version))
    try:
        root = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=client.tracking_uri))
        flavour: dict[str, Any] = Model.load(str(root)).flavors["python_function"]
        folder = root / flavour["artifacts"]["model"]["path"]
        digest = model_digest(folder)
    except (OSError, MlflowException, KeyError) as error:
        raise TransientError(f"the files of {name} version {version.version} cannot be read: {error}") from error
    if digest != version.model_digest:
        raise LongreelError(
            f"the files of {name} version {version.version} have digest {digest}, registered was "
            f"{version.model_digest}: they were changed or damaged; roll back, or train again"
        )
    return folder


def headline(decision: Decision) -> str:
    """Why it was decided so, in short: the first gates that did not pass, or the comparison with the champion."""
    if decision.outcome != "promote":
        told, more = decision.reasons[:HEADLINE_REASONS], len(decision.reasons) - HEADLINE_REASONS
        return " ".join(told) + (f" And {more} more." if more > 0 else "")
    compared = [gate.reason for gate in decision.gates if gate.name in ("champion", "champion/superiority")]
    return " ".join(compared) or " ".join(decision.reasons)


def _story(name: str, version: Version, decision: Decision, experiment: str) -> str:
    """Why it was decided so, as the first thing on a page, with the way to everything else."""
    said = headline(decision)
    card = f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/run_card.html"
    told = [g for g in decision.gates if g.reason not in said and (g.verdict in STOPPING or g.group == "champion")]
    lines = [f"- {g.verdict}: {g.reason}" for g in sorted(told, key=lambda gate: VERDICTS.index(gate.verdict))]
    lines += [f"- {decision.not_evaluated}"] * bool(decision.not_evaluated)
    where = (
        f"Version {version.version} of {name}, judged on {decision.date}. The [run card]({card}) has all "
        f"{len(decision.gates)} gates; `longreel model reproduce {version.run_id}` trains it again."
    )
    return "\n".join([f"{decision.outcome}: {said}", "", where, "", *lines])[:MAX_TAG]


def record_decision(client: MlflowClient, name: str, version: Version, decision: Decision) -> None:
    """Tag a version and its run with what was decided; both pages say why in words."""
    values = {
        "policy_version": decision.policy_version,
        "policy_digest": decision.policy_digest,
        "decision": decision.outcome,
        "decision_digest": decision.digest(),
        "decision_reason": headline(decision)[:MAX_TAG],
    }
    title = f"{decision.date} {decision.outcome}, version {version.version}"
    client.update_run(version.run_id, name=title)  # a table of runs then reads as the history of decisions
    client.set_model_version_tag(name, str(version.version), "run_name", title)
    for key, value in values.items():
        client.set_model_version_tag(name, str(version.version), key, value)
        client.set_tag(version.run_id, key, value)
    text = _story(name, version, decision, client.get_run(version.run_id).info.experiment_id)
    client.update_model_version(name, str(version.version), description=text)
    client.set_tag(version.run_id, "mlflow.note.content", text)


def last_judged_day(known: list[Version]) -> date | None:
    """The newest day on which a candidate was judged to the end; an interrupted one does not count."""
    return max((v.evaluated_day for v in known if v.decision != PENDING), default=None)
