"""A log and models whose truth is known: what a model would score on each target, without training any.

A target's log-odds is user taste plus item appeal. A model sees it with errors: one part that all models share (what no
feature tells), one independent of other models, one that grows as the world moves away from the days it was trained on,
and planted faults. Its scores are then fitted to the label rate it was trained at, as training does.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.report import CHECKS, ConsistencyCheck, DataQuality, EvaluationReport, ScoringCost
from longreel.model.evaluation.bootstrap import bootstrap_weights
from longreel.model.evaluation.eval_set import EvalSet
from longreel.model.evaluation.report_builder import ReportBuilder, window_gains

Floats = NDArray[np.float64]

TASKS, WINDOWS, MEAN_WINDOW = ("click",), (512, 2_048), 512
DRAWS, INTERVAL = 400, 0.95
TARGETS_A_USER = 10
TRUE_USERS = 40_000  # on whom a model's truth is measured
SHARED_ERROR = 0.8
SHORT = 32  # events: users below it are those whom a short-history fault hits


@dataclass(frozen=True)
class Model:
    """A ranker by its faults. `drift` is the world's movement on the last day it was trained on."""

    name: str
    error: float  # standard deviation of the error that not all models share, in log-odds
    drift: float = 0.0
    rate: float = 0.0  # shift of the labels' log-odds while it was trained
    short_error: float = 0.0  # added for users with short histories
    long_error: float = 0.0  # added at the longest window
    broken: float = 0.0  # share of its signal that a broken feature takes away
    nans: float = 0.0  # share of its logits that are no numbers
    latency_ms: float = 4.0
    kin: float = 0.0  # share of the variance of `error` that a model has in common with its kin: a warm start

    def quality(self) -> "Model":
        """The same model without its name: what its truth depends on."""
        return Model("", *[getattr(self, f) for f in list(self.__dataclass_fields__)[1:]])


@dataclass(frozen=True)
class Day:
    """A log day: who came, what they were shown, what they did."""

    name: str
    seed: int
    users: int
    drift: float = 0.0
    rate: float = 0.0  # shift of the labels' log-odds
    broken: float = 0.0  # share of every model's signal that a broken feature of the day takes away
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """A day's targets: the true log-odds [T] and the evaluation set."""

    truth: Floats
    eval_set: EvalSet
    length: NDArray[np.int64]  # [T] history length of the target's user


@lru_cache(maxsize=4)
def draw(day: Day) -> Drawn:
    """The targets of a day."""
    rng = np.random.default_rng([day.seed, 1])
    count = np.maximum(1, rng.poisson(TARGETS_A_USER * rng.lognormal(-0.2, 0.6, day.users)))
    user = np.repeat(np.arange(day.users), count)
    history = np.floor(rng.lognormal(5, 1.8, day.users)).astype(np.int64)
    history[rng.random(day.users) < 0.06] = 0
    truth = -1.2 + rng.normal(0, 0.5, day.users)[user] + rng.normal(0, 1.1, len(user))
    labels = rng.random(len(user)) < 1 / (1 + np.exp(-truth - day.rate))
    eval_set = EvalSet(
        labels=labels[:, None].astype(np.float32),
        user=user,
        request=np.arange(len(user)) // 5,
        categories={"surface": rng.integers(0, 2, len(user))},
        history=history,
    )
    return Drawn(truth, eval_set, history[user])


def logits(model: Model, day: Day, window: int) -> Floats:
    """What the model says of the day's targets [T]."""
    raw = _raw(model, day, window)
    slope, offset = _fit(model.quality(), window)
    scores = offset + slope * raw
    if model.nans:
        scores[np.random.default_rng([day.seed, 9]).random(len(scores)) < model.nans] = np.nan
    return scores


