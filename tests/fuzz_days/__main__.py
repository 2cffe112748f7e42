"""`python -m tests.fuzz_days --days 2000 --seed 1`: ingest random days and compare each with plain Python.

A fault is a crash (any error but one for the user), a refusal of a day that is in order, lost rows, or another reason
or value than expected. Each fault is made smaller and printed as Python. Ends with 1 where there is one.
"""

import argparse
import sys
import time
from collections import Counter
from multiprocessing import get_context
from random import Random

from tests.fuzz_days.days import draw_day
from tests.fuzz_days.ingest import Verdict, run_day
from tests.fuzz_days.shrink import smallest


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
    print(
        f"seed {args.seed}: {total.total():,} days in {time.monotonic() - began:.0f} s, {total['']:,} right, ", end=""
    )
    print(", ".join(f"{name}: {count}" for name, count in sorted(total.items()) if name) or "no fault")
    print(f"crashes: {total['crash']}")
    return bool(faults)


def run(numbers: range, seed: int, trials: int) -> Counter[str]:
    """Run some days in this process; returns how many had which fault."""
    from longreel.spark_jobs.session import spark_session

    spark = spark_session("fuzz days")
    spark.sparkContext.setLogLevel("OFF")
    for name, value in {"spark.sql.shuffle.partitions": "1", "spark.sql.adaptive.enabled": "false"}.items():
        spark.conf.set(name, value)  # a third less time a day
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for at, number in enumerate(numbers):
        counts[run_one(spark, seed, number, trials)] += 1
        if at % 100 == 99:
            print(f"... {at + 1} days, {(time.monotonic() - began) / (at + 1):.2f} s a day: {dict(counts)}", flush=True)
    return counts


def run_one(spark: object, seed: int, number: int, trials: int) -> str:
    """Run a day; prints its fault, if it has one, and returns the name."""
    odd = number % 4 != 0
    day = draw_day(Random(f"{seed} {number}"), odd=odd)

    def evaluate(candidate: object) -> Verdict:
        return run_day(spark, candidate)  # type: ignore[arg-type]

    result = evaluate(day)
    if result.fault:
        day, result = smallest(day, result, evaluate, trials)
        print(f"\nday {number}: {result.fault}: {result.detail[:1500]}\n  {day}\n", flush=True)
    return result.fault


if __name__ == "__main__":
    sys.exit(main())
