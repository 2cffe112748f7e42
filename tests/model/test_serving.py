"""A served model answers a request table in its own order, at any window, or says what is wrong with the table."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.contracts.statistics import Statistic
from longreel.lake.table import Lake
from longreel.model.data.encodings import Encodings
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import score_rows
from longreel.model.evaluation.evaluate import evaluate
from longreel.model.evaluation.serving import Scorer
from longreel.model.nn.ranker import Ranker
from longreel.model.training import golden
from longreel.model.training.checkpoint import load_model
from longreel.model.training.train import train
from tests.sample_tables import EVERY_KIND, random_rows


@pytest.fixture(scope="module")
def model_dir(config: Config, lake: Lake, days: list[date], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    return train(config, lake, days[:1], folder / "work", folder / "model").model_dir


@pytest.fixture
def requests(table: Callable[..., pa.Table], log_schema: LogSchema) -> pa.Table:
    return table(9).select(dataset_schemas(log_schema).request_table.names)


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
    ranker, _ = load_model(model_dir)
    rows = SampleRows.from_arrow(requests, ranker.log_schema)
    logits = score_rows(ranker, rows, 10_240, torch.device("cpu"))
    np.testing.assert_allclose(answer["click"].to_numpy(), 1 / (1 + np.exp(-logits[:, 0])), rtol=1e-5)


def test_labels_in_the_table_change_nothing(
    model_dir: Path, table: Callable[..., pa.Table], requests: pa.Table
) -> None:
    scorer = Scorer.load(model_dir)
    assert scorer.score(table(9)) == scorer.score(requests)


def test_model_trained_short_scores_ten_thousand_events(
    model_dir: Path, rows: Callable[..., list[dict]], config: Config, log_schema: LogSchema
) -> None:
    assert config.training.window_max == 64
    long = [row for row in rows(2, users=8, longest=12_000) if row["request_history_end"][-1] > 10_240][:1]
    table = pa.Table.from_pylist(long, schema=dataset_schemas(log_schema).samples)
    answer, shorter = (Scorer.load(model_dir).score(table, window=window) for window in (10_240, 512))
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
    scorer = Scorer.load(model_dir)
    answer = scorer.score(scorer.request_schema.empty_table())
    assert answer.num_rows == 0
    assert answer.column_names == ["user_id", "request_id", "item_id", "click", "like"]


def test_missing_or_mistyped_columns_are_named(model_dir: Path, requests: pa.Table) -> None:
    scorer = Scorer.load(model_dir)
    with pytest.raises(LongreelError, match="column history_actions, target_item_id is missing, which the log that"):
        scorer.score(requests.drop_columns(["target_item_id", "history_actions"]))
    words = pa.array([["a"]] * requests.num_rows)
    at = requests.schema.get_field_index("target_item_id")
    with pytest.raises(LongreelError, match="request table: "):
        scorer.score(requests.set_column(at, "target_item_id", words))
    with pytest.raises(LongreelError, match="window: expected 0 or more"):
        scorer.score(requests, window=-1)


def test_a_missing_statistic_is_said_to_be_in_the_lake(config: Config, requests: pa.Table) -> None:
    log = replace(config.log_schema, statistics=(Statistic(of=("item_id",), impressions=True),))
    ranker = Ranker(config.model, ("click",), log, Encodings())
    with pytest.raises(
        LongreelError, match=r"item_id_impressions_28d is missing \(a statistic: the lake's statistics/"
    ):
        Scorer(ranker, {}, torch.device("cpu")).score(requests)


def test_a_missing_column_of_an_optional_field_reads_as_unknown(model_dir: Path, requests: pa.Table) -> None:
    scorer, at = Scorer.load(model_dir), requests.schema.get_field_index("target_author_id")
    unknown = pa.array([[-1] * len(ids) for ids in requests["target_author_id"].to_pylist()], pa.list_(pa.int64()))
    expected = scorer.score(requests.set_column(at, "target_author_id", unknown))
    assert scorer.score(requests.drop_columns(["target_author_id"])) == expected
    assert expected != scorer.score(requests)


@pytest.fixture(scope="module")
def every_kind_model(
    config: Config, days: list[date], tmp_path_factory: pytest.TempPathFactory, publish_rows: Callable[..., None]
) -> tuple[Path, Lake]:
    """A model of a log with every kind of field, whose users spend about a thousand, and its lake of two days."""
    folder = tmp_path_factory.mktemp("every_kind")
    lake = Lake(folder / "lake", EVERY_KIND)
    for seed, day in enumerate(days[:2]):
        rows = random_rows(EVERY_KIND, seed, users=30)
        for row in rows:
            row["target_label_spent"] = [1_000 + 10 * value for value in row["target_label_spent"]]
        publish_rows(lake, day, rows)
    own = replace(config, log_schema=EVERY_KIND, tasks=("spent", "click"))
    return train(own, lake, days[:1], folder / "work", folder / "model").model_dir, lake


def test_number_labels_are_answered_in_their_own_unit(every_kind_model: tuple[Path, Lake], days: list[date]) -> None:
    model_dir, lake = every_kind_model
    answer = Scorer.load(model_dir).score(lake.read(lake.require("samples", days[1])))
    assert answer.column_names == ["user_id", "request_id", "item_id", "spent", "click"]
    assert answer["spent"].to_numpy().mean() == pytest.approx(1_000, abs=20)
    assert 0 < answer["click"].to_numpy().min() < answer["click"].to_numpy().max() < 1


def test_a_day_with_every_kind_of_field_is_evaluated(
    every_kind_model: tuple[Path, Lake], days: list[date], config: Config
) -> None:
    model_dir, lake = every_kind_model
    report = evaluate(model_dir, lake, days[1], replace(config, log_schema=EVERY_KIND, tasks=("click",)))
    assert {name for part in ("color", "device", "country") for name in (f"{part}=1", f"{part}=2")} & set(report.slices)
    assert all(check.passed for check in report.consistency)
    assert report.consistency[0].largest == 0  # golden requests of every kind of field are read as they were written


def test_the_example_request_of_a_model_is_a_request_table_of_its_log(every_kind_model: tuple[Path, Lake]) -> None:
    model_dir, _ = every_kind_model
    table = golden.example_request(model_dir)
    scorer = Scorer.load(model_dir)
    assert table is not None
    assert table.schema.equals(scorer.request_schema)
    answer = scorer.score(table)
    assert answer["item_id"].to_pylist() == table["target_item_id"].to_pylist()[0]
    events = len(table["history_time_ms"].to_pylist()[0])
    assert len(table["history_title"].to_pylist()[0]) == 4 * events > 0


def test_chunked_and_sliced_tables_score_the_same(model_dir: Path, requests: pa.Table) -> None:
    scorer = Scorer.load(model_dir)
    pieces = pa.concat_tables([requests.slice(0, 5), requests.slice(5)])
    np.testing.assert_allclose(scorer.score(pieces)["like"], scorer.score(requests)["like"], rtol=1e-5)
    tail = scorer.score(requests)["like"].to_numpy()[-scorer.score(requests.slice(20)).num_rows :]
    np.testing.assert_allclose(scorer.score(requests.slice(20))["like"], tail, rtol=1e-4)