def _raw(model: Model, day: Day, window: int) -> Floats:
    """True log-odds seen through the model's errors, not yet fitted to a label rate."""
    drawn = draw(day)
    n, short = len(drawn.truth), drawn.length < SHORT
    shared = np.random.default_rng([day.seed, 2]).normal(0, SHARED_ERROR, n)
    kin = np.random.default_rng([day.seed, 3]).normal(0, 1, n)
    own = np.random.default_rng([day.seed, *model.name.encode(), 4])
    noise = np.sqrt(model.kin) * kin + np.sqrt(1 - model.kin) * own.normal(0, 1, n)
    reads_less = 0.5 * (window < WINDOWS[-1]) * (drawn.length > WINDOWS[0])
    variance = model.error**2 + max(0.0, day.drift - model.drift) + model.short_error**2 * short + reads_less**2
    variance += model.long_error**2 * (window == WINDOWS[-1]) * (drawn.length > WINDOWS[0])
    signal = (1 - model.broken) * (1 - day.broken) * (drawn.truth + 1.2)
    return np.asarray(signal + shared + np.sqrt(variance) * noise - 1.2)


@lru_cache(maxsize=512)
def _fit(model: Model, window: int) -> tuple[float, float]:
    """Slope and offset of a logistic fit on a training day of the model's own times, by Newton's method."""
    before = Day("fit", 7, 6_000, drift=model.drift, rate=model.rate)
    clean = Model("fit", model.error, model.drift, model.rate, model.short_error, model.long_error, model.broken)
    x, y = _raw(clean, before, window), draw(before).eval_set.labels[:, 0].astype(np.float64)
    weights, features = np.array([1.0, 0.0]), np.stack([x, np.ones_like(x)], axis=1)
    for _ in range(25):
        p = 1 / (1 + np.exp(-features @ weights))
        hessian = (features * (p * (1 - p))[:, None]).T @ features
        weights += np.linalg.solve(hessian, features.T @ (y - p))
    return float(weights[0]), float(weights[1])


def evaluate(model: Model, day: Day) -> EvaluationReport:
    """The report that the project's own code makes of these logits."""
    drawn = draw(day)
    builder = ReportBuilder(
        eval_set=drawn.eval_set, tasks=TASKS, weights=bootstrap_weights(day.users, DRAWS, 0), interval=INTERVAL
    )
    rows = []
    for window in WINDOWS:
        scores = logits(model, day, window)[:, None].astype(np.float32)
        rows += builder.rows(scores, scores, window, keep_draws=True)
    return EvaluationReport(
        date=day.name,
        model_digest=model.name,
        data_digest=f"{day.name}-{day.seed}",
        config_digest="simulated",
        tasks=TASKS,
        windows=WINDOWS,
        slices=tuple(drawn.eval_set.slices()),
        training_mean_window=MEAN_WINDOW,
        bootstrap_seed=0,
        bootstrap_draws=DRAWS,
        interval=INTERVAL,
        longest_history=int(drawn.eval_set.history.max()),
        rows=tuple(rows),
        window_gains=window_gains(rows, WINDOWS, MEAN_WINDOW, INTERVAL),
        scoring=ScoringCost(
            device="simulated",
            events=10_240,
            candidates=128,
            latency_ms=model.latency_ms,
            latency_low_ms=0.95 * model.latency_ms,
            latency_high_ms=1.1 * model.latency_ms,
            peak_memory_mib=900.0,
        ),
        consistency=tuple(ConsistencyCheck(name=name, logits=1, largest=0.0, tolerance=0.0) for name in CHECKS),
        quality=DataQuality(passed=True, warnings=day.warnings),
    )


@dataclass(frozen=True)
class Truth:
    """A model's real worth on a kind of day, measured on many more users than any day has."""

    auc: float
    log_loss: float
    short_auc: float


@lru_cache(maxsize=256)
def truth(model: Model, drift: float, rate: float) -> Truth:
    """See Truth; `model` is to be a `quality()`."""
    day = Day("truth", 11, TRUE_USERS, drift=drift, rate=rate)
    drawn = draw(day)
    scores, labels = logits(model, day, WINDOWS[-1]), drawn.eval_set.labels[:, 0] > 0
    loss = np.logaddexp(0, np.where(labels, -scores, scores)).mean()
    short = drawn.length < SHORT
    return Truth(_auc(scores, labels), float(loss), _auc(scores[short], labels[short]))


def _auc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    rank = np.empty(len(scores))
    rank[np.argsort(scores)] = np.arange(len(scores))
    positives = int(labels.sum())
    pairs = rank[labels].sum() - positives * (positives - 1) / 2
    return float(pairs / (positives * (len(labels) - positives)))
