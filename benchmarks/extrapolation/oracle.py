"""The ceiling of every model on a simulated day: the metrics of the probabilities and means that it was drawn with.

    python -m benchmarks.extrapolation.oracle HOME --date 2026-01-08     for a home with a simulated log

The truth knows what a user likes, which no history tells in full: a ceiling, not a goal.
"""

import argparse
from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.arguments import existing_home, run_main
from benchmarks.extrapolation.sample_sets import TRUTH, Sets
from longreel.contracts.argument_types import calendar_day
from longreel.contracts.errors import LongreelError
from longreel.contracts.jagged import Ints
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.data.row_groups import read_rows, row_groups
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.metrics import TaskScores, metrics_of, user_sums
from longreel.model.evaluation.number_metrics import NumberScores, number_metrics_of, number_sums

METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss", "rmse": "RMSE", "r2": "R2"}
HISTORY_SLICES = ((0, 32), (32, 128), (128, 512), (512, 2_048), (2_048, None))


def true_means(rows: SampleRows, truth: pa.Table, tasks: Sequence[str]) -> NDArray[np.float64]:
    """The probability that each binary label was drawn with, and the mean of each number label: [targets, tasks].

    Raises:
        LongreelError: a target is not in the table.
    """
    request = np.repeat(np.arange(rows.num_requests), rows.target_counts)
    keys_of_targets = (rows.user_id[rows.request_row[request]], rows.request_time_ms[request], rows.target["item_id"])
    keys_of_truth = [truth.column(name).to_numpy() for name in ("user_id", "time_ms", "item_id")]
    keys = np.stack([np.concatenate([have, want]) for have, want in zip(keys_of_truth, keys_of_targets, strict=True)])
    _, code = np.unique(keys, axis=1, return_inverse=True)
    place = np.full(code.max(initial=0) + 1, -1)
    place[code.reshape(-1)[: truth.num_rows]] = np.arange(truth.num_rows)
    row = place[code.reshape(-1)[truth.num_rows :]]
    if (row < 0).any():
        raise LongreelError(f"{int((row < 0).sum())} targets are not in the truth; simulate and build them again")
    names = [f"mean_{task}" if task in rows.number_labels else f"p_{task}" for task in tasks]
    columns = [truth.column(name).to_numpy()[row].astype(np.float64) for name in names]
    return np.stack(columns, axis=1)


def truth_of(sets: Sets, rows: SampleRows, tasks: Sequence[str]) -> NDArray[np.float64]:
    """As `true_means`, for the test set of a simulated world."""
    return true_means(rows, pq.read_table(sets.folder / TRUTH), tasks)


def logits_of(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p))."""
    inside = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(inside / (1 - inside)))


def ceiling(rows: SampleRows, means: NDArray[np.float64], tasks: Sequence[str]) -> list[dict[str, object]]:
    """METRICS of the truth for every task, over all targets and by how much history a request has."""
    request = np.repeat(np.arange(rows.num_requests), rows.target_counts)
    _, user = np.unique(rows.user_id[rows.request_row[request]], return_inverse=True)
    history, labels, out = rows.history_lengths[request], rows.task_labels(tasks), []
    slices: dict[str, NDArray[np.bool_]] = {"all": np.ones(len(request), bool)}
    for low, high in HISTORY_SLICES:
        name = f"history>={low:,}" if high is None else f"history {low:,}-{high - 1:,}"
        slices[name] = (history >= low) & (history < (high or np.inf))
    for column, task in enumerate(tasks):
        metrics_of_task = _number_metrics if task in rows.number_labels else _metrics
        for name, in_slice in slices.items():
            chosen = in_slice & ~np.isnan(labels[:, column])
            if chosen.any():
                metrics = metrics_of_task(means[chosen, column], labels[chosen, column], user[chosen])
                out.append({"task": task, "slice": name, "targets": int(chosen.sum()), **metrics})
    return out


def _metrics(probabilities: NDArray[np.float64], labels: NDArray[np.float32], user: Ints) -> dict[str, float]:
    whole = user_sums(TaskScores.of(logits_of(probabilities), labels > 0, user))[1].sum(axis=0)
    metrics = metrics_of(whole[None], whole)
    return {name: float(metrics[name][0]) for name in METRICS if name in metrics}


def _number_metrics(means: NDArray[np.float64], labels: NDArray[np.float32], user: Ints) -> dict[str, float]:
    sums = number_sums(NumberScores(means, labels.astype(np.float64), user))[1].sum(axis=0)
    metrics = number_metrics_of(sums[None])
    return {name: float(metrics[name][0]) for name in METRICS if name in metrics}


def day_rows(lake: Lake, day: date) -> SampleRows:
    """A published day's samples, whole."""
    return read_rows(lake, row_groups(lake, [lake.require("samples", day)])[0])


def main() -> None:
    """Print the ceiling of a simulated day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=existing_home)
    parser.add_argument("--date", type=calendar_day, required=True)
    args = parser.parse_args()
    home = Home(args.home)
    rows = day_rows(home.lake, args.date)
    files = sorted((home.path / "truth").glob("date=*/truth.parquet"))
    truth = pa.concat_tables([pq.read_table(path, partitioning=None) for path in files])
    best_possible = ceiling(rows, true_means(rows, truth, home.config.tasks), home.config.tasks)
    print(f"| task | slice | targets | {' | '.join(METRICS.values())} |\n{'| --- ' * (3 + len(METRICS))}|")
    for row in best_possible:
        values = " | ".join(f"{row[name]:.4f}" if name in row else "" for name in METRICS)
        print(f"| {row['task']} | {row['slice']} | {row['targets']:,} | {values} |")


if __name__ == "__main__":
    run_main(main)
