"""How long a history does each training request see? A Beta draw per request, recomputable from three integers.

L = L_min + s (L_max - L_min), s ~ Beta(a, b), rounded to a multiple of 8. With the mean pinned,
b = a (L_max - L_mean) / (L_mean - L_min); a small `a` makes the density U-shaped: many short windows, some very long.
"""

import math

import numpy as np
from numpy.typing import NDArray

from contracts.config import TrainingConfig

STEP = 8  # windows are multiples of this many events

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit mix (Steele, Lea and Flood 2014, finaliser of SplitMix64): every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)


def uniform(seed: int, epoch: int, index: Ints) -> Floats:
    """A number in [0, 1) per (seed, epoch, index), independent of what was drawn before it."""
    key = splitmix64(np.array([seed], np.int64).view(np.uint64) ^ np.uint64(0x6C6F6E677265656C))
    key = splitmix64(key ^ np.uint64(epoch))
    return (splitmix64(key ^ index.astype(np.uint64)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def beta_cdf(x: Floats, a: float, b: float) -> Floats:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (Numerical Recipes 6.4)."""
    inside = np.clip(x, 1e-300, 1 - 1e-16)
    flip = inside > (a + 1) / (a + b + 2)  # where the fraction converges faster for the mirrored argument
    z, p, q = np.where(flip, 1 - inside, inside), np.where(flip, b, a), np.where(flip, a, b)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = np.exp(p * np.log(z) + q * np.log1p(-z) - log_beta) / p
    c, d = np.ones_like(z), 1 / _nonzero(1 - (p + q) * z / (p + 1))
    fraction = d.copy()
    for m in range(1, 200):
        even = m * (q - m) * z / ((p + 2 * m - 1) * (p + 2 * m))
        odd = -(p + m) * (p + q + m) * z / ((p + 2 * m) * (p + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _nonzero(1 + term * d), _nonzero(1 + term / c)
            fraction = fraction * d * c
    value = np.where(flip, 1 - front * fraction, front * fraction)
    return np.where(x <= 0, 0.0, np.where(x >= 1, 1.0, value))


def _nonzero(values: Floats) -> Floats:
    return np.where(np.abs(values) < 1e-300, 1e-300, values)


class WindowSampler:
    """Windows of a training run. Stateless: request `index` of `epoch` gets the same window however often it is asked,
    in any order, so a resumed run sees what an uninterrupted one would have.
    """

    def __init__(self, config: TrainingConfig) -> None:
        low, high, mean = config.window_min, config.window_max, config.window_mean
        self.seed = config.seed
        self.alpha = config.window_alpha
        self.beta = self.alpha * (high - mean) / (mean - low)
        first, last = max(1, round(low / STEP)), max(1, round(high / STEP))
        self.lengths = np.arange(first, last + 1, dtype=np.int64) * STEP
        upper = (self.lengths[:-1] + STEP / 2 - low) / (high - low)  # where rounding passes to the next multiple
        self._cdf = beta_cdf(upper, self.alpha, self.beta)

    def sample(self, epoch: int, index: Ints) -> Ints:
        """Windows of the requests `index` [B] in an epoch: [B] int64, events."""
        return np.asarray(self.lengths[np.searchsorted(self._cdf, uniform(self.seed, epoch, index), side="right")])
