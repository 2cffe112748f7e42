"""Metrics against formulas written out pair by pair."""

import numpy as np
import pytest

from model.metrics import TaskScores, bootstrap_weights


def make(seed: int, targets: int = 120, users: int = 9, levels: int = 12) -> TaskScores:
    """Scores with many ties and users of uneven size, one of them without targets."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-levels, levels, targets) / 4
    return TaskScores(logits, rng.random(targets) < 0.35, rng.integers(0, users - 1, targets), users)


def repeat(scores: TaskScores, weights: np.ndarray) -> TaskScores:
    """Each user's targets repeated as often as the user was drawn."""
    times = weights[scores.user]
    return TaskScores(*(np.repeat(x, times) for x in (scores.logits, scores.labels, scores.user)), scores.num_users)


def naive_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    pairs = [(p > n) + 0.5 * (p == n) for p in logits[labels] for n in logits[~labels]]
    return float(np.mean(pairs)) if pairs else float("nan")


def naive_gauc(scores: TaskScores) -> float:
    total = weight = 0.0
    for user in range(scores.num_users):
        own = scores.user == user
        auc = naive_auc(scores.logits[own], scores.labels[own])
        if not np.isnan(auc):
            total, weight = total + auc * own.sum(), weight + own.sum()
    return total / weight if weight else float("nan")


def naive_log_loss(scores: TaskScores) -> float:
    p = 1 / (1 + np.exp(-scores.logits))
    return float(np.mean([-np.log(q if y else 1 - q) for q, y in zip(p, scores.labels, strict=True)]))


def naive_calibration(scores: TaskScores) -> float:
    return float((1 / (1 + np.exp(-scores.logits))).sum() / scores.labels.sum())


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_naive_formulas(seed: int) -> None:
    scores = make(seed)
    assert scores.auc()[0] == pytest.approx(naive_auc(scores.logits, scores.labels), abs=1e-12)
    assert scores.gauc()[0] == pytest.approx(naive_gauc(scores), abs=1e-12)
    assert scores.log_loss()[0] == pytest.approx(naive_log_loss(scores))
    assert scores.calibration()[0] == pytest.approx(naive_calibration(scores))


def test_weighted_replicates_equal_repeating_the_users_targets() -> None:
    scores = make(7)
    weights = bootstrap_weights(scores.num_users, 25, seed=3)
    drawn = [repeat(scores, row) for row in weights]
    assert scores.auc(weights) == pytest.approx([naive_auc(d.logits, d.labels) for d in drawn], abs=1e-12)
    assert scores.log_loss(weights) == pytest.approx([naive_log_loss(d) for d in drawn])
    assert scores.calibration(weights) == pytest.approx([naive_calibration(d) for d in drawn])
    per_user, totals = scores.user_auc()
    kept = ~np.isnan(per_user)
    expected = [(row * totals * np.nan_to_num(per_user))[kept].sum() / (row * totals)[kept].sum() for row in weights]
    assert scores.gauc(weights) == pytest.approx(expected)


def test_replicates_in_chunks_equal_replicates_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, weights = make(2), bootstrap_weights(9, 20, seed=0)
    whole = scores.auc(weights)
    monkeypatch.setattr("model.metrics._CHUNK_ELEMENTS", 300)
    assert (scores.auc(weights) == whole).all()


def test_replicates_depend_on_the_users_and_seed_alone() -> None:
    assert (bootstrap_weights(50, 20, 1) == bootstrap_weights(50, 20, 1)).all()
    assert (bootstrap_weights(50, 20, 1) != bootstrap_weights(50, 20, 2)).any()
    assert (bootstrap_weights(50, 20, 1).sum(axis=1) == 50).all()


def test_one_class_or_no_targets_has_no_value() -> None:
    one_class = TaskScores(np.array([0.1, 0.2]), np.array([True, True]), np.array([0, 0]), 1)
    nothing = TaskScores(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), 3)
    assert np.isnan([one_class.auc()[0], one_class.gauc()[0]]).all()
    assert np.isnan([m()[0] for m in (nothing.auc, nothing.gauc, nothing.log_loss, nothing.calibration)]).all()


def test_extreme_logits_have_a_finite_log_loss() -> None:
    scores = TaskScores(np.array([800.0, -800.0]), np.array([False, True]), np.array([0, 0]), 1)
    assert scores.log_loss()[0] == pytest.approx(800)


def test_slice_keeps_the_users_ordinals() -> None:
    scores = make(1)
    part = scores.of_users(np.arange(9) < 4)
    assert part.num_users == 9
    assert part.auc()[0] == pytest.approx(naive_auc(*(x[scores.user < 4] for x in (scores.logits, scores.labels))))
