"""Training windows: the distribution asked for, and the same draw however it is asked."""

from dataclasses import replace

import numpy as np
import pytest

from longreel.contracts.config import TrainingConfig
from longreel.contracts.errors import LongreelError
from longreel.model.data.windows import WindowSampler, beta_cdf, beta_parameters, distribution

CONFIG = TrainingConfig(window_min=64, window_mean=2_048, window_max=10_240, window_alpha=0.2)


def test_draws_do_not_depend_on_what_was_drawn_before() -> None:
    sampler = WindowSampler(CONFIG)
    index = np.arange(1_000)
    whole = sampler.sample(3, index)
    shuffled = np.random.default_rng(0).permutation(index)
    assert (sampler.sample(3, shuffled) == whole[shuffled]).all()
    assert (WindowSampler(CONFIG).sample(3, index[500:501]) == whole[500:501]).all()


def test_seed_and_epoch_change_the_draws() -> None:
    index = np.arange(1_000)
    first = WindowSampler(CONFIG).sample(0, index)
    assert (first != WindowSampler(CONFIG).sample(1, index)).mean() > 0.5
    assert (first != WindowSampler(replace(CONFIG, seed=1)).sample(0, index)).mean() > 0.5


def test_windows_are_multiples_of_8_within_bounds_with_the_pinned_mean() -> None:
    windows = WindowSampler(CONFIG).sample(0, np.arange(400_000))
    assert (windows % 8 == 0).all()
    assert windows.min() == 64
    assert windows.max() == 10_240
    assert abs(windows.mean() - 2_048) < 25  # four standard errors


def test_small_alpha_is_u_shaped_and_matches_beta_draws() -> None:
    config = replace(CONFIG, window_min=8, window_max=808, window_mean=208)
    sampler = WindowSampler(config)
    a, b = beta_parameters(config, 208)
    assert (a, b) == (0.2, pytest.approx(0.2 * 600 / 200))
    ours = sampler.sample(0, np.arange(200_000))
    draws = np.random.default_rng(0).beta(a, b, 200_000)
    theirs = np.round((8 + draws * 800) / 8) * 8
    edges = np.arange(4, 820, 80)
    drawn, expected = np.histogram(ours, edges)[0] / 2e5, np.histogram(theirs, edges)[0] / 2e5
    assert np.abs(drawn - expected).max() < 0.006
    assert drawn[0] > 3 * drawn[5]
    assert drawn[-1] > 1.4 * drawn[5]  # U-shaped


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.6), (1.0, 1.0), (3.0, 0.5), (0.1, 8.0)])
def test_beta_cdf_agrees_with_random_draws(a: float, b: float) -> None:
    draws = np.random.default_rng(1).beta(a, b, 400_000)
    for x in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert beta_cdf(np.array([x]), a, b)[0] == pytest.approx((draws <= x).mean(), abs=0.004)
    assert beta_cdf(np.array([0.0, 1.0]), a, b).tolist() == [0.0, 1.0]


def test_drawn_windows_have_the_configured_mean_and_shares() -> None:
    sampler = WindowSampler(CONFIG)
    windows = distribution(sampler, sampler.sample(0, np.arange(200_000)))
    assert windows["drawn_mean"] == pytest.approx(windows["configured_mean"], rel=0.02)
    assert sum(windows["configured_share"]) == pytest.approx(1)
    assert np.abs(np.subtract(windows["configured_share"], windows["drawn_share"])).max() < 0.01


@pytest.mark.parametrize("growth", [3.0, 1 / 3])
def test_windows_that_grow_keep_the_mean_and_a_requests_place_among_them(growth: float) -> None:
    index = np.arange(200_000)
    sampler = WindowSampler(replace(CONFIG, window_curriculum=growth))
    first, second = (sampler.sample(0, index, phase) for phase in (0, 1))
    assert second.mean() == pytest.approx(growth * first.mean(), rel=0.03)
    assert (first.mean() + second.mean()) / 2 == pytest.approx(2_048, rel=0.02)
    assert ((first <= second) if growth > 1 else (first >= second)).all()  # the same quantile of both
    windows = distribution(sampler, np.concatenate([first, second]))
    assert windows["configured_mean"] == pytest.approx(2_048, rel=0.003)
    assert np.abs(np.subtract(windows["configured_share"], windows["drawn_share"])).max() < 0.01


def test_a_growth_that_leaves_the_windows_bounds_is_refused() -> None:
    for growth, message in ((40.0, "makes 100"), (0.02, "makes 80"), (0.0, "positive"), (-1.0, "positive")):
        with pytest.raises(LongreelError, match=message):
            replace(CONFIG, window_mean=2_048, window_min=128, window_curriculum=growth)
