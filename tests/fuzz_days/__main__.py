"""`python -m tests.fuzz_days --days 2000 --seed 1`: ingest random days and compare each with plain Python.

A fault is a crash (any error but one for the user), a refusal of a day that is in order, lost rows, or another reason
or value than expected. Each fault is made smaller and printed as Python. Ends with 1 where there is one.
"""

import argparse
import sys
import time
from collections import Counter
from multiprocessing import get_context

from tests.fuzz_days.many import run


def main() -> int:
    """Run the days; 0 where all were right."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_days", description=__doc__)
    parser.add_argument("--days", type=int, default=100, help="number of days")
    parser.add_argument("--seed", type=int, default=1, help="day N is made from the seed and N")
    parser.add_argument("--first", type=int, default=0, help="number of the first day")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shrink", type=int, default=60, help="trials to make a fault smaller")
    args = parser.parse_args()
    began = time.monotonic()
    numbers = range(args.first, args.first + args.days)
    shares = [(numbers[share :: args.processes], args.seed, args.shrink) for share in range(args.processes)]
    if args.processes == 1:
        counts = [run(*shares[0])]
    else:
        with get_context("spawn").Pool(args.processes) as pool:
            counts = pool.starmap(run, shares)
    total: Counter[str] = sum(counts, Counter())
    faults = total.total() - total[""]
    by_name = ", ".join(f"{name}: {count}" for name, count in sorted(total.items()) if name) or "no fault"
    seconds = time.monotonic() - began
    print(f"seed {args.seed}: {total.total():,} days in {seconds:.0f} s, {total['']:,} right, {by_name}")
    print(f"crashes: {total['crash']}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
