"""A report says what the logits say, slice by slice, and pairs its replicates with another model's."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.definitions import sample_definitions
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.contracts.report import DataQuality, EvaluationReport
from longreel.lake.table import Lake
from longreel.model.data.row_groups import read_rows
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import CachedLogits, day_groups, score_day, score_rows, token_batches
from longreel.model.evaluation.eval_set import category_names, load_eval_set
from longreel.model.evaluation.evaluate import evaluate
from longreel.model.evaluation.metrics import TaskScores, metrics_of, user_sums
from longreel.model.training.checkpoint import load_model, model_digest
from longreel.model.training.train import train
from tests.sample_tables import EVERY_KIND, random_rows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model_dir(config: Config, lake: Lake, days: list[date], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    return train(config, lake, days[:2], folder / "work", folder / "model").model_dir


@pytest.fixture(scope="module")
def report(model_dir: Path, lake: Lake, days: list[date], config: Config) -> EvaluationReport:
    return evaluate(model_dir, lake, days[3], config)


def test_metrics_are_those_of_the_days_logits(
    report: EvaluationReport, model_dir: Path, lake: Lake, days: list[date], config: Config
) -> None:
    stored = lake.read(lake.require("samples", days[3]))
    rows = SampleRows.from_arrow(stored, lake.log_schema)
    ranker, _ = load_model(model_dir)
    users = np.repeat(rows.user_id[rows.request_row], rows.target_counts) - 100
    lengths = {
        int(u): int(n)
        for u, n in zip(rows.user_id - 100, [max(e) for e in stored["request_history_end"].to_pylist()], strict=True)
    }
    for window in (8, 64):
        logits, at_once = (score_rows(ranker, r, window, CPU) for r in (rows, rows.one_request_a_row()))
        for column, task in enumerate(("click", "like")):
            labels = rows.task_labels(("click", "like"))[:, column] > 0
            chosen = {"all": np.ones(len(users), bool), "new users": np.array([lengths[u] == 0 for u in users])}
            chosen["returning users"] = ~chosen["new users"]
            chosen["history 32-127"] = np.array([32 <= lengths[u] < 128 for u in users])
            chosen["surface=1"] = rows.target["surface"] == 1
            country = np.repeat(rows.user["country"][rows.request_row], rows.target_counts)
            codes, counts = np.unique(country, return_counts=True)
            chosen[f"country={codes[counts.argmax()]}"] = country == codes[counts.argmax()]
            for name, kept in chosen.items():
                served, ranked = (
                    TaskScores.of(scores[kept, column].astype(np.float64), labels[kept], users[kept])
                    for scores in (logits, at_once)
                )
                _, sums = user_sums(served, ranked)
                expected = metrics_of(sums.sum(axis=0)[None], sums.sum(axis=0))
                row = report.row(task, window, name)
                assert row.targets == kept.sum() > 0
                assert row.positives == labels[kept].sum()
                assert row.users == len(np.unique(users[kept]))
                assert row.log_loss.value == pytest.approx(float(expected["log_loss"][0]), abs=1e-5)
                if name == "all":
                    for metric in ("auc", "gauc", "calibration", "ece"):
                        assert getattr(row, metric).value == pytest.approx(float(expected[metric][0]), abs=1e-4)


def test_evaluation_windows_end_with_the_first_window_that_holds_every_history(report: EvaluationReport) -> None:
    assert 32 < report.longest_history <= 64
    assert report.windows == (8, 32, 64)


def test_categories_make_slices_with_the_logs_own_names(tmp_path: Path, publish_rows: Callable[..., None]) -> None:
    """The four most frequent values and the others, of items, requests and users; not of events."""
    lake, day = Lake(tmp_path, EVERY_KIND), date(2026, 3, 1)
    rows = random_rows(EVERY_KIND, 0, users=30)
    for row in rows:
        row["user_country"] = 49
        row["target_device"] = [min(3, device) for device in row["target_device"]]
    publish_rows(lake, day, rows)
    for dataset, categories in (("events", {"color": [[2, "red", 9], [3, "blue", 1]]}), ("users", {"country": []})):
        lake.writer(dataset, day).commit(digest="0" * 16, inputs={}, details={"categories": categories})
    names = category_names(lake, day)
    assert names == {"color": {2: "red", 3: "blue"}, "country": {}}
    eval_set = load_eval_set(lake, day_groups(lake, day), ("click",), lambda kept: kept, names=names)
    slices = eval_set.slices()
    color = np.concatenate([row["target_color"] for part in (rows[::2], rows[1::2]) for row in part])
    values, counts = np.unique(color, return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")]
    assert len(values) == 6
    named = {-1: "unknown", 2: "red", 3: "blue"}
    expected = {f"color={named.get(code, code)}": color == code for code in frequent[:4].tolist()}
    expected["other color"] = np.isin(color, frequent[4:])
    assert [name for name in slices if "color" in name] == list(expected)
    for name, chosen in expected.items():
        np.testing.assert_array_equal(slices[name], chosen)
    assert {name for name in slices if "device" in name} <= {f"device={code}" for code in (0, 1, 2, 3, "unknown")} | {
        "other device"
    }
    assert not [name for name in slices if name.startswith(("country", "screen", "other country", "other screen"))]


def test_the_eval_set_locates_the_longest_history(lake: Lake, days: list[date], config: Config) -> None:
    groups = day_groups(lake, days[3])
    eval_set = load_eval_set(lake, groups, config.tasks, lambda rows: rows)
    lengths = read_rows(lake, [groups[eval_set.longest_group]]).history_lengths
    assert lengths[eval_set.longest_request] == eval_set.longest_history == eval_set.history.max() > 32


def test_every_slice_has_a_line_and_those_that_gates_compare_keep_replicates(
    report: EvaluationReport, config: Config
) -> None:
    lines = [(row.task, row.window, row.slice_name) for row in report.rows]
    assert sorted(lines) == sorted((t, w, s) for t in report.tasks for w in report.windows for s in report.slices)
    assert {"all", "new users", "returning users", "history<32", "history>=2048", "surface=0"} < set(report.slices)
    assert report.row("click", 64, "history>=2048").users == 0
    assert report.row("click", 64, "history>=2048").auc.value is None
    for row in report.rows:
        if row.slice_name == "all":
            for metric in (row.auc, row.gauc, row.log_loss, row.calibration, row.ece):
                assert len(metric.draws) == config.evaluation.bootstrap_draws
                assert metric.low < metric.high
                if metric is not row.ece:  # which noise only raises
                    assert metric.low <= metric.value <= metric.high
    reference_and_longest = [bool(report.row("click", window, "history<32").auc.draws) for window in report.windows]
    assert reference_and_longest == [False, True, True]  # trained on 24 events in the mean: nearest is 32


def test_the_gain_of_a_long_window_is_the_paired_difference_of_its_lines(report: EvaluationReport) -> None:
    gains = {(g.task, g.slice_name): g for g in report.window_gains}
    assert {"all", "returning users"} <= {s for _, s in gains}
    gain = gains["click", "all"]
    assert (gain.reference, gain.longest) == (report.reference_window, report.windows[-1]) == (32, 64)
    long, reference = report.row("click", 64).auc, report.row("click", 32).auc
    assert gain.gain.value == pytest.approx(long.value - reference.value)  # type: ignore[operator]
    np.testing.assert_allclose(gain.gain.draws, np.subtract(long.draws, reference.draws), atol=1e-7)
    assert gain.gain.high - gain.gain.low < long.high - long.low  # type: ignore[operator]
    within = gains["click", "history<32"].gain  # histories there are not longer than the reference window
    assert (within.value, within.low, within.high) == (0, 0, 0)


def test_the_reliability_bins_hold_every_target_once(report: EvaluationReport) -> None:
    for task in report.tasks:
        bins = [b for b in report.reliability if b.task == task]
        row = report.row(task, report.windows[-1])
        assert sum(b.targets for b in bins) == row.targets
        assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)
        assert sum(b.targets * b.observed.value for b in bins) == pytest.approx(row.positives)  # type: ignore[operator]


def test_the_report_names_what_it_was_made_from(
    report: EvaluationReport, model_dir: Path, lake: Lake, days: list[date], config: Config
) -> None:
    assert report.quality == DataQuality(passed=True, warnings=())
    named = evaluate(model_dir, lake, days[3], config, policy_digest="p", code_version="c")
    assert (named.policy_digest, named.code_version, named.config_digest) == ("p", "c", config.digest())
    assert named.model_digest == model_digest(model_dir)
    assert named.extra["data_watermark"] == str(days[1])


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


def test_cost_names_its_shape_and_device_and_progress_is_reported(
    model_dir: Path, lake: Lake, days: list[date], config: Config
) -> None:
    progress: list[tuple[str, float]] = []
    report = evaluate(model_dir, lake, days[3], config, on_progress=lambda *step: progress.append(step))
    cost = report.scoring
    assert cost is not None
    assert cost.shape == "128 events x 128 candidates"  # the longest configured window, not the day's longest history
    assert cost.device == "cpu, 1 threads"
    assert 0 < cost.latency_low_ms <= cost.latency_ms <= cost.latency_high_ms
    assert 50 < cost.peak_memory_mib < 20_000
    shares = [share for _, share in progress]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == 1
    assert list(dict.fromkeys(what for what, _ in progress)) == [
        "window 8",
        "window 32",
        "window 64",
        "scoring cost and consistency",
    ]
    assert len(progress) > 3 * 2 * 2  # windows, twice each, several row groups


def test_missing_day_and_empty_day_are_errors(
    model_dir: Path, own_lake: Lake, config: Config, publish_rows: Callable[..., None]
) -> None:
    with pytest.raises(DataNotReadyError):
        evaluate(model_dir, own_lake, date(2030, 1, 1), config)
    publish_rows(own_lake, date(2026, 2, 1), [])
    with pytest.raises(LongreelError, match="hold no targets"):
        evaluate(model_dir, own_lake, date(2026, 2, 1), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"fields": {"color": {"place": "item"}}}, None),  # the model does not know it
        (
            {"fields": {"tag": {"from": "lower(tag)"}}},
            r"field tag was declared with from lower\(tag\), is with from tag",
        ),
        ({"fields": {"country": None}}, "field country was added, and is not optional"),
        ({"fields": {"tag": None}}, None),  # optional
        (
            {"actions": [{"name": "click", "when": "clicked = 1", "at": ""}]},
            "action click was when clicked = 1, is when",
        ),
        ({"labels": [{"name": "hate", "kind": "binary", "sql": "1 = 1", "within_ms": 0}]}, None),  # no task
        ({"labels": [{"name": "like", "kind": "binary", "sql": "1 = 1", "within_ms": 0}]}, "label like was sql 1 = 1"),
    ],
)
def test_a_day_whose_values_mean_something_else_is_refused(
    change: dict[str, Any], message: str | None, config: Config, model_dir: Path, own_lake: Lake, days: list[date]
) -> None:
    """`change` of the definitions in the day's manifest; a field that becomes None is removed."""
    definitions = sample_definitions(config)
    for name, value in change.get("fields", {}).items():
        definitions["fields"][name] = value and definitions["fields"].get(name, {}) | value
    definitions["fields"] = {name: value for name, value in definitions["fields"].items() if value}
    for kind in ("actions", "labels"):
        changed = {value["name"]: value for value in change.get(kind, [])}
        definitions[kind] = [changed.get(value["name"], value) for value in definitions[kind]]
    with_definitions(own_lake, days[3], definitions)
    if message is None:
        evaluate(model_dir, own_lake, days[3], config)
    else:
        with pytest.raises(LongreelError, match=message):
            evaluate(model_dir, own_lake, days[3], config)


