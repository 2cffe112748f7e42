"""Metrics of every peer's scores, and their differences to longreel's, paired by user and averaged over seeds."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from longreel.contracts.errors import LongreelError
from longreel.model.evaluation.bootstrap import bootstrap_weights, weighted_totals
from longreel.model.evaluation.metrics import TaskScores, metrics_of, user_sums

DRAWS = 1_000
METRICS = ("auc", "gauc", "log_loss")
TITLES = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}


def metrics(scores: NDArray[np.float64], labels: NDArray[np.bool_], user: NDArray[np.int64]) -> NDArray[np.float64]:
    """AUC, GAUC and log loss, of all and of every bootstrap replicate: [1 + DRAWS, 3]. Users are ordinals."""
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    task = TaskScores.of(np.log(clipped) - np.log1p(-clipped), labels, user)
    users, sums = user_sums(task)
    whole = sums.sum(axis=0)
    weights = bootstrap_weights(int(user.max()) + 1, DRAWS, seed=0)
    totals = np.concatenate([whole[None], weighted_totals(weights, users, sums)])
    values = metrics_of(totals, whole)
    return np.stack([values[name] for name in METRICS], axis=1)


def compare(out: Path, day: date, base: str) -> list[dict[str, Any]]:
    """A row for each peer, view and task of a day, with differences to `base`, such as `longreel.A`; also skipped ones.

    Raises:
        LongreelError: scores of `base` are missing, or a file has another number of targets than the day.
    """
    targets = pd.read_parquet(out / "targets.parquet")
    targets = targets[targets["day"] == day.isoformat()]
    _, user = np.unique(targets["user_id"].to_numpy(), return_inverse=True)
    by_name: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    details: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted((out / "scores" / day.isoformat()).glob("*.parquet")):
        peer, view, task, _ = path.stem.split(".")
        scores = pd.read_parquet(path)["score"].to_numpy()
        if len(scores) != len(targets):
            raise LongreelError(f"{path}: expected {len(targets):,} scores, got {len(scores):,}; fit it again")
        key = (f"{peer}.{view}", task)
        by_name.setdefault(key, []).append(metrics(scores, targets[f"label_{task}"].to_numpy() > 0, user))
        details.setdefault(key, []).append(json.loads(path.with_suffix(".json").read_text()))
    rows = []
    for (name, task), values in by_name.items():
        if (base, task) not in by_name:
            raise LongreelError(f"no scores of {base} for {task} on {day} in {out}; run `score` first")
        mean, ours = np.mean(values, axis=0), np.mean(by_name[base, task], axis=0)
        gap = mean - ours
        row: dict[str, Any] = {"peer": name, "task": task, "day": day.isoformat(), "seeds": len(values)}
        for at, metric in enumerate(METRICS):
            low, high = np.quantile(gap[1:, at], [0.025, 0.975])
            interval = {"minus": gap[0, at], "low": low, "high": high} if name != base else {}
            row[metric] = {"value": mean[0, at], **interval}
        rows.append(row | {"targets": len(targets), "users": int(user.max()) + 1, "details": details[name, task][0]})
    for path in sorted((out / "scores" / day.isoformat()).glob("*.skipped")):
        rows.append({"peer": path.stem, "day": day.isoformat(), "skipped": path.read_text().strip()})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table for each task, the highest AUC first; then what was skipped, and why."""
    blocks = []
    for task in dict.fromkeys(row["task"] for row in rows if "task" in row):
        lines = [
            f"### {task}",
            "",
            "| model | view | AUC | minus longreel | GAUC | minus longreel | log loss | CPU s |",
        ]
        lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
        ours = (row for row in rows if row.get("task") == task)
        for row in sorted(ours, key=lambda r: -r["auc"]["value"]):
            peer, view = row["peer"].split(".")
            loss, seconds = row["log_loss"]["value"], row["details"]["seconds"]
            cells = [_cells(row["auc"]), _cells(row["gauc"]), f"{loss:.4f}", f"{seconds:.0f}"]
            lines.append(f"| {peer} | {view} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    blocks += [f"{row['peer']}: skipped, {row['skipped']}" for row in rows if "skipped" in row]
    return "\n\n".join(blocks)


def _cells(metric: dict[str, float]) -> str:
    gap = f"{metric['minus']:+.4f} ({metric['low']:+.4f} .. {metric['high']:+.4f})" if "minus" in metric else ""
    return f"{metric['value']:.4f} | {gap}"
