"""Random training windows: how many of its newest events each training request sees.

    L = L_min + s (L_max - L_min), s ~ Beta(a, b), mean pinned by b = a (L_max - L_mean) / (L_mean - L_min);
    a small `a` makes it U-shaped: many short windows, some very long. Windows are multiples of 8 events.

A draw is a function of (seed, epoch, request). With a window curriculum (`window_curriculum`) the second half of the
training's requests has another mean than the first, and both together have L_mean. A half is a phase: 0, then 1;
without a curriculum there is one phase.
"""

import math
from collections.abc import Callable
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


class WindowDistribution:
    """The windows of one phase: `events` [n] are the windows, increasing, `cdf` [n - 1] the probability of at most each
    of them but the last.
    """

    def __init__(self, events: Ints, cdf: Floats) -> None:
        self.events, self._cdf = events, cdf

    @property
    def probabilities(self) -> Floats:
        """The probability of each of `events`: [n]."""
        return np.asarray(np.diff(self._cdf, prepend=0.0, append=1.0), np.float64)

    def quantiles(self, shares: Floats) -> Ints:
        """The window below which each of `shares` of all windows lie: [B] in 0 .. 1 -> [B] events."""
        return np.asarray(self.events[np.searchsorted(self._cdf, shares, side="right")])


MakeDistribution = Callable[[TrainingConfig, float], WindowDistribution]  # of settings and a mean in events


def multiples_between(low: float, high: float, cdf: Callable[[Floats], Floats]) -> WindowDistribution:
    """Windows of `low` .. `high` events in multiples of STEP; `cdf` is that of (window - low) / (high - low)."""
    first, last = max(1, round(low / STEP)), max(1, round(high / STEP))
    events = np.arange(first, last + 1, dtype=np.int64) * STEP
    boundaries = events[:-1] + STEP / 2  # where rounding passes to the next multiple
    return WindowDistribution(events, cdf(np.asarray((boundaries - low) / max(high - low, 1), np.float64)))


def beta_parameters(config: TrainingConfig, mean: float) -> tuple[float, float]:
    """(a, b) of the distribution that has this mean, in events."""
    alpha = config.window_alpha
    return alpha, alpha * (config.window_max - mean) / (mean - config.window_min)


def beta_windows(config: TrainingConfig, mean: float) -> WindowDistribution:
    """The distribution of one phase, with its mean in events."""
    a, b = beta_parameters(config, mean)
    return multiples_between(float(config.window_min), float(config.window_max), lambda x: beta_cdf(x, a, b))


class WindowSampler:
    """Windows of a training run, with one distribution for each phase.

    Stateless: request `index` of `epoch`, read in a phase, gets the same window in any order of calls, so a resumed run
    sees what an uninterrupted one would have. An ablation passes other distributions, or overrides `skip`.
    """

    def __init__(self, config: TrainingConfig, distribution: MakeDistribution = beta_windows) -> None:
        self.seed, self.max_events = config.seed, config.window_max
        self.phases = [distribution(config, mean) for mean in config.window_means]

    def sample(self, epoch: int, index: Ints, phase: int = 0) -> Ints:
        """Windows of the requests `index` [B], read in a phase of an epoch: [B] int64, events."""
        return self.phases[phase].quantiles(uniform(self.seed, epoch, index))

    def skip(self, epoch: int, index: Ints, visible: Ints, windows: Ints) -> Ints:
        """How many of each request's `visible` [B] events are newer than its window: none, windows hold the newest."""
        return np.zeros(len(index), np.int64)


MakeWindows = Callable[[TrainingConfig], WindowSampler]


class Distribution(TypedDict):
    """The configured windows and those drawn: their means, and the share in each tenth of 0 .. L_max."""

    configured_mean: float  # events
    drawn_mean: float
    edges: list[float]  # of the tenths
    configured_share: list[float]
    drawn_share: list[float]


def distribution(sampler: WindowSampler, drawn: Ints) -> Distribution:
    """What a sampler was to draw, and the windows [B] that it drew for a whole training, half of them in each phase."""
    edges = np.linspace(0, sampler.max_events + STEP, 11)
    events = np.concatenate([phase.events for phase in sampler.phases])
    probabilities = np.concatenate([phase.probabilities for phase in sampler.phases]) / len(sampler.phases)
    configured, _ = np.histogram(events, edges, weights=probabilities)
    counts, _ = np.histogram(drawn, edges)
    return {
        "configured_mean": float(events @ probabilities),
        "drawn_mean": float(drawn.mean()) if len(drawn) else 0.0,
        "edges": edges.tolist(),
        "configured_share": configured.tolist(),
        "drawn_share": (counts / max(1, len(drawn))).tolist(),
    }
