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
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import infer_and_parse_data, invocations

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


def changed(name: str, change: Callable[[list], list]) -> pd.DataFrame:
    """The requests with the first row's value of a column changed."""
    rows = REQUESTS.to_pylist()
    row = next(row for row in rows if len(row["history_time_ms"]) > 1 and len(row["request_time_ms"]) > 1)
    row[name] = change(list(row[name]))
    return pd.DataFrame(rows)


REFUSED = [
    (
        changed("history_time_ms", lambda times: [time + 10**12 for time in times]),
        {},
        "the history holds an event at or after the request",
    ),
    (changed("history_item_id", lambda ids: ids[:-1]), {}, "history_item_id and history_time_ms differ in length"),
    (changed("request_target_end", lambda ends: [end + 5 for end in ends]), {}, "request_target_end"),
    (changed("request_history_end", lambda ends: [10**6 for _ in ends]), {}, "lies outside the history"),
    (REQUESTS.to_pandas(), {"window": -1}, "window: expected 0 or more events, got -1"),
    (
        REQUESTS.to_pandas().drop(columns=[name for name in REQUESTS.column_names if name.startswith("user_")][1:]),
        {},
        "user_",
    ),
]


@pytest.mark.parametrize(("frame", "params", "reason"), REFUSED, ids=[reason for *_, reason in REFUSED])
def test_a_scoring_server_answers_400_with_the_reason(
    served: PyFuncModel, frame: pd.DataFrame, params: dict[str, int], reason: str
) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    rows = json.loads(json.dumps(table.to_pylist()).replace("NaN", "null"))
    split = {"columns": table.column_names, "data": [list(row.values()) for row in rows]}
    body = json.dumps({"dataframe_split": split, "params": params})
    with pytest.raises(MlflowException) as error:
        invocations(body, "application/json", served, served.metadata.get_input_schema())
    assert error.value.get_http_status_code() == 400
    assert reason in error.value.message
    assert "unexpected error" not in error.value.message
    assert "rebuild" not in error.value.message
