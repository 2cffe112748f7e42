"""A simulated quarter of decisions, written into results.md, quarter.csv and quarter.png.

python -m benchmarks.gates [--users 4000] [--noise 200] [--out benchmarks/gates]
"""

import argparse
import dataclasses
import time
from functools import lru_cache
from pathlib import Path

from benchmarks.arguments import run_main
from benchmarks.gates.quarter import POLICY, RULES, Step, noise, plan, resolve_holds, walk
from benchmarks.gates.results import write
from benchmarks.gates.world import evaluate
from longreel.contracts.argument_types import at_least


def main() -> None:
    """Run and write results.md, quarter.csv and quarter.png."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=at_least(1), default=4_000, help="users a day; ten times as many targets")
    parser.add_argument("--noise", type=at_least(1), default=200, help="noise-only candidates of each kind")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    began, cached = time.monotonic(), lru_cache(maxsize=64)(evaluate)
    plans = plan(args.users)
    walks: dict[str, list[Step]] = {name: [] for name in RULES}
    for name in RULES:
        walks[name] = walk(name, plans, cached)
        print(f"{name}: {sum(s.outcome == 'promote' for s in walks[name])} promotions", flush=True)
    counts = []
    for users, kin in ((1_500, 0.0), (1_500, 0.9), (POLICY.min_users, 0.0)):
        counts.append(noise(users, kin, args.noise))
        print(dataclasses.asdict(counts[-1]), flush=True)
    waits = [resolve_holds(1_500, error, args.noise // 2) for error in (0.8, 0.7)]
    print(*map(dataclasses.asdict, waits), sep="\n", flush=True)
    write(args.out, walks, counts, waits, args.users, POLICY, time.monotonic() - began)


if __name__ == "__main__":
    run_main(main)
