"""Many random days in one process, each fault made smaller."""

import time
from collections import Counter
from random import Random

from tests.fuzz_days.days import draw_day
from tests.fuzz_days.ingest import Verdict, run_day
from tests.fuzz_days.shrink import smallest


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
