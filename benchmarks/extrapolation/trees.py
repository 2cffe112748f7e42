"""Gradient-boosted trees (scikit-learn) on hand-made features: counts and recency."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.extrapolation.count_features import count_features
from benchmarks.extrapolation.oracle import logits_of
from longreel.model.data.samples import SampleRows

MAX_TRAINING_TARGETS = 600_000


def tree_logits(
    trained: SampleRows, tested: SampleRows, tasks: tuple[str, ...], seed: int, window: int
) -> NDArray[np.float64]:
    """Logits [targets, tasks] of trees that count in the newest `window` events; a model for every window and task."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, y = count_features(trained, window), trained.task_labels(tasks)
    kept = np.random.default_rng(seed).permutation(len(x))[:MAX_TRAINING_TARGETS]
    tested_features = count_features(tested, window)
    columns = []
    for task in range(len(tasks)):
        trees = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.1, max_leaf_nodes=63, random_state=seed)
        trees.fit(x[kept], y[kept, task])
        columns.append(logits_of(trees.predict_proba(tested_features)[:, 1]))
    return np.stack(columns, axis=1)
