"""longreel's model on the same targets: trained on the same ten days, scored by the product's batch scoring."""

import json
import time
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.fields.__main__ import PRESET, part_of
from benchmarks.peers.peer_data import TRAIN_DAYS
from longreel.contracts.config import Config
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.evaluation.batch_scoring import day_groups, predictions, score_day
from longreel.model.training.checkpoint import load_model
from longreel.model.training.device import select_device
from longreel.model.training.train import train


def config_of(home: Home, view: str, seed: int) -> Config:
    """The home's settings; in view A the model reads the preset's fields, in B all that the home declares."""
    config = home.config
    log = part_of(config.log_schema, lambda field: view == "B" or field.name in PRESET)
    return replace(config, log_schema=log, training=replace(config.training, seed=seed))


def score(home: Home, out: Path, name: str, view: str, day: date, seed: int, model: Path | None) -> None:
    """Write the scores of a day, of the model in the folder `model` or of one trained here, which OUT/models keeps.

    Raises:
        LongreelError: the model cannot be trained, or does not fit the home's samples.
    """
    config = config_of(home, view, seed)
    began = time.process_time()
    if model is None:
        work = out / "models" / f"{name}.{view}.{day}.{seed}"
        model, lake = work / "model", Lake(home.lake.root, config.log_schema)
        days = [day - timedelta(days=back) for back in range(TRAIN_DAYS, 0, -1)]
        train(config, lake, [d for d in days if d in set(lake.days("samples"))], work / "train", model)
    device = select_device(config.training.device)
    ranker, _ = load_model(model, device)
    groups = day_groups(home.lake, day)
    window = config.training.window_max
    values = predictions(ranker, score_day(ranker, home.lake, groups, window, device))
    details = {"version": "longreel", "features": len(ranker.log_schema.fields), "settings": {"window": window}}
    details["seconds"] = round(time.process_time() - began, 1)
    for task, scores in zip(ranker.tasks, values.T, strict=True):
        path = out / "scores" / day.isoformat() / f"{name}.{view}.{task}.{seed}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"score": np.asarray(scores, np.float64)}).to_parquet(path)
        path.with_suffix(".json").write_text(json.dumps(details) + "\n")
