"""A served model answers a request table in its own order, at any window, or says what is wrong with the table."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import REQUEST_TABLE, SAMPLES
from longreel.lake.table import Lake
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import score_rows
from longreel.model.evaluation.serving import Scorer
from longreel.model.training.checkpoint import load_model
from longreel.model.training.train import train


@pytest.fixture(scope="module")
def model_dir(config: Config, lake: Lake, days: list[date], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    return train(config, lake, days[:1], folder / "work", folder / "model").model_dir


@pytest.fixture
def requests(table: Callable[..., pa.Table]) -> pa.Table:
    return table(9).select(REQUEST_TABLE.names)


def test_one_row_per_target_in_the_tables_order(model_dir: Path, requests: pa.Table) -> None:
    answer = Scorer.load(model_dir, "cpu").score(requests)
    expected = []
    for row in requests.to_pylist():
        begin = 0
        for request, stop in zip(row["request_id"], row["request_target_end"], strict=True):
            expected += [(row["user_id"], request, item) for item in row["target_item_id"][begin:stop]]
            begin = stop
    assert answer.column_names == ["user_id", "request_id", "item_id", "click", "like"]
    assert list(zip(*(answer[name].to_pylist() for name in answer.column_names[:3]), strict=True)) == expected
    logits = score_rows(load_model(model_dir)[0], SampleRows.from_arrow(requests), 10_240, torch.device("cpu"))
    np.testing.assert_allclose(answer["click"].to_numpy(), 1 / (1 + np.exp(-logits[:, 0])), rtol=1e-5)


def test_labels_in_the_table_change_nothing(model_dir: Path, table: Callable[..., pa.Table]) -> None:
    scorer = Scorer.load(model_dir)
    assert scorer.score(table(9)) == scorer.score(table(9).select(REQUEST_TABLE.names))


def test_model_trained_short_scores_ten_thousand_events(
    model_dir: Path, rows: Callable[..., list[dict]], config: Config
) -> None:
    assert config.training.window_max == 64
    long = [row for row in rows(2, users=8, longest=12_000) if row["request_history_end"][-1] > 10_240][:1]
    answer = Scorer.load(model_dir).score(pa.Table.from_pylist(long, schema=SAMPLES), window=10_240)
    shorter = Scorer.load(model_dir).score(pa.Table.from_pylist(long, schema=SAMPLES), window=512)
    assert np.isfinite(answer["click"].to_numpy()).all()
    assert not np.array_equal(answer["click"].to_numpy(), shorter["click"].to_numpy())


def test_window_zero_and_no_history_are_answered(model_dir: Path, requests: pa.Table) -> None:
    nothing = requests.slice(0, 1)
    assert nothing["history_time_ms"].to_pylist() == [[]]
    scorer = Scorer.load(model_dir)
    assert np.isfinite(scorer.score(nothing)["like"].to_numpy()).all()
    assert scorer.score(nothing) == scorer.score(nothing, window=0)
    assert scorer.score(requests, window=0).num_rows == scorer.score(requests).num_rows


def test_empty_table_gets_an_empty_answer(model_dir: Path) -> None:
    answer = Scorer.load(model_dir).score(REQUEST_TABLE.empty_table())
    assert answer.num_rows == 0
    assert answer.column_names == ["user_id", "request_id", "item_id", "click", "like"]


def test_missing_or_mistyped_columns_are_named(model_dir: Path, requests: pa.Table) -> None:
    scorer = Scorer.load(model_dir)
    with pytest.raises(LongreelError, match="column history_tag is missing"):
        scorer.score(requests.drop_columns(["history_tag"]))
    words = pa.array([["a"]] * requests.num_rows)
    at = requests.schema.get_field_index("target_item_id")
    with pytest.raises(LongreelError, match="request table: "):
        scorer.score(requests.set_column(at, "target_item_id", words))
    with pytest.raises(LongreelError, match="window: expected 0 or more"):
        scorer.score(requests, window=-1)


def test_chunked_and_sliced_tables_score_the_same(model_dir: Path, requests: pa.Table) -> None:
    scorer = Scorer.load(model_dir)
    pieces = pa.concat_tables([requests.slice(0, 5), requests.slice(5)])
    np.testing.assert_allclose(scorer.score(pieces)["like"], scorer.score(requests)["like"], rtol=1e-5)
    tail = scorer.score(requests)["like"].to_numpy()[-scorer.score(requests.slice(20)).num_rows :]
    np.testing.assert_allclose(scorer.score(requests.slice(20))["like"], tail, rtol=1e-4)
