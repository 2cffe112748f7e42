"""Arithmetic of a training, of any comparator, counted from sizes as model/training/flops.py does.

Embeddings, RankMixer and heads are the same for all readers; what is theirs is what they do with events, targets and
pairs of both. An ablation is counted as the full model: what replaces a part has as many weights, and without query
fusion the few products of W_C are counted too.
"""

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.config import Config, ModelConfig
from longreel.model.training.flops import BACKWARD, forward_flops, stca_flops

Ints = NDArray[np.int64]


def reader_flops(reader: str, config: ModelConfig, visible: Ints, targets: Ints) -> float:
    """FLOPs of a reader's forward pass over requests that see `visible` [R] events and have `targets` [R] targets."""
    d, r, m = config.width, config.expansion, config.layers
    events, num_targets, pairs = int(visible.sum()), int(targets.sum()), int((visible * targets).sum())
    if reader == "stca":
        return stca_flops(config, events=events, targets=num_targets, pairs=pairs)
    if reader == "mean":
        return float(num_targets * 12 * d * d)
    if reader == "din":
        hidden = max(16, d // 2)
        return float(
            pairs * (2 * d * hidden + 2 * hidden + 2 * d)
            + (events + num_targets) * 4 * d * hidden
            + num_targets * 12 * d * d
        )
    past = int((visible * (visible + 1) // 2).sum())  # events that events read
    token = {"sasrec": 8 + 8 * r, "hstu": 10}[reader] * d * d  # q, k, v, out and the network; u, q, k, v and out
    return float(m * ((events + num_targets) * token + (past + pairs) * 4 * d))


def training_flops(reader: str, config: Config, visible: Ints, targets: Ints) -> float:
    """FLOPs of a training in which requests saw `visible` [R]; requests of every epoch count."""
    model = config.model
    events, num_targets, pairs = int(visible.sum()), int(targets.sum()), int((visible * targets).sum())
    counts = {"requests": len(visible), "events": events, "targets": num_targets, "pairs": pairs}
    shared = forward_flops(model, config.log_schema, **counts, tasks=len(config.tasks)) - reader_flops(
        "stca", model, visible, targets
    )
    return BACKWARD * (shared + reader_flops(reader, model, visible, targets))
