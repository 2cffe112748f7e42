"""Metrics of number tasks against formulas written out, and their replicates against users drawn by hand."""

import numpy as np
import pytest

from longreel.model.evaluation.bootstrap import bootstrap_weights, weighted_totals
from longreel.model.evaluation.number_metrics import NumberScores, number_metrics, number_metrics_of, number_sums

USERS = 9


def make(seed: int, targets: int = 120, mean: float = 5.0) -> NumberScores:
    """Users of uneven size, one of them without targets."""
    rng = np.random.default_rng(seed)
    labels = mean + rng.normal(0, 2, targets)
    predicted = np.sort(labels + rng.normal(0.2, 1, targets))
    return NumberScores(predicted, labels, rng.integers(0, USERS - 1, targets))


def naive(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    error = predicted - labels
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "r2": 1 - float(np.sum(error**2) / np.sum((labels - labels.mean()) ** 2)),
        "calibration": float(predicted.sum() / labels.sum()),
    }


@pytest.mark.parametrize("mean", [5.0, -5.0, 1e7])
def test_metrics_and_replicates_equal_naive_formulas(mean: float) -> None:
    scores, weights = make(1, mean=mean), bootstrap_weights(USERS, 25, seed=3)
    users, values, replicates = number_metrics(scores, weights)
    assert len(users) == len(np.unique(scores.user))
    assert values == pytest.approx(naive(scores.predicted, scores.labels))
    for draw, row in enumerate(weights):
        times = row[scores.user]
        expected = naive(np.repeat(scores.predicted, times), np.repeat(scores.labels, times))
        assert {name: value[draw] for name, value in replicates.items()} == pytest.approx(expected)


def test_part_of_the_targets_keeps_the_users_ordinals() -> None:
    scores, weights = make(2), bootstrap_weights(USERS, 10, seed=0)
    chosen = scores.user < 4
    users, sums = number_sums(scores.where(chosen))
    whole_users, whole_sums = number_sums(scores)
    kept = whole_users < 4
    assert (users == whole_users[kept]).all()
    rmse = [
        number_metrics_of(weighted_totals(weights, *pair))["rmse"]
        for pair in ((users, sums), (users, whole_sums[kept]))
    ]
    np.testing.assert_allclose(*rmse)


def test_equal_labels_have_no_r2_in_all_users_and_in_a_replicate() -> None:
    user, weights = np.arange(70) % 7, bootstrap_weights(7, 60, 0)
    labels = np.where(user == 0, np.linspace(1, 3, 70), 0.0)  # one user alone has labels that differ
    scores = NumberScores(labels + np.linspace(-1, 1, 70), labels, user)
    _, values, replicates = number_metrics(scores, weights)
    assert values["r2"] < 1
    assert (np.isnan(replicates["r2"]) == (weights[:, 0] == 0)).all()
    assert np.isnan(replicates["r2"]).sum() > 10
    assert np.isfinite(replicates["rmse"]).all()
    _, values, _ = number_metrics(scores.where(user != 0), weights)
    assert np.isnan(values["r2"])


def test_a_mean_label_near_zero_has_no_calibration() -> None:
    rng = np.random.default_rng(0)
    labels, user = rng.normal(0, 1, 500), np.repeat(np.arange(100), 5)
    weights = bootstrap_weights(100, 200, 0)
    near, far = (number_metrics(NumberScores(x, x, user), weights)[1] for x in (labels, labels + 1))
    assert np.isnan(near["calibration"])
    assert far["calibration"] == pytest.approx(1)
    assert near["rmse"] == 0


def test_no_targets_have_no_value() -> None:
    nothing = NumberScores(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    users, values, _ = number_metrics(nothing, bootstrap_weights(5, 20, 0))
    assert len(users) == 0
    assert np.isnan(list(values.values())).all()
