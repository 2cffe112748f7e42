"""FuxiCTR's DIN, DCNv2 and TransAct, from the model zoo in its package.

Numbers are categories of 20 quantiles. The item and request fields of the target and of its newest history events are
the sequence; an event has besides its age, play ratio and actions, which a target has none of.
"""

import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything

from benchmarks.peers.peer_data import Split, auc, main

MODELS: dict[str, dict[str, Any]] = {
    "DIN": {"dnn_hidden_units": [256, 128], "attention_hidden_units": [64]},
    "DCNv2": {"model_structure": "parallel", "parallel_dnn_hidden_units": [256, 128], "num_cross_layers": 2},
    "TransAct": {"dcn_cross_layers": 2, "dcn_hidden_units": [256, 128], "dim_feedforward": 128},
}
FIXED = {
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "learning_rate": 1e-3,
    "embedding_dim": 8,
    "net_dropout": 0.1,
    "task": "binary_classification",
    "metrics": ["AUC"],
    "gpu": -1,
    "verbose": 0,
}
GRID = [{"embedding_regularizer": weight} for weight in (1e-5, 1e-4)]
EVENTS, QUANTILES, RARE, BATCH, MAX_EPOCHS = 32, 20, 3, 1024, 5
OUTCOMES = ("age", "play_ratio", "actions")


class Batches:
    """A table's batches as FuxiCTR's LongCTR models take them: (columns, item columns [B x (events + 1)], mask)."""

    def __init__(
        self, columns: dict[str, torch.Tensor], items: dict[str, torch.Tensor], mask: torch.Tensor, shuffle: bool
    ) -> None:
        self.columns, self.items, self.mask, self.shuffle = columns, items, mask, shuffle

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]]:
        rows = len(self.mask)
        for part in (torch.randperm(rows) if self.shuffle else torch.arange(rows)).split(BATCH):
            columns = {name: values[part] for name, values in self.columns.items()}
            yield columns, {name: values[part].flatten() for name, values in self.items.items()}, self.mask[part]


class Codes:
    """A column's codes: 0 of padding, 1 of missing, rare and new values, and from 2 on values or quantiles."""

    def __init__(self, values: np.ndarray, kind: str) -> None:
        self.is_number = kind == "number"
        if self.is_number:
            finite = values[np.isfinite(values)]
            self.edges = np.unique(np.quantile(finite, np.arange(1, QUANTILES) / QUANTILES)) if len(finite) else finite
            self.size = len(self.edges) + 3
        else:
            unique, counts = np.unique(values, return_counts=True)
            self.index = pd.Index(unique[counts >= RARE])
            self.size = len(self.index) + 2

    def of(self, values: np.ndarray) -> np.ndarray:
        """The code of each value."""
        if self.is_number:
            return np.where(np.isfinite(values), np.searchsorted(self.edges, values, side="right") + 2, 1)
        return np.maximum(self.index.get_indexer(values.ravel()).reshape(values.shape) + 2, 1)


def batches_of(split: Split) -> tuple[FeatureMap, Batches, Batches]:
    """The feature map, and the batches of train and test; vocabularies and quantiles are of train."""
    events = pd.read_parquet(split.out / "events.parquet")
    fields = [name for name in events if name not in ("time_ms", *OUTCOMES)]
    plain = [name for name in split.features if name not in fields]
    codes = {name: Codes(split.train[name].to_numpy(), split.features[name]) for name in split.features}
    codes["age"] = Codes(np.arange(64), "category")
    codes["play_ratio"] = Codes(events["play_ratio"].to_numpy(), "number")
    codes["actions"] = Codes(events["actions"].to_numpy(), "category")
    feature_map = FeatureMap("peers", tempfile.mkdtemp())
    feature_map.labels = [split.label]
    sources = dict.fromkeys(plain, "user") | dict.fromkeys([*fields, *OUTCOMES], "item")
    for name, source in sources.items():
        spec = {"type": "categorical", "source": source, "vocab_size": codes[name].size, "padding_idx": 0}
        feature_map.features[name.replace(" ", "_")] = spec
    feature_map.num_fields, feature_map.default_emb_dim = len(sources), FIXED["embedding_dim"]
    coded = {name: codes[name].of(events[name].to_numpy()) for name in (*fields, "play_ratio", "actions")}

    def batches(table: pd.DataFrame, shuffle: bool) -> Batches:
        place = table["history_stop"].to_numpy()[:, None] + np.arange(-EVENTS, 0)
        mask = place >= table["history_start"].to_numpy()[:, None]
        place = np.where(mask, place, 0)
        ages = np.log2(1 + (table["time_ms"].to_numpy()[:, None] - events["time_ms"].to_numpy()[place]) / 60_000)
        coded["age"] = codes["age"].of((2 * np.maximum(ages, 0)).astype(np.int64))
        none = np.zeros(len(table), np.int64)
        items = {}
        for name in (*fields, *OUTCOMES):
            past = coded[name] if name == "age" else coded[name][place]
            target = codes[name].of(table[name].to_numpy()) if name in fields else none
            items[name] = torch.from_numpy(np.column_stack([past * mask, target]))
        columns = {name.replace(" ", "_"): torch.from_numpy(codes[name].of(table[name].to_numpy())) for name in plain}
        columns[split.label] = torch.from_numpy(table[split.label].to_numpy(np.float32))
        return Batches(columns, items, torch.from_numpy(mask).float(), shuffle)

    return feature_map, batches(split.train, True), batches(split.test, False)


def fit_model(
    name: str, split: Split, settings: dict[str, Any], seed: int, rounds: int | None
) -> tuple[np.ndarray, int]:
    """Probabilities of the test's targets, and the epochs."""
    torch.set_num_threads(1)
    seed_everything(seed)
    feature_map, train, test = batches_of(split)
    model_class = getattr(import_module(f"model_zoo.LongCTR.{name}.{name}"), name)
    model = model_class(feature_map, model_id=name, model_root=tempfile.mkdtemp(), **FIXED, **MODELS[name], **settings)
    model._max_gradient_norm, model._batch_index = 10.0, 0  # as its own `fit`, which needs a day to stop on
    best, scores, epoch = -1.0, np.zeros(0), 0
    while epoch < (rounds or MAX_EPOCHS):
        for batch in train:
            model.train_step(batch)
        if rounds is None:  # stop after the first epoch that is worse than the one before it
            value = auc(tested := model.predict(test), split.labels[1])
            if value < best:
                return scores, epoch
            best, scores = value, tested
            model.train()
        epoch += 1
    return model.predict(test) if rounds else scores, epoch


if __name__ == "__main__":
    NAME = sys.argv.pop(1)
    main(NAME.lower(), "fuxictr", GRID, lambda *args: fit_model(NAME, *args))
