"""Code of the registered model: loads the ranker from the artefacts beside it and scores a request table.

MLflow runs this file by itself when it loads a version, so it imports only what is packed with the model
(`SERVED` in registration.py). Input: the request table of the log that the model was trained on, lists as lists or
arrays. Output: a row per target with user_id, request_id, item_id and a probability or number per task.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import schema_text
from longreel.model.evaluation.serving import Scorer
from longreel.model.training.checkpoint import model_digest


class RefusedRequestError(MlflowException, LongreelError):
    """A request that the model does not score. A scoring server answers 400 with its message, as for no other error."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)


class RequestScorer(PythonModel):
    """Scores request tables with the ranker of one registered version."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the ranker.

        Raises:
            LongreelError: its files are not those that were registered.
        """
        folder = Path(context.artifacts["model"])
        registered, digest = context.model_config["model_digest"], model_digest(folder)
        if digest != registered:
            raise LongreelError(f"the model in {folder} has digest {digest}, registered was {registered}; not loaded")
        self._scorer = Scorer.load(folder)

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score a request table; `params["window"]` limits the history events read for a request.

        Raises:
            RefusedRequestError: a column is missing or not of the type that the model expects, the rows break a promise
                of the request table, or the window is negative.
        """
        try:
            return self._score(model_input, (params or {}).get("window"))
        except LongreelError as error:
            raise RefusedRequestError(str(error)) from error

    def _score(self, model_input: pd.DataFrame, window: int | None) -> pd.DataFrame:
        expected = self._scorer.request_schema
        fields = [field.with_nullable(True) for field in expected if field.name in model_input.columns]
        schema = pa.schema(fields)
        try:
            table = pa.Table.from_pandas(model_input[schema.names], schema=schema, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            cause = "; ".join(map(str, error.args))
            raise LongreelError(f"request table: {cause}; the model expects {schema_text(schema)}") from error
        return self._scorer.score(table, window).to_pandas()


set_model(RequestScorer())
