"""Cost of a day's build on a log 16 times older, at the same daily volume.

A log of uniform days in which every history is full (max_history) long before the younger age. Both ages stand
equally long after their last history snapshot. Days are built one by one in one warm session; medians are compared.

    python -m benchmarks.samples.age HOME [--young 16] [--times 16] [--repeat 7] [--statistics] [--events 120000]

With --statistics samples have those of four ids; take --young 29 or more, so that their windows are full at both ages.
"""

import argparse
import json
import statistics
import time
from datetime import date, timedelta

from benchmarks.arguments import existing_home, run_main
from benchmarks.samples.logs import simulated
from longreel.contracts.argument_types import at_least
from longreel.lake.home import CONFIG_FILE, Home
from longreel.spark_jobs.build_samples import build_days
from longreel.spark_jobs.days import LazySession

EVERY_DAYS = 7  # days from one history snapshot to the next
STATISTICS = """
[statistics]
user_id = ["impressions", "rate(click)", "rate(like)"]
item_id = ["impressions", "rate(click)", "rate(like)"]
author_id = ["impressions", "rate(click)", "rate(like)"]
"user_id * surface" = ["impressions", "rate(click)", "rate(like)"]
"""


def main() -> None:
    """Print the seconds of both ages as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=existing_home)
    parser.add_argument("--young", type=at_least(1), default=16)
    parser.add_argument("--times", type=at_least(1), default=16)
    parser.add_argument("--repeat", type=at_least(1), default=7)
    parser.add_argument("--statistics", action="store_true")
    parser.add_argument("--events", type=at_least(1), default=120_000, help="a day; a twelfth as many users")
    args = parser.parse_args()
    first, old = date(2026, 1, 1), args.young * args.times
    home, days = Home(args.home.absolute()), old + args.repeat
    if not args.home.exists():
        simulated(args.home, users=args.events // 12, events=args.events * days, days=days, max_history=64)
        if args.statistics:
            with (args.home / CONFIG_FILE).open("a") as config:
                config.write(STATISTICS)
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
    run_main(main)
