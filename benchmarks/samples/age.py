"""Cost of a day's build on a log 16 times older, at the same daily volume.

A log of uniform days in which every history is full (max_history) long before the younger age. Both ages stand
equally long after their last history snapshot. Days are built one by one in one warm session; medians are compared.

    python -m benchmarks.samples.age HOME [--young 16] [--times 16] [--repeat 7]
"""

import argparse
import json
import statistics
import time
from datetime import date, timedelta
from pathlib import Path

from benchmarks.samples.logs import simulated
from longreel.lake.home import Home
from longreel.spark_jobs.build_samples import build_days
from longreel.spark_jobs.days import LazySession

EVERY_DAYS = 7  # days from one history snapshot to the next


def main() -> None:
    """Print the seconds of both ages as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--young", type=int, default=16)
    parser.add_argument("--times", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    first, old = date(2026, 1, 1), args.young * args.times
    home = Home(args.home.absolute())
    if not args.home.exists():
        simulated(args.home, users=10_000, events=120_000 * (old + args.repeat), days=old + args.repeat, max_history=64)
    session = LazySession("age of the log")
    results: dict[str, object] = {}
    for name, age in (("young", args.young), ("old", old)):
        start = first + timedelta(days=age)
        build_days(home, [start - timedelta(days=1)], session, force=True, accept_drift=True)  # compacts when due
        seconds = []
        for number in range(args.repeat):
            began = time.monotonic()
            build_days(home, [start + timedelta(days=number)], session, force=True, accept_drift=True)
            seconds.append(round(time.monotonic() - began, 3))
        counts = home.lake.require("samples", start).counts
        results[name] = {
            "age_days": age,
            "seconds": seconds,
            "median_s": statistics.median(seconds),
            "users": counts["users"],
            "history_events": counts["history_events"],
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
