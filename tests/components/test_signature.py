"""A registered model of every kind of field takes requests as lists, arrays and JSON, and refuses other tables."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from longreel.components.registry.registration import SCRIPT, request_signature
from longreel.contracts.config import ModelConfig
from longreel.contracts.schemas import dataset_schemas
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import save_model
from tests.sample_tables import EVERY_KIND, random_rows

TASKS = ("click", "spent")
SAMPLES = pa.Table.from_pylist(random_rows(EVERY_KIND, 3, users=4), schema=dataset_schemas(EVERY_KIND).samples)
REQUESTS = SAMPLES.select(dataset_schemas(EVERY_KIND).request_table.names)


@pytest.fixture(name="served", scope="module")
def make_served(tmp_path_factory: pytest.TempPathFactory) -> PyFuncModel:
    folder: Path = tmp_path_factory.mktemp("served")
    rows = SampleRows.from_arrow(SAMPLES, EVERY_KIND)
    torch.manual_seed(0)
    config = ModelConfig(width=16, heads=2, layers=1, embedding_width=8, mixer_tokens=4)
    ranker = Ranker(config, TASKS, EVERY_KIND, learn_encodings(EVERY_KIND, rows))
    digest = save_model(folder / "model", ranker, {"training_mean_window": 16})
    mlflow.pyfunc.save_model(
        folder / "served",
        python_model=str(SCRIPT),
        artifacts={"model": str(folder / "model")},
        model_config={"model_digest": digest},
        signature=request_signature(EVERY_KIND, TASKS),
    )
    return mlflow.pyfunc.load_model(str(folder / "served"))


def as_json(table: pa.Table) -> pd.DataFrame:
    """As a scoring server gives a request to the model: JSON has no NaN, a missing number is null."""
    row = json.loads(json.dumps(table.to_pylist()).replace("NaN", "null"))
    data = json.dumps({"columns": table.column_names, "data": [list(values.values()) for values in row]})
    schema = request_signature(EVERY_KIND, TASKS).inputs
    frame = infer_and_parse_data({"dataframe_split": json.loads(data)}, schema=schema)
    assert isinstance(frame, pd.DataFrame)
    return frame


@pytest.mark.parametrize("form", [pa.Table.to_pandas, lambda table: pd.DataFrame(table.to_pydict()), as_json])
def test_requests_are_scored_alike_in_every_form(served: PyFuncModel, form: Callable[[pa.Table], pd.DataFrame]) -> None:
    answer = served.predict(form(REQUESTS))
    expected = served.unwrap_python_model()._scorer.score(REQUESTS).to_pandas()
    assert list(answer.columns) == ["user_id", "request_id", "item_id", *TASKS]
    np.testing.assert_allclose(answer[list(TASKS)], expected[list(TASKS)], rtol=1e-6)
    assert (answer["click"].between(0, 1)).all()


def test_a_table_of_another_schema_is_refused_and_named(served: PyFuncModel) -> None:
    frame = REQUESTS.to_pandas()
    optional = served.predict(frame.drop(columns=["target_brand", "history_brand"]))
    assert not np.allclose(optional["click"], served.predict(frame)["click"])
    with pytest.raises(Exception, match="target_device"):
        served.predict(frame.drop(columns=["target_device"]))
    words = frame.assign(target_device=[["phone"] * len(codes) for codes in frame["target_device"]])
    with pytest.raises(Exception, match="target_device"):
        served.predict(words)
    with pytest.raises(Exception, match=r"request table: .*target_device.*; the model expects user_id int64"):
        served.unwrap_python_model().predict(None, words)
