"""Report rows of binary and number tasks over an evaluation set whose targets are few enough to count."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from longreel.contracts.report import MetricRow
from longreel.model.evaluation.bootstrap import bootstrap_weights
from longreel.model.evaluation.metrics import TaskScores, metrics_of, user_sums
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
    rows = builder.rows(scores, scores, 64, keep_draws=True)
    spent, click = row(rows, "spent"), row(rows, "click")
    assert (spent.targets, click.targets) == (TARGETS // 2, TARGETS)
    labels = builder.eval_set.labels[:, 1]
    labelled = ~np.isnan(labels)
    error = scores[labelled, 1].astype(np.float64) - labels[labelled]
    assert spent.rmse.value == pytest.approx(np.sqrt((error**2).mean()))
    assert spent.calibration.value == pytest.approx(scores[labelled, 1].mean() / labels[labelled].mean(), rel=1e-5)
    wild = scores.copy()
    wild[~labelled, 1] = 1e6  # predictions of the others change nothing
    assert builder.rows(wild, wild, 64, keep_draws=True) == rows
    assert builder.reliability(wild) == builder.reliability(scores)


def test_gauc_ranks_what_is_scored_at_once(day: tuple[ReportBuilder, np.ndarray]) -> None:
    builder, scores = day
    at_once = scores.copy()
    at_once[:, 0] = -scores[:, 0]
    served, mixed, other = (
        row(builder.rows(a, b, 64, keep_draws=True), "click")
        for a, b in ((scores, scores), (scores, at_once), (at_once, at_once))
    )
    assert mixed.gauc == other.gauc != served.gauc
    assert (mixed.auc, mixed.log_loss, mixed.ece) == (served.auc, served.log_loss, served.ece)


def test_what_is_learned_during_the_day_spoils_the_ranking_within_a_user_unless_scored_at_once() -> None:
    """Users click at constant rates, and items rank alike for all. A posterior mean of the rate that knows the day's
    earlier clicks predicts better, and ranks a user's targets worse: after a click it is higher, while fewer of that
    user's clicks are left."""
    rng = np.random.default_rng(0)
    users, targets = 20_000, 3
    logit, item = rng.normal(0, 1.5, (users, 1)), rng.normal(0, 0.5, (users, targets))
    click = rng.random((users, targets)) < 1 / (1 + np.exp(-logit - item))
    earlier = np.cumsum(click, axis=1) - click
    learned = np.log((1 + earlier) / (1 + np.arange(targets) - earlier)) + item
    user = np.repeat(np.arange(users), targets)
    served, known_before = (TaskScores.of(s.ravel(), click.ravel(), user) for s in (learned, item))
    _, sums = user_sums(served)
    _, at_once = user_sums(served, known_before)
    gauc, fair = (float(metrics_of(s.sum(axis=0)[None], s.sum(axis=0))["gauc"][0]) for s in (sums, at_once))
    assert served.exact_auc()[0] > known_before.exact_auc()[0] + 0.05
    assert gauc < 0.5 < fair - 0.1


def test_rows_have_the_metrics_of_their_kind_and_draws_of_those_that_gates_compare(
    day: tuple[ReportBuilder, np.ndarray],
) -> None:
    builder, scores = day
    rows = builder.rows(scores, scores, 64, keep_draws=True)
    spent, click = row(rows, "spent"), row(rows, "click")
    assert (spent.auc.value, spent.log_loss.value, spent.positives) == (None, None, 0)
    assert (click.rmse.value, click.r2.value) == (None, None)
    assert click.auc.value is not None
    assert len(spent.rmse.draws) == len(spent.r2.draws) == 40
    phone = row(rows, "spent", "device=phone")
    assert (len(phone.rmse.draws), len(phone.mae.draws)) == (40, 0)
    assert not row(builder.rows(scores, scores, 64, keep_draws=False), "spent", "device=phone").rmse.draws
    empty = row(rows, "spent", "device=tv")
    assert (empty.users, empty.targets, empty.requests, empty.rmse.value) == (0, 0, 0, None)
    assert phone.users == 17
    assert phone.requests == len(np.unique(builder.eval_set.request[builder.eval_set.user % 3 == 0]))


def test_draws_in_label_units_keep_their_digits(day: tuple[ReportBuilder, np.ndarray]) -> None:
    builder, scores = day
    labels, small = builder.eval_set.labels.copy(), scores.copy()
    labels[:, 1] *= 1e-6
    small[:, 1] *= 1e-6
    whole, tiny = (row(b.rows(s, s, 64, True), "spent").rmse for b, s in ((builder, scores), (make(labels), small)))
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
    rows = builder.rows(worse, worse, 8, True) + builder.rows(scores, scores, 64, True)
    gains = {(g.task, g.slice_name): g for g in window_gains(rows, (8, 64), 8, 0.95, ("spent",))}
    assert gains["spent", "all"].gain.value == pytest.approx(0.5, abs=1e-6)
    assert gains["click", "all"].gain.value == 0
    assert ("spent", "device=tv") not in gains
