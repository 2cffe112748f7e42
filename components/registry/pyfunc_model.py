"""Code of the registered model: loads the ranker from the artefacts beside it and scores a request table.

MLflow runs this file by itself when it loads a version, so it imports only what is packed with the model
(`SERVED` in registration.py). Input: columns of `longreel.contracts.schemas.REQUEST_TABLE`, lists as lists or arrays.
Output: a row per target with user_id, request_id, item_id and one probability per task.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import REQUEST_TABLE
from longreel.lake.schema_evolution import missing_columns
from longreel.model.evaluation.serving import Scorer
from longreel.model.training.checkpoint import model_digest


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
        """Score a request table; `params["window"]` limits the history events read for a request."""
        if missing := missing_columns(REQUEST_TABLE, model_input.columns):
            raise LongreelError(f"the request table lacks columns {', '.join(missing)}; see contracts/schemas.py")
        schema = pa.schema([field for field in REQUEST_TABLE if field.name in model_input.columns])
        table = pa.Table.from_pandas(model_input[schema.names], schema=schema, preserve_index=False)
        return self._scorer.score(table, (params or {}).get("window")).to_pandas()


set_model(RequestScorer())
