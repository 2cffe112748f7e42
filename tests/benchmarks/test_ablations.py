"""Ablations' windows: the distribution asked for, and the part of the history asked for."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.extrapolation.ablations import PARTS, SHAPES, windows_of
from longreel.contracts.config import TrainingConfig
from longreel.model.data.windows import distribution

CONFIG = TrainingConfig(window_min=64, window_mean=2_048, window_max=10_240, window_alpha=0.2)


def test_other_shapes_keep_the_mean_or_are_one_window() -> None:
    index = np.arange(100_000)
    drawn = {shape: windows_of(shape)(CONFIG).sample(0, index) for shape in SHAPES}
    assert set(drawn["fixed"]) == {2_048}
    assert set(drawn["full"]) == {10_240}
    assert (drawn["uniform"].min(), drawn["uniform"].max()) == (64, 4_032)
    assert abs(drawn["uniform"].mean() - 2_048) < 16  # four standard errors
    counts = np.bincount(drawn["uniform"] // 1_000)
    assert counts[1:4].min() > 0.9 * counts[1:4].max()


def test_what_was_drawn_stands_beside_what_was_configured() -> None:
    for shape in SHAPES:
        sampler = windows_of(shape)(CONFIG)
        windows = distribution(sampler, sampler.sample(0, np.arange(200_000)))
        assert windows["drawn_mean"] == pytest.approx(windows["configured_mean"], rel=0.02)
        assert sum(windows["configured_share"]) == pytest.approx(1)
        assert np.abs(np.subtract(windows["configured_share"], windows["drawn_share"])).max() < 0.01


@pytest.mark.parametrize("growth", [3.0, 1 / 3])
def test_windows_that_grow_keep_the_mean_and_a_requests_place_among_them(growth: float) -> None:
    index = np.arange(200_000)
    for shape in ("uniform", "fixed"):
        sampler = windows_of(shape)(replace(CONFIG, window_curriculum=growth))
        first, second = (sampler.sample(0, index, phase) for phase in (0, 1))
        assert second.mean() == pytest.approx(growth * first.mean(), rel=0.03)
        assert (first.mean() + second.mean()) / 2 == pytest.approx(2_048, rel=0.02)
        assert ((first <= second) if growth > 1 else (first >= second)).all()  # the same quantile of both
        windows = distribution(sampler, np.concatenate([first, second]))
        assert windows["configured_mean"] == pytest.approx(2_048, rel=0.003)
        assert np.abs(np.subtract(windows["configured_share"], windows["drawn_share"])).max() < 0.01


def test_a_part_lies_within_the_history_and_is_recomputed_alike() -> None:
    index, visible = np.arange(5_000), np.arange(5_000) % 700
    windows = np.full(5_000, 256)
    skips = {part: windows_of(part=part)(CONFIG).skip(1, index, visible, windows) for part in PARTS}
    assert (skips["newest"] == 0).all()
    assert (skips["oldest"] == np.maximum(visible - 256, 0)).all()
    drawn, spare = skips["random"], np.maximum(visible - 256, 0)
    assert ((drawn >= 0) & (drawn <= spare)).all()
    assert drawn.sum() == pytest.approx(spare.sum() / 2, rel=0.05)
    again = windows_of(part="random")(CONFIG).skip(1, index[99:], visible[99:], windows[99:])
    assert (again == drawn[99:]).all()
