"""Cost of scoring one request of the longest history, from the packed batch on the host to logits on the host.

    python -m benchmarks.training.scoring_cost [--widths 64 256 1024]

The number that the gates hold against a budget (model/evaluation/latency.py), for rankers of several widths with
fresh weights: a budget for a device in gates.toml is chosen from it.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.arguments import run_main
from benchmarks.training.__main__ import schema_for, sizes_for
from benchmarks.training.lake import FIRST_DAY, make_lake
from longreel.contracts.argument_types import at_least
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.row_groups import read_rows
from longreel.model.evaluation.batch_scoring import day_groups
from longreel.model.evaluation.latency import measure
from longreel.model.nn.ranker import Ranker
from longreel.model.training.device import select_device

EVENTS = 10_240


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=at_least(1), nargs="+", default=[64, 256, 1_024], help="of the rankers")
    args = parser.parse_args()
    device = select_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        lake = make_lake(Path(folder), schema_for(device), days=1, users=4, history=EVENTS, targets=16)
        rows = read_rows(lake, day_groups(lake, FIRST_DAY))
    encodings = learn_encodings(rows.log_schema, rows)
    print("| device | d | median ms | 10th, 90th percentile | peak MiB |\n| --- | --- | --- | --- | --- |")
    for width in args.widths:
        torch.manual_seed(0)
        ranker = Ranker(sizes_for(device, width), ("click",), rows.log_schema, encodings).to(device).eval()
        cost = measure(ranker, rows, 0, EVENTS, device)
        spread = f"{cost.latency_low_ms:.1f}, {cost.latency_high_ms:.1f}"
        print(
            f"| {cost.device} | {width} | {cost.latency_ms:.1f} | {spread} | {cost.peak_memory_mib:,.0f} |", flush=True
        )


if __name__ == "__main__":
    run_main(main)
