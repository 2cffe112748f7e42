"""Metrics against formulas written out pair by pair, and their replicates against users drawn by hand."""

import numpy as np
import pytest

from longreel.model.evaluation.bootstrap import bootstrap_weights, weighted_totals
from longreel.model.evaluation.metrics import ECE_BINS, TaskScores, metrics_of, user_sums

USERS = 9


def make(seed: int, targets: int = 120, users: int = USERS, levels: int = 12) -> TaskScores:
    """Scores with many ties and users of uneven size, one of them without targets."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-levels, levels, targets) / 4
    return TaskScores.of(logits, rng.random(targets) < 0.35, rng.integers(0, users - 1, targets))


def plain(scores: TaskScores) -> dict[str, float]:
    """Every metric of the scores themselves."""
    _, sums = user_sums(scores)
    whole = sums.sum(axis=0)
    return {name: float(values[0]) for name, values in metrics_of(whole[None], whole).items()}


def replicates(scores: TaskScores, weights: np.ndarray) -> dict[str, np.ndarray]:
    users, sums = user_sums(scores)
    return metrics_of(weighted_totals(weights, users, sums), sums.sum(axis=0))


def repeat(scores: TaskScores, weights: np.ndarray) -> TaskScores:
    """Each user's targets repeated as often as the user was drawn, still in order."""
    times = weights[scores.user]
    return TaskScores(*(np.repeat(x, times) for x in (scores.logits, scores.labels, scores.user)))


def naive_auc(logits: np.ndarray, labels: np.ndarray) -> float:
    pairs = [(p > n) + 0.5 * (p == n) for p in logits[labels] for n in logits[~labels]]
    return float(np.mean(pairs)) if pairs else float("nan")


def naive_gauc(scores: TaskScores) -> float:
    total = weight = 0.0
    for user in range(USERS):
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


