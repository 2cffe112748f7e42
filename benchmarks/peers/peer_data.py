"""What the peers' programs share: tables of a day, the choice of settings, and files of scores. Imports no longreel.

A program gives `settings_to_try`, a dictionary each, and `fit(split, settings, seed, rounds)`, which returns a peer's
probabilities for `split.test` and the number of rounds. `rounds` None: stop where the AUC of `split.test` is highest,
which only the choice of settings does, on a day before those that are evaluated.
"""

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TRAIN_DAYS = 10
Fit = Callable[["Split", dict[str, Any], int, int | None], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Split:
    """Targets to train on, those of the ten days before a day, and those of the day."""

    train: pd.DataFrame
    test: pd.DataFrame
    label: str
    features: dict[str, str]  # kind of each: category or number
    out: Path

    @staticmethod
    def of(out: Path, view: str, task: str, day: date) -> "Split":
        """Read the tables that `prepare` wrote."""
        described = json.loads((out / "features.json").read_text())
        features = {name: f["kind"] for name, f in described.items() if view in f["views"]}
        columns = ["day", "history_start", "history_stop", "time_ms", f"label_{task}"]
        table = pd.read_parquet(out / "targets.parquet", columns=list(dict.fromkeys([*columns, *features])))
        first = (day - timedelta(days=TRAIN_DAYS)).isoformat()
        train = table[(table["day"] >= first) & (table["day"] < day.isoformat())]
        return Split(train, table[table["day"] == day.isoformat()], f"label_{task}", features, out)

    @property
    def categories(self) -> list[str]:
        """Features that are categories."""
        return [name for name, kind in self.features.items() if kind == "category"]

    @property
    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Of train and test."""
        return self.train[self.label].to_numpy(), self.test[self.label].to_numpy()


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, ties counting one half."""
    rank, positives = pd.Series(scores).rank().to_numpy(), labels.sum()
    pairs = rank[labels > 0].sum() - positives * (positives + 1) / 2
    return float(pairs / (positives * (len(labels) - positives)))


def main(peer: str, package: str, settings_to_try: Sequence[dict[str, Any]], fit: Fit) -> None:
    """Choose settings where none are chosen, fit every task and seed, and write their scores."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--view", required=True)
    parser.add_argument("--day", type=date.fromisoformat, required=True)
    parser.add_argument("--tune-day", type=date.fromisoformat, required=True)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    args = parser.parse_args()
    for task in args.tasks:
        chosen = _settings(args.out, peer, args.view, task, args.tune_day, settings_to_try, fit)
        split = Split.of(args.out, args.view, task, args.day)
        for seed in args.seeds:
            began = time.process_time()
            scores, _ = fit(split, chosen["settings"], seed, chosen["rounds"])
            details = {
                "version": f"{package} {importlib.metadata.version(package)}",
                "features": len(split.features),
                "rows": len(split.train),
                "seconds": round(time.process_time() - began, 1),
                **chosen,
            }
            path = args.out / "scores" / args.day.isoformat() / f"{peer}.{args.view}.{task}.{seed}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame({"score": scores}).to_parquet(path)
            path.with_suffix(".json").write_text(json.dumps(details) + "\n")
            print(
                f"{peer} {args.view} {task} seed {seed}: AUC {auc(scores, split.labels[1]):.4f} {details}", flush=True
            )


def _settings(
    out: Path, peer: str, view: str, task: str, day: date, settings_to_try: Sequence[dict[str, Any]], fit: Fit
) -> dict[str, Any]:
    """Those with the highest AUC of the first task on the day, and the rounds that are best with them for this task."""
    path = out / "settings" / f"{peer}.{view}.{task}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    others = sorted(path.parent.glob(f"{peer}.{view}.*.json"))
    if others:
        settings_to_try = [json.loads(others[0].read_text())["settings"]]
    split, tries = Split.of(out, view, task, day), []
    for settings in settings_to_try:
        began = time.process_time()
        scores, rounds = fit(split, settings, 0, None)
        seconds = round(time.process_time() - began, 1)
        tries.append({"settings": settings, "rounds": rounds, "auc": auc(scores, split.labels[1]), "seconds": seconds})
        print(f"{peer} {view} {task} on {day}: {tries[-1]}", flush=True)
    best = max(tries, key=lambda one: one["auc"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tries").write_text(json.dumps(tries, indent=1) + "\n")
    path.write_text(json.dumps({"settings": best["settings"], "rounds": best["rounds"]}) + "\n")
    return {"settings": best["settings"], "rounds": best["rounds"]}
