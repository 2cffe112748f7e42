"""Training windows: the distribution asked for, and the same draw however it is asked."""

from dataclasses import replace

import numpy as np
import pytest

from longreel.contracts.config import WINDOW_PARTS, WINDOW_SHAPES, TrainingConfig
from longreel.contracts.errors import LongreelError
from longreel.model.data.windows import WindowSampler, beta_cdf, distribution

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
    [stage] = sampler.stages
    assert stage.beta == pytest.approx(0.2 * 600 / 200)
    ours = sampler.sample(0, np.arange(200_000))
    draws = np.random.default_rng(0).beta(stage.alpha, stage.beta, 200_000)
    theirs = np.round((8 + draws * 800) / 8) * 8
    edges = np.arange(4, 820, 80)
    a, b = np.histogram(ours, edges)[0] / 2e5, np.histogram(theirs, edges)[0] / 2e5
    assert np.abs(a - b).max() < 0.006
    assert a[0] > 3 * a[5]
    assert a[-1] > 1.4 * a[5]  # U-shaped


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.6), (1.0, 1.0), (3.0, 0.5), (0.1, 8.0)])
def test_beta_cdf_agrees_with_random_draws(a: float, b: float) -> None:
    draws = np.random.default_rng(1).beta(a, b, 400_000)
    for x in (0.001, 0.1, 0.5, 0.9, 0.999):
        assert beta_cdf(np.array([x]), a, b)[0] == pytest.approx((draws <= x).mean(), abs=0.004)
    assert beta_cdf(np.array([0.0, 1.0]), a, b).tolist() == [0.0, 1.0]


def test_other_shapes_keep_the_mean_or_are_one_window() -> None:
    index = np.arange(100_000)
    drawn = {name: WindowSampler(replace(CONFIG, window_shape=name)).sample(0, index) for name in WINDOW_SHAPES}
    assert set(drawn["fixed"]) == {2_048}
    assert set(drawn["full"]) == {10_240}
    assert (drawn["uniform"].min(), drawn["uniform"].max()) == (64, 4_032)
    assert abs(drawn["uniform"].mean() - 2_048) < 16  # four standard errors
    counts = np.bincount(drawn["uniform"] // 1_000)
    assert counts[1:4].min() > 0.9 * counts[1:4].max()


def test_what_was_drawn_stands_beside_what_was_configured() -> None:
    for shape in WINDOW_SHAPES:
        sampler = WindowSampler(replace(CONFIG, window_shape=shape))
        told = distribution(sampler, sampler.sample(0, np.arange(200_000)))
        assert told["drawn_mean"] == pytest.approx(told["configured_mean"], rel=0.02)
        assert sum(told["configured_share"]) == pytest.approx(1)  # type: ignore[arg-type]
        assert np.abs(np.subtract(told["configured_share"], told["drawn_share"])).max() < 0.01


@pytest.mark.parametrize("growth", [3.0, 1 / 3])
def test_windows_that_grow_keep_the_mean_and_a_requests_place_among_them(growth: float) -> None:
    index = np.arange(200_000)
    for shape in ("beta", "uniform", "fixed"):
        sampler = WindowSampler(replace(CONFIG, window_shape=shape, window_growth=growth))
        first, second = (sampler.sample(0, index, stage) for stage in (0, 1))
        assert second.mean() == pytest.approx(growth * first.mean(), rel=0.03)
        assert (first.mean() + second.mean()) / 2 == pytest.approx(2_048, rel=0.02)
        assert ((first <= second) if growth > 1 else (first >= second)).all()  # the same quantile of both
        told = distribution(sampler, np.concatenate([first, second]))
        assert told["configured_mean"] == pytest.approx(2_048, rel=0.003)
        assert np.abs(np.subtract(told["configured_share"], told["drawn_share"])).max() < 0.01


def test_a_growth_that_leaves_the_windows_bounds_is_refused() -> None:
    for growth, said in ((40.0, "makes 100"), (0.02, "makes 80"), (0.0, "positive"), (-1.0, "positive")):
        with pytest.raises(LongreelError, match=said):
            replace(CONFIG, window_mean=2_048, window_min=128, window_growth=growth)


def test_a_part_lies_within_the_history_and_is_recomputed_alike() -> None:
    index, visible = np.arange(5_000), np.arange(5_000) % 700
    windows = np.full(5_000, 256)
    skips = {
        part: WindowSampler(replace(CONFIG, window_part=part)).skip(1, index, visible, windows) for part in WINDOW_PARTS
    }
    assert (skips["newest"] == 0).all()
    assert (skips["oldest"] == np.maximum(visible - 256, 0)).all()
    drawn, spare = skips["random"], np.maximum(visible - 256, 0)
    assert ((drawn >= 0) & (drawn <= spare)).all()
    assert drawn.sum() == pytest.approx(spare.sum() / 2, rel=0.05)
    again = WindowSampler(replace(CONFIG, window_part="random")).skip(1, index[99:], visible[99:], windows[99:])
    assert (again == drawn[99:]).all()
