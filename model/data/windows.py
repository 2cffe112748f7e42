"""How long a history does each training request see, and which part? Draws per request, each made of three integers.

    beta     L = L_min + s (L_max - L_min), s ~ Beta(a, b), mean pinned by b = a (L_max - L_mean) / (L_mean - L_min);
             a small `a` makes it U-shaped: many short windows, some very long. The method's choice
    uniform  even over the widest range around L_mean that lies within L_min .. L_max
    fixed    always L_mean
    full     always L_max

All are multiples of 8. The others than beta, and other parts of a history than its newest, are there to be compared.

Windows may grow (`window_growth`): the second half of the training's requests has another mean than the first, and
both together have L_mean. A half is a `stage` here: 0, then 1; there is one stage where windows do not grow.
"""

import math
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.config import TrainingConfig

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


class Lengths:
    """The windows of one stage, with their mean, and how likely each is."""

    def __init__(self, config: TrainingConfig, mean: float) -> None:
        low, high = float(config.window_min), float(config.window_max)
        self.alpha = config.window_alpha
        self.beta = self.alpha * (high - mean) / (mean - low)
        if config.window_shape == "fixed":
            low = high = mean
        elif config.window_shape == "full":
            low = high
        elif config.window_shape == "uniform":
            reach = min(mean - low, high - mean)
            low, high = mean - reach, mean + reach
        first, last = max(1, round(low / STEP)), max(1, round(high / STEP))
        self.events = np.arange(first, last + 1, dtype=np.int64) * STEP
        passes = self.events[:-1] + STEP / 2  # where rounding passes to the next multiple
        upper = np.asarray((passes - low) / max(high - low, 1), np.float64)
        self._cdf: Floats = upper if config.window_shape == "uniform" else beta_cdf(upper, self.alpha, self.beta)

    @property
    def probabilities(self) -> Floats:
        """How likely each of `events` is."""
        return np.asarray(np.diff(self._cdf, prepend=0.0, append=1.0), np.float64)

    def at(self, quantiles: Floats) -> Ints:
        """The windows below which these shares of all windows lie."""
        return np.asarray(self.events[np.searchsorted(self._cdf, quantiles, side="right")])


class WindowSampler:
    """Windows of a training run. Stateless: request `index` of `epoch`, read in `stage`, gets the same window however
    often it is asked, in any order, so a resumed run sees what an uninterrupted one would have.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.seed, self.part, self.longest = config.seed, config.window_part, config.window_max
        self.stages = [Lengths(config, mean) for mean in config.window_means]

    def sample(self, epoch: int, index: Ints, stage: int = 0) -> Ints:
        """Windows of the requests `index` [B], read in a stage of an epoch: [B] int64, events."""
        return self.stages[stage].at(uniform(self.seed, epoch, index))

    def skip(self, epoch: int, index: Ints, visible: Ints, windows: Ints) -> Ints:
        """How many of each request's `visible` [B] events are newer than its window: 0 where it holds the newest.

        `random` takes one stretch of the history, anywhere in it; `oldest` its beginning.
        """
        spare = np.maximum(visible - windows, 0)
        if self.part == "newest":
            return np.zeros(len(index), np.int64)
        if self.part == "oldest":
            return np.asarray(spare)
        return np.asarray(uniform(self.seed + 1, epoch, index) * (spare + 1), np.int64)


class Distribution(TypedDict):
    """The configured windows beside those drawn: their means, and the share in each tenth of 0 .. L_max."""

    configured_mean: float  # events
    drawn_mean: float
    edges: list[float]  # of the tenths
    configured_share: list[float]
    drawn_share: list[float]


def distribution(sampler: WindowSampler, drawn: Ints) -> Distribution:
    """What a sampler was to draw, and the windows [B] that it drew for a whole training, half of them in each stage."""
    edges = np.linspace(0, sampler.longest + STEP, 11)
    events = np.concatenate([stage.events for stage in sampler.stages])
    likely = np.concatenate([stage.probabilities for stage in sampler.stages]) / len(sampler.stages)
    chance, _ = np.histogram(events, edges, weights=likely)
    share, _ = np.histogram(drawn, edges)
    return {
        "configured_mean": float(events @ likely),
        "drawn_mean": float(drawn.mean()) if len(drawn) else 0.0,
        "edges": edges.tolist(),
        "configured_share": chance.tolist(),
        "drawn_share": (share / max(1, len(drawn))).tolist(),
    }
