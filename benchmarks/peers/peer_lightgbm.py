"""LightGBM. Ids and categories as its categorical features, or only categories of a small vocabulary."""

from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd

from benchmarks.peers.peer_data import Split, main

FIXED = {
    "objective": "binary",
    "metric": "auc",
    "learning_rate": 0.05,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "cat_smooth": 50.0,
    "min_data_per_group": 100,
    "num_threads": 1,
    "deterministic": True,
    "verbosity": -1,
}
GRID = [{"num_leaves": leaves, "ids": ids} for ids in (False, True) for leaves in (15, 63)]
SMALL_VOCABULARY = 64
MAX_ROUNDS, PATIENCE = 800, 50


def fit(split: Split, settings: dict[str, Any], seed: int, rounds: int | None) -> tuple[np.ndarray, int]:
    """Probabilities of the test's targets, and the rounds."""
    chosen = [name for name in split.categories if settings["ids"] or split.train[name].nunique() <= SMALL_VOCABULARY]
    dropped = set(split.categories) - set(chosen)
    names = [name for name in split.features if name not in dropped]
    codes = {name: pd.Index(split.train[name].unique()) for name in chosen}

    def matrix(table: pd.DataFrame) -> np.ndarray:
        columns = [codes[name].get_indexer(table[name]) if name in codes else table[name] for name in names]
        return np.column_stack(columns).astype(np.float32)

    train_labels, test_labels = split.labels
    data = lgb.Dataset(
        matrix(split.train),
        train_labels,
        feature_name=[f"f{i}" for i in range(len(names))],
        categorical_feature=[names.index(name) for name in chosen],
    )
    parameters = FIXED | {"num_leaves": settings["num_leaves"], "seed": seed}
    tested = matrix(split.test)
    if rounds is None:
        stop = lgb.early_stopping(PATIENCE, verbose=False)
        model = lgb.train(parameters, data, MAX_ROUNDS, [data.create_valid(tested, test_labels)], callbacks=[stop])
        rounds = int(model.best_iteration)
    else:
        model = lgb.train(parameters, data, rounds)
    return np.asarray(model.predict(tested, num_iteration=rounds)), rounds


if __name__ == "__main__":
    main("lightgbm", "lightgbm", GRID, fit)
