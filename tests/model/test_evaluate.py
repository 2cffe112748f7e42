"""A report says what the logits say, slice by slice, and pairs its replicates with another model's."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.config import Config
from contracts.errors import DataNotReadyError, LongreelError
from contracts.lake import Lake
from contracts.report import EvaluationReport
from model.checkpoint import load_model
from model.evaluate import evaluate
from model.metrics import TaskScores
from model.samples import SampleRows
from model.scoring import Known, day_groups, score_day, score_rows, token_batches
from model.train import train

CPU = torch.device("cpu")


@pytest.fixture
def model_dir(config: Config, lake: Lake, days: list[date], tmp_path: Path) -> Path:
    return train(config, lake, days[:2], tmp_path / "work", tmp_path / "model").model_dir


@pytest.fixture
def report(model_dir: Path, lake: Lake, days: list[date], config: Config) -> EvaluationReport:
    return evaluate(model_dir, lake, days[3], config)


def test_metrics_are_those_of_the_days_logits(
    report: EvaluationReport, model_dir: Path, lake: Lake, days: list[date], config: Config
) -> None:
    stored = lake.read(lake.require("samples", days[3]))
    rows = SampleRows.from_arrow(stored)
    ranker, _ = load_model(model_dir)
    users = np.repeat(rows.user_id[rows.request_row], rows.target_counts) - 100
    lengths = {
        int(u): int(n)
        for u, n in zip(rows.user_id - 100, [max(e) for e in stored["request_history_end"].to_pylist()], strict=True)
    }
    for window in (8, 64):
        logits = score_rows(ranker, rows, window, CPU)
        for column, task in enumerate(("click", "like")):
            labels = rows.task_labels(("click", "like"))[:, column] > 0
            chosen = {"all": np.ones(len(users), bool), "new users": np.array([lengths[u] == 0 for u in users])}
            chosen["history 32-127"] = np.array([32 <= lengths[u] < 128 for u in users])
            for name, kept in chosen.items():
                expected = TaskScores(logits[kept, column].astype(np.float64), labels[kept], users[kept], 30)
                row = report.row(task, window, name)
                assert row.targets == kept.sum() > 0
                assert row.positives == labels[kept].sum()
                assert row.users == len(np.unique(users[kept]))
                assert row.log_loss.value == pytest.approx(float(expected.log_loss()[0]), abs=1e-5)
                if name == "all":
                    assert row.auc.value == pytest.approx(float(expected.auc()[0]), abs=1e-4)
                    assert row.gauc.value == pytest.approx(float(expected.gauc()[0]), abs=1e-4)


def test_ladder_ends_with_the_first_window_that_holds_every_history(report: EvaluationReport) -> None:
    assert 32 < report.longest_history <= 64
    assert report.windows == (8, 32, 64)


def test_intervals_hold_the_value_and_only_whole_rows_keep_replicates(report: EvaluationReport, config: Config) -> None:
    for row in report.rows:
        for metric in (row.auc, row.gauc, row.log_loss, row.calibration):
            assert bool(metric.draws) == (row.slice == "all")
            if row.slice == "all":
                assert len(metric.draws) == config.evaluation.bootstrap_draws
                assert metric.low <= metric.value <= metric.high
                assert metric.low < metric.high


def test_reports_are_reproducible_and_paired(
    report: EvaluationReport, model_dir: Path, lake: Lake, days: list[date], config: Config, tmp_path: Path
) -> None:
    again = evaluate(model_dir, lake, days[3], config)
    assert again.digest() == report.digest()
    assert EvaluationReport.from_json(report.to_json()).digest() == report.digest()
    other_seed = replace(config, training=replace(config.training, seed=5))
    train(other_seed, lake, days[:2], tmp_path / "work2", tmp_path / "model2")
    other = evaluate(tmp_path / "model2", lake, days[3], config)
    assert (other.data_digest, other.bootstrap_seed) == (report.data_digest, report.bootstrap_seed)
    assert other.model_digest != report.model_digest
    # The labels' share of a replicate depends on the drawn users alone: equal draws mean equal observed rates.
    a, b = report.row("click", 64), other.row("click", 64)
    unpaired = np.random.default_rng(0).permutation(b.log_loss.draws)
    paired_spread = np.std(np.subtract(a.log_loss.draws, b.log_loss.draws))
    assert paired_spread < 0.7 * np.std(np.subtract(a.log_loss.draws, unpaired))


def test_at_most_max_users_chosen_by_hash(
    model_dir: Path, lake: Lake, days: list[date], config: Config, report: EvaluationReport
) -> None:
    few = replace(config, evaluation=replace(config.evaluation, max_users=12))
    small = evaluate(model_dir, lake, days[3], few)
    assert small.row("click", 8).users == 12
    assert small.data_digest != report.data_digest
    assert evaluate(model_dir, lake, days[3], few).digest() == small.digest()


def test_latency_names_its_shape_and_progress_is_told(
    model_dir: Path, lake: Lake, days: list[date], config: Config
) -> None:
    told: list[tuple[str, int, int]] = []
    report = evaluate(model_dir, lake, days[3], config, on_progress=lambda *step: told.append(step))
    assert report.latency_shape == f"{report.longest_history} events x 128 candidates"
    assert report.latency_ms is not None
    assert report.latency_ms > 0
    assert [done for _, done, _ in told] == [1, 2, 3, 4]
    assert told[-1][1] == told[-1][2]


def test_missing_day_and_empty_day_are_errors(
    model_dir: Path, lake: Lake, days: list[date], config: Config, publish_rows: object
) -> None:
    with pytest.raises(DataNotReadyError):
        evaluate(model_dir, lake, date(2030, 1, 1), config)
    publish_rows(lake, date(2026, 2, 1), [])  # type: ignore[operator]
    with pytest.raises(LongreelError, match="hold no targets"):
        evaluate(model_dir, lake, date(2026, 2, 1), config)


def test_day_scored_by_row_groups_equals_scored_at_once(model_dir: Path, lake: Lake, days: list[date]) -> None:
    ranker, _ = load_model(model_dir)
    groups = day_groups(lake, days[3])
    assert len(groups) > 2
    whole = score_rows(ranker, SampleRows.from_arrow(lake.read(lake.require("samples", days[3]))), 32, CPU)
    np.testing.assert_allclose(score_day(ranker, lake, groups, 32, CPU), whole, rtol=1e-4, atol=1e-5)


def test_longer_windows_rescore_only_who_has_more_history(model_dir: Path, lake: Lake, days: list[date]) -> None:
    ranker, _ = load_model(model_dir)
    groups = day_groups(lake, days[3])
    short, long = (score_day(ranker, lake, groups, window, CPU) for window in (8, 64))
    assert np.abs(long - short).max() > 1e-3
    again = score_day(ranker, lake, groups, 64, CPU, known=Known(8, short))
    np.testing.assert_allclose(again, long, rtol=1e-4, atol=1e-5)
    marked = score_day(ranker, lake, groups, 64, CPU, known=Known(8, short + 100))
    rows = SampleRows.from_arrow(lake.read(lake.require("samples", days[3])))
    kept = np.repeat(rows.history_lengths <= 8, rows.target_counts)
    assert ((marked > 50).all(axis=1) == kept).all()


def test_token_batches_hold_every_request_once_within_the_budget() -> None:
    tokens = np.random.default_rng(0).integers(1, 300, 500)
    batches = token_batches(tokens, 1_000)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert max(tokens[batch].sum() for batch in batches) <= 1_300
    assert token_batches(np.zeros(0, np.int64), 1_000) == []
