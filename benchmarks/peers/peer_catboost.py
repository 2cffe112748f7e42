"""CatBoost. Ids and categories as its categorical features, in ordered target statistics."""

from typing import Any

import numpy as np
import pandas as pd
from catboost import CatBoostClassifier, Pool

from benchmarks.peers.peer_data import Split, main

FIXED = {
    "learning_rate": 0.1,
    "eval_metric": "AUC",
    "max_ctr_complexity": 1,
    "has_time": True,  # the rows are ordered by day: target statistics are of rows before
    "rsm": 0.3,
    "thread_count": 1,
    "allow_writing_files": False,
    "verbose": False,
}
GRID = [{"depth": depth, "l2_leaf_reg": l2} for depth in (4, 6) for l2 in (10,)]
MAX_ROUNDS, PATIENCE = 500, 40


def fit(split: Split, settings: dict[str, Any], seed: int, rounds: int | None) -> tuple[np.ndarray, int]:
    """Probabilities of the test's targets, and the rounds."""
    names, chosen = list(split.features), split.categories
    train_labels, test_labels = split.labels

    def pool(table: pd.DataFrame, labels: np.ndarray) -> Pool:
        return Pool(table[names].astype(dict.fromkeys(chosen, np.int64)), labels, cat_features=chosen)

    model = CatBoostClassifier(**FIXED, **settings, random_seed=seed, iterations=rounds or MAX_ROUNDS)
    tested = pool(split.test, test_labels)
    if rounds is None:
        model.fit(pool(split.train, train_labels), eval_set=tested, early_stopping_rounds=PATIENCE, use_best_model=True)
    else:
        model.fit(pool(split.train, train_labels))
    return model.predict_proba(tested)[:, 1], int(model.tree_count_)


if __name__ == "__main__":
    main("catboost", "catboost", GRID, fit)
