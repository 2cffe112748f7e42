"""Which days does a backfill run again, in which order, and how many at once? One row of docs/reliability.md."""

import time
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from contracts.home import Home
from contracts.lake import Manifest
from longreel.run import spark_variables
from tests.reliability.pipeline import Case, World, raw_file, require_published, spoil
from tests.reliability.stack import DAILY, Stack, until


def again(world: World, where: Path) -> str:
    """Three days end well and the fourth fails; then backfills over all four that run none, failed and all of them."""
    home, days = world.home(where, trains=False), [world.day - timedelta(days=back) for back in (3, 2, 1, 0)]
    right = spoil(home, world.day)
    ends = {"LONGREEL_FIRST_DAY": str(days[0]), "LONGREEL_LAST_DAY": str(days[-1])}
    with Stack(home, ends | spark_variables(home, days[0])) as stack:
        states = [stack.ended(DAILY, stack.first(DAILY, str(day)), 900) for day in days]
        assert states == ["success", "success", "success", "failed"]
        stack.quiet()
        before = _manifests(home)
        assert _backfilled(stack, days, "none") == []
        assert home.lake.manifest("samples", world.day) is None

        raw_file(home, world.day).write_bytes(right)
        began = time.monotonic()
        assert _keys(_backfilled(stack, days, "failed")) == [str(world.day)]
        mended = time.monotonic() - began
        require_published(world, home.lake)
        assert _backfilled(stack, days, "failed") == [], "the newest run of a day is the one that counts"
        assert {key: manifest for key, manifest in _manifests(home).items() if key in before} == before

        before = _manifests(home)
        runs = _backfilled(stack, days, "completed", "--run-backwards", "--max-active-runs", "1")
        assert _keys(runs) == [str(day) for day in reversed(days)]
        assert all(one["end_date"] <= next_["start_date"] for one, next_ in pairwise(runs)), "two at once"
        assert _manifests(home) == before
    assert stack.left() == []
    return (
        f"`none`: no run; `failed`: {world.day} alone, published within {mended:.0f} s, and no run when asked again; "
        f"`completed`: {len(runs)} runs, the newest day first, one at a time, every partition left as it was"
    )


BACKFILLS = {
    "backfill-again": Case(
        "backfill-again",
        "4 scheduled days, of which the last fails at the quality checkpoint; then, over all four, `airflow backfill "
        "create --reprocess-behavior none`; the right raw day and `failed`, twice; `completed --run-backwards "
        "--max-active-runs 1`",
        "each backfill makes the runs that its `--dry-run` lists, beside those that are there; then the day is right, "
        "and of the other partitions no manifest has changed",
        again,
    )
}


def _backfilled(stack: Stack, days: list[date], behavior: str, *words: str) -> list[dict[str, Any]]:
    """The runs of a backfill, in the order in which they began; all ended well, and a dry run had listed them so."""
    ends = ("--from-date", str(days[0]), "--to-date", str(days[-1]))
    command = ("backfill", "create", "--dag-id", DAILY, *ends, "--reprocess-behavior", behavior, *words)
    rows = [line.split("|") for line in stack.cli(*command, "--dry-run").splitlines() if line.startswith("|")]
    listed = [cells[2].strip() for cells in rows[1:]]
    known = {run["dag_run_id"] for run in stack.runs(DAILY)}
    stack.cli(*command)
    until(lambda: all(each["completed_at"] for each in _backfills(stack)), f"the end of the backfill {behavior}", 900)
    runs = sorted((r for r in stack.runs(DAILY) if r["dag_run_id"] not in known), key=lambda run: run["start_date"])
    assert {run["state"] for run in runs} <= {"success"}
    assert {run["run_type"] for run in runs} <= {"backfill"}
    assert _keys(runs) == listed
    return runs


def _backfills(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.ask("GET", f"backfills?dag_id={DAILY}")["backfills"]
    return found


def _keys(runs: list[dict[str, Any]]) -> list[str]:
    return [run["partition_key"] for run in runs]


def _manifests(home: Home) -> dict[tuple[str, date], Manifest]:
    return {(name, day): home.lake.require(name, day) for name in ("events", "samples") for day in home.lake.days(name)}
