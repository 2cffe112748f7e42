"""Report rows of binary and number tasks over an evaluation set whose targets are few enough to count."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from longreel.contracts.report import MetricRow
from longreel.model.evaluation.bootstrap import bootstrap_weights
from longreel.model.evaluation.report_builder import ReportBuilder, window_gains

USERS, TARGETS = 50, 1_000
TASKS = ("click", "spent")


def make(labels: np.ndarray) -> ReportBuilder:
    user = np.repeat(np.arange(USERS), TARGETS // USERS)
    slices = {"all": np.ones(TARGETS, bool), "device=phone": user % 3 == 0, "device=tv": np.zeros(TARGETS, bool)}
    eval_set: Any = SimpleNamespace(
        labels=labels.astype(np.float32), user=user, request=np.arange(TARGETS) // 5, slices=lambda: slices
    )
    weights = bootstrap_weights(USERS, 40, 0)
    return ReportBuilder(eval_set=eval_set, tasks=TASKS, weights=weights, interval=0.95, number_tasks=("spent",))


@pytest.fixture(name="day")
def make_day() -> tuple[ReportBuilder, np.ndarray]:
    """Clicks that a logit ranks, and an amount that every second target has."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, TARGETS)
    spent = np.where(np.arange(TARGETS) % 2, np.nan, 3 + truth)
    labels = np.stack([rng.random(TARGETS) < 1 / (1 + np.exp(-truth)), spent], axis=1)
    scores = np.stack([truth, 3 + truth + rng.normal(0, 0.5, TARGETS)], axis=1).astype(np.float32)
    return make(labels), scores


def row(rows: list[MetricRow], task: str, part: str = "all") -> MetricRow:
    return next(r for r in rows if (r.task, r.slice_name) == (task, part))


def test_a_target_without_a_value_is_in_no_metric_of_its_task(day: tuple[ReportBuilder, np.ndarray]) -> None:
    builder, scores = day
    rows = builder.rows(scores, 64, keep_draws=True)
    spent, click = row(rows, "spent"), row(rows, "click")
    assert (spent.targets, click.targets) == (TARGETS // 2, TARGETS)
    labels = builder.eval_set.labels[:, 1]
    labelled = ~np.isnan(labels)
    error = scores[labelled, 1].astype(np.float64) - labels[labelled]
    assert spent.rmse.value == pytest.approx(np.sqrt((error**2).mean()))
    assert spent.calibration.value == pytest.approx(scores[labelled, 1].mean() / labels[labelled].mean(), rel=1e-5)
    wild = scores.copy()
    wild[~labelled, 1] = 1e6  # predictions of the others change nothing
    assert builder.rows(wild, 64, keep_draws=True) == rows
    assert builder.reliability(wild) == builder.reliability(scores)


def test_rows_have_the_metrics_of_their_kind_and_draws_of_those_that_gates_compare(
    day: tuple[ReportBuilder, np.ndarray],
) -> None:
    builder, scores = day
    rows = builder.rows(scores, 64, keep_draws=True)
    spent, click = row(rows, "spent"), row(rows, "click")
    assert (spent.auc.value, spent.log_loss.value, spent.positives) == (None, None, 0)
    assert (click.rmse.value, click.r2.value) == (None, None)
    assert click.auc.value is not None
    assert len(spent.rmse.draws) == len(spent.r2.draws) == 40
    phone = row(rows, "spent", "device=phone")
    assert (len(phone.rmse.draws), len(phone.mae.draws)) == (40, 0)
    assert not row(builder.rows(scores, 64, keep_draws=False), "spent", "device=phone").rmse.draws
    empty = row(rows, "spent", "device=tv")
    assert (empty.users, empty.targets, empty.requests, empty.rmse.value) == (0, 0, 0, None)
    assert phone.users == 17
    assert phone.requests == len(np.unique(builder.eval_set.request[builder.eval_set.user % 3 == 0]))


def test_draws_in_label_units_keep_their_digits(day: tuple[ReportBuilder, np.ndarray]) -> None:
    builder, scores = day
    labels, small = builder.eval_set.labels.copy(), scores.copy()
    labels[:, 1] *= 1e-6
    small[:, 1] *= 1e-6
    whole, tiny = (row(b.rows(s, 64, True), "spent").rmse for b, s in ((builder, scores), (make(labels), small)))
    np.testing.assert_allclose(np.array(tiny.draws) * 1e6, whole.draws, rtol=1e-6)


def test_reliability_of_a_number_task_compares_means(day: tuple[ReportBuilder, np.ndarray]) -> None:
    builder, scores = day
    bins = [b for b in builder.reliability(scores) if b.task == "spent"]
    labels = builder.eval_set.labels[:, 1]
    assert sum(b.targets for b in bins) == TARGETS // 2
    assert sum(b.targets * (b.observed.value or 0) for b in bins) == pytest.approx(np.nansum(labels), rel=1e-5)
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)
    assert bins[-1].predicted > 4  # label units


def test_a_window_that_lowers_rmse_gains_the_share_that_it_saves(day: tuple[ReportBuilder, np.ndarray]) -> None:
    builder, scores = day
    worse = scores.copy()
    worse[:, 1] = 2 * worse[:, 1] - builder.eval_set.labels[:, 1]  # twice the error, where there is a label
    rows = builder.rows(worse, 8, True) + builder.rows(scores, 64, True)
    gains = {(g.task, g.slice_name): g for g in window_gains(rows, (8, 64), 8, 0.95, ("spent",))}
    assert gains["spent", "all"].gain.value == pytest.approx(0.5, abs=1e-6)
    assert gains["click", "all"].gain.value == 0
    assert ("spent", "device=tv") not in gains
