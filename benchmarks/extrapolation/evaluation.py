"""Metrics of a test set's scores by window and slice, with user-bootstrap replicates.

The replicates of a test set are the same for every model, so differences between models, windows and seeds are paired.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.extrapolation.cells import LONG
from longreel.contracts.jagged import Ints
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.bootstrap import Counts, Floats, bootstrap_weights, weighted_totals
from longreel.model.evaluation.metrics import TaskScores, metrics_of, user_sums

METRICS = ("auc", "gauc", "log_loss")
DRAWS = 200
INTERVAL = 0.95
SHORT_HISTORY = 128  # users with fewer events are a slice


@dataclass(frozen=True)
class EvalSet:
    """A test set: labels [targets, tasks], users [targets] as ordinals, and which targets are in which slice."""

    labels: NDArray[np.bool_]
    user: Ints
    slices: dict[str, NDArray[np.bool_]]
    tasks: tuple[str, ...]

    @staticmethod
    def of(rows: SampleRows, trained: SampleRows, tasks: tuple[str, ...]) -> "EvalSet":
        """The slices: all users, users by their longest history, and what training has never seen."""
        request = np.repeat(np.arange(rows.num_requests), rows.target_counts)
        ids, user = np.unique(rows.user_id[rows.request_row[request]], return_inverse=True)
        longest = np.zeros(len(ids), np.int64)
        np.maximum.at(longest, user, rows.history_lengths[request])
        known_items = np.concatenate([trained.target["item_id"], trained.history["item_id"]])
        known_users = trained.user_id[np.unique(trained.request_row)]
        slices = {
            "all": np.ones(len(user), bool),
            f"history>={LONG}": (longest >= LONG)[user],
            f"history<{SHORT_HISTORY}": (longest < SHORT_HISTORY)[user],
            "new items": ~np.isin(rows.target["item_id"], known_items),
            "new users": ~np.isin(ids, known_users)[user],
        }
        labels = rows.task_labels(tasks) > 0
        kept = {name: where for name, where in slices.items() if labels[where].any() and not labels[where].all()}
        return EvalSet(labels, user, kept, tasks)

    def weights(self) -> Counts:
        """Bootstrap counts [draws, users]."""
        return bootstrap_weights(int(self.user.max()) + 1, DRAWS, 0)

    def evaluate(self, logits_at: Callable[[int], NDArray[np.floating[Any]]], windows: tuple[int, ...]) -> "Evaluation":
        """Metrics of the logits [targets, tasks] that `logits_at(window)` gives."""
        rows: list[dict[str, Any]] = []
        draws: dict[str, NDArray[np.float32]] = {}
        counts = self.weights()
        for window in windows:
            logits = np.asarray(logits_at(window), np.float64)
            for column, task in enumerate(self.tasks):
                for name, where in self.slices.items():
                    scores = TaskScores.of(logits[where, column], self.labels[where, column], self.user[where])
                    row: dict[str, Any] = {"task": task, "window": window, "slice": name, "targets": int(where.sum())}
                    row["users"] = len(np.unique(self.user[where]))
                    for metric, (value, replicates) in estimates(scores, counts).items():
                        row[metric] = [value, *interval(replicates)]
                        draws[f"{task}|{name}|{window}|{metric}"] = replicates.astype(np.float32)
                    rows.append(row)
        return Evaluation(rows, draws)


@dataclass(frozen=True)
class Evaluation:
    """Rows as the results file keeps them: a metric is [value, low, high]; and the replicates behind them."""

    rows: list[dict[str, Any]]
    draws: dict[str, NDArray[np.float32]]

    def save_draws(self, path: Path) -> None:
        """The replicates, for paired differences."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part.npz")
        np.savez_compressed(draft, **self.draws)
        draft.replace(path)


def estimates(scores: TaskScores, counts: Counts) -> dict[str, tuple[float, Floats]]:
    """Every metric's value and its replicates, for users drawn `counts` [draws, users] times."""
    users, sums = user_sums(scores)
    whole = sums.sum(axis=0)
    value, replicates = metrics_of(whole[None], whole), metrics_of(weighted_totals(counts, users, sums), whole)
    return {metric: (float(value[metric][0]), replicates[metric]) for metric in METRICS}


def interval(draws: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """The percentile interval of replicates; those without a value are left out."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)