def naive_ece(scores: TaskScores) -> float:
    p, n, total = 1 / (1 + np.exp(-scores.logits)), len(scores.logits), 0.0
    for b in range(ECE_BINS):
        own = np.array([i * ECE_BINS // n == b for i in range(n)])
        if own.any():
            total += own.sum() / n * abs(p[own].mean() - scores.labels[own].mean())
    return total


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_naive_formulas(seed: int) -> None:
    scores = make(seed)
    metrics = plain(scores)
    assert metrics["auc"] == pytest.approx(naive_auc(scores.logits, scores.labels), abs=1e-12)
    assert scores.exact_auc()[0] == pytest.approx(metrics["auc"], abs=1e-12)
    placed, pairs = scores.placements(), scores.labels.sum() * (~scores.labels).sum()
    for own in (scores.labels, ~scores.labels):  # seen from either side, ties and all
        assert placed[own].sum() / pairs == pytest.approx(metrics["auc"], abs=1e-12)
    assert metrics["gauc"] == pytest.approx(naive_gauc(scores), abs=1e-12)
    assert metrics["log_loss"] == pytest.approx(naive_log_loss(scores))
    assert metrics["calibration"] == pytest.approx(naive_calibration(scores))
    assert metrics["ece"] == pytest.approx(naive_ece(scores))


def test_replicates_equal_repeating_the_users_targets() -> None:
    scores = make(7)
    weights = bootstrap_weights(USERS, 25, seed=3)
    drawn = [repeat(scores, row) for row in weights]
    metrics = replicates(scores, weights)
    assert scores.exact_auc(weights) == pytest.approx([naive_auc(d.logits, d.labels) for d in drawn], abs=1e-12)
    assert metrics["log_loss"] == pytest.approx([naive_log_loss(d) for d in drawn])
    assert metrics["calibration"] == pytest.approx([naive_calibration(d) for d in drawn])
    users, per_user, totals = scores.user_auc()
    kept = ~np.isnan(per_user)
    times = weights[:, users]
    expected = [(row * totals * np.nan_to_num(per_user))[kept].sum() / (row * totals)[kept].sum() for row in times]
    assert metrics["gauc"] == pytest.approx(expected)
    gap = np.exp(-np.logaddexp(0, -scores.logits)) - scores.labels
    place = np.arange(120) * ECE_BINS // 120  # bins stay those of the whole
    by_hand = [
        np.abs([(row[scores.user] * gap)[place == b].sum() for b in range(ECE_BINS)]).sum() / row[scores.user].sum()
        for row in weights
    ]
    assert metrics["ece"] == pytest.approx(by_hand)


@pytest.mark.parametrize(("users", "targets"), [(40, 400), (200, 2_000), (1_000, 12_000)])
def test_first_order_replicates_of_auc_are_close_to_exact_ones(users: int, targets: int) -> None:
    rng = np.random.default_rng(users)
    user = rng.integers(0, users, targets)
    truth = rng.normal(-1, 1, targets) + rng.normal(0, 0.7, users)[user]  # users differ: targets are not independent
    labels = rng.random(targets) < 1 / (1 + np.exp(-truth))
    models = [TaskScores.of(truth + rng.normal(0, spread, targets), labels, user) for spread in (1.0, 1.1)]
    weights = bootstrap_weights(users, 400, seed=0)
    exact, quick = (
        np.array([f(m) for m in models])
        for f in (lambda m: m.exact_auc(weights), lambda m: replicates(m, weights)["auc"])
    )
    for a, b in [(exact[0], quick[0]), (exact[0] - exact[1], quick[0] - quick[1])]:
        assert np.corrcoef(a, b)[0, 1] > 1 - 2 / users
        assert np.std(b) == pytest.approx(np.std(a), rel=4 / np.sqrt(users) / 5)
        assert np.quantile(b, 0.05) == pytest.approx(np.quantile(a, 0.05), abs=0.1 * np.std(a))


def test_blocks_of_users_equal_all_users_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, weights = make(2), bootstrap_weights(USERS, 20, seed=0)
    whole = replicates(scores, weights)
    exact = scores.exact_auc(weights)
    monkeypatch.setattr("longreel.model.evaluation.bootstrap._BLOCK_USERS", 2)
    monkeypatch.setattr("longreel.model.evaluation.metrics._CHUNK_ELEMENTS", 300)
    for name, values in replicates(scores, weights).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)
    assert (scores.exact_auc(weights) == exact).all()


def test_replicates_depend_on_the_users_and_seed_alone() -> None:
    assert (bootstrap_weights(50, 20, 1) == bootstrap_weights(50, 20, 1)).all()
    assert (bootstrap_weights(50, 20, 1) != bootstrap_weights(50, 20, 2)).any()
    assert (bootstrap_weights(50, 20, 1).sum(axis=1, dtype=int) == 50).all()


def test_one_class_or_no_targets_has_no_value() -> None:
    one_class = TaskScores.of(np.array([0.1, 0.2]), np.array([True, True]), np.array([0, 0]))
    nothing = TaskScores.of(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64))
    assert np.isnan([plain(one_class)["auc"], plain(one_class)["gauc"], one_class.exact_auc()[0]]).all()
    assert np.isfinite([plain(one_class)["log_loss"], plain(one_class)["calibration"]]).all()
    assert np.isnan(list(plain(nothing).values())).all()


def test_extreme_logits_have_a_finite_log_loss() -> None:
    scores = TaskScores.of(np.array([800.0, -800.0]), np.array([False, True]), np.array([0, 0]))
    assert plain(scores)["log_loss"] == pytest.approx(800)


def test_part_of_the_targets_keeps_the_users_ordinals() -> None:
    scores = make(1)
    chosen = scores.user < 4
    part = scores.where(chosen)
    assert plain(part)["auc"] == pytest.approx(naive_auc(scores.logits[chosen], scores.labels[chosen]))
    weights = bootstrap_weights(USERS, 10, seed=0)
    assert replicates(part, weights)["log_loss"] == pytest.approx(
        [naive_log_loss(repeat(part, row)) for row in weights]
    )
