"""results.json -> results.md: what each contender costs, what a target costs on disk, and what the log's age costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

CASES = ("filetouch, 512", "filetouch, 2,048", "filetouch, 10,240", "filetouch, whole log", "simulated, 2,048")
BUILDERS = ("longreel", "exploded", "duckdb")
WINDOWS = ("512", "2,048", "10,240")

Results = dict[str, Any]


def write_tables(results: Results, path: Path) -> None:
    """Write all tables."""
    parts = [
        "# Samples: results",
        "Written by `python -m benchmarks.samples WORK`. [README.md](README.md) says what was compared.",
        "## One range of days, three builders\n\n" + "\n".join(_costs(results)),
        "## Bytes on disk for each target (zstd level 3 everywhere)\n\n" + "\n".join(_bytes(results)),
        "## The same day's build on a log 16 times older\n\n" + "\n".join(_age(results)),
    ]
    path.write_text("\n\n".join(parts) + "\n")


def _costs(results: Results) -> Iterator[str]:
    yield "| log, window | builder | seconds | of DuckDB's | peak MiB | MB on disk | history events a target |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for case in (*CASES, "simulated, last day"):
        targets = _targets(results, case)
        against = _one(results, case, "duckdb")
        keys = [key.removeprefix(f"{case}: ") for key in results if key.startswith(f"{case}: ")]
        names = [name for name in keys if name.startswith(BUILDERS)]
        for name in sorted(names, key=lambda name: BUILDERS.index(name.split(",")[0])):
            result = results[f"{case}: {name}"]
            if result["failed"]:
                failed = f"out of memory after {result['seconds']:.0f}" if "Memory" in result["failed"] else "failed"
                yield f"| {case} | {name} | {failed} | | {result['peak_mib']:,.0f} | | |"
                continue
            ratio = f"{result['seconds'] / against['seconds']:.1f}x" if against else ""
            events_a_target = f"{result['history_events'] / targets:,.1f}" if targets else ""
            size = f"{result['bytes'] / 1e6:,.1f}"
            seconds = f"{result['seconds']:.1f}"
            yield f"| {case} | {name} | {seconds} | {ratio} | {result['peak_mib']:,.0f} | {size} | {events_a_target} |"


def _one(results: Results, case: str, name: str) -> Results | None:
    """A contender's result, in one run or in ranges, where it came to an end."""
    ended = [
        r for k, r in results.items() if k.startswith(f"{case}: {name}") and isinstance(r, dict) and not r["failed"]
    ]
    return ended[0] if ended else None


def _targets(results: Results, case: str) -> float | None:
    """Impressions of a case: every one is a row of the exploded samples."""
    exploded = _one(results, case, "exploded")
    return exploded["rows"] if exploded else results.get(f"{case}: targets")


def _bytes(results: Results) -> Iterator[str]:
    yield (
        "| window | longreel | rows user by user | rows by time | rows shuffled | longreel against shuffled "
        "| history events decoded: exploded / longreel |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for window in WINDOWS:
        ours, theirs = (_one(results, f"filetouch, {window}", name) for name in ("longreel", "exploded"))
        if not ours or not theirs:
            continue
        targets = theirs["rows"]
        mine, joined = ours["bytes"] / targets, theirs["bytes"] / targets
        in_time, shuffled = (
            results[f"filetouch, {window}: bytes a target, rows in {o} order"] for o in ("time", "random")
        )
        saved = f"{mine / shuffled - 1:+.1%}"
        fewer = f"{theirs['history_events'] / ours['history_events']:.1f}x"
        yield f"| {window} | {mine:,.0f} | {joined:,.0f} | {in_time:,.0f} | {shuffled:,.0f} | {saved} | {fewer} |"


def _age(results: Results) -> Iterator[str]:
    young, old = (results["age"][name] for name in ("young", "old"))
    yield "| age of the log | median seconds of a day's build | users | history events |"
    yield "| --- | --- | --- | --- |"
    for result in (young, old):
        age = f"{result['age_days']} days | {result['median_s']:.2f}"
        yield f"| {age} | {result['users']:,} | {result['history_events']:,} |"
    yield f"\nRatio {old['median_s'] / young['median_s']:.2f}."
