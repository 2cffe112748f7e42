"""Training windows to compare the method's with: other distributions, and other parts of a history than its newest.

beta     the method's (model/data/windows.py)
uniform  even over the widest range around the mean that lies within window_min .. window_max
fixed    always the mean
full     always window_max

newest   the method's: a window holds the newest events
random   one stretch of the history, anywhere in it
oldest   the beginning of the history
"""

from functools import partial

import numpy as np

from longreel.contracts.config import TrainingConfig
from longreel.model.data.windows import (
    Floats,
    Ints,
    MakeWindows,
    WindowDistribution,
    WindowSampler,
    beta_windows,
    multiples_between,
    uniform,
)


def _even(places: Floats) -> Floats:
    return places


def uniform_windows(config: TrainingConfig, mean: float) -> WindowDistribution:
    """Every window between two bounds equally likely."""
    reach = min(mean - config.window_min, config.window_max - mean)
    return multiples_between(mean - reach, mean + reach, _even)


def fixed_windows(config: TrainingConfig, mean: float) -> WindowDistribution:
    """One window, the mean."""
    return multiples_between(mean, mean, _even)


def full_windows(config: TrainingConfig, mean: float) -> WindowDistribution:
    """One window, the longest."""
    return multiples_between(config.window_max, config.window_max, _even)


class OldestPart(WindowSampler):
    """Windows that hold the beginning of a history."""

    def skip(self, epoch: int, index: Ints, visible: Ints, windows: Ints) -> Ints:
        """All newer events: [B]."""
        return np.asarray(np.maximum(visible - windows, 0))


class RandomPart(WindowSampler):
    """Windows that hold one stretch of a history, anywhere in it."""

    def skip(self, epoch: int, index: Ints, visible: Ints, windows: Ints) -> Ints:
        """A random number of newer events: [B]."""
        spare = np.maximum(visible - windows, 0)
        return np.asarray(uniform(self.seed + 1, epoch, index) * (spare + 1), np.int64)


SHAPES = {"beta": beta_windows, "uniform": uniform_windows, "fixed": fixed_windows, "full": full_windows}
PARTS = {"newest": WindowSampler, "random": RandomPart, "oldest": OldestPart}


def windows_of(shape: str = "beta", part: str = "newest") -> MakeWindows:
    """What draws such windows, for `longreel.model.training.train.train`. Raises KeyError for an unknown name."""
    return partial(PARTS[part], distribution=SHAPES[shape])