def with_definitions(lake: Lake, day: date, definitions: dict[str, Any]) -> None:
    manifest = lake.require("samples", day)
    lake.rewrite_manifest(replace(manifest, details={**manifest.details, "definitions": definitions}))


def test_a_day_whose_labels_have_other_bits_is_refused(
    config: Config, model_dir: Path, own_lake: Lake, days: list[date]
) -> None:
    definitions = sample_definitions(config)
    definitions["labels"] = definitions["labels"][::-1]
    with_definitions(own_lake, days[3], definitions)
    with pytest.raises(LongreelError, match=r"have the labels skip, finish.* but \[labels\] now declares click, like"):
        evaluate(model_dir, own_lake, days[3], config)


def test_day_scored_by_row_groups_equals_scored_at_once(model_dir: Path, lake: Lake, days: list[date]) -> None:
    ranker, _ = load_model(model_dir)
    groups = day_groups(lake, days[3])
    assert len(groups) > 2
    whole = score_rows(
        ranker, SampleRows.from_arrow(lake.read(lake.require("samples", days[3])), lake.log_schema), 32, CPU
    )
    np.testing.assert_allclose(score_day(ranker, lake, groups, 32, CPU), whole, rtol=1e-4, atol=1e-5)


def test_longer_windows_rescore_only_who_has_more_history(model_dir: Path, lake: Lake, days: list[date]) -> None:
    ranker, _ = load_model(model_dir)
    groups = day_groups(lake, days[3])
    short, long = (score_day(ranker, lake, groups, window, CPU) for window in (8, 64))
    assert np.abs(long - short).max() > 1e-3
    again = score_day(ranker, lake, groups, 64, CPU, cached=CachedLogits(8, short))
    np.testing.assert_allclose(again, long, rtol=1e-4, atol=1e-5)
    marked = score_day(ranker, lake, groups, 64, CPU, cached=CachedLogits(8, short + 100))
    rows = SampleRows.from_arrow(lake.read(lake.require("samples", days[3])), lake.log_schema)
    kept = np.repeat(rows.history_lengths <= 8, rows.target_counts)
    assert ((marked > 50).all(axis=1) == kept).all()


def test_token_batches_hold_every_request_once_within_the_budget() -> None:
    tokens = np.random.default_rng(0).integers(1, 300, 500)
    batches = token_batches(tokens, 1_000)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert max(tokens[batch].sum() for batch in batches) <= 1_300
    assert token_batches(np.zeros(0, np.int64), 1_000) == []
