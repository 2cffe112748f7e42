"""Backfills: which days run again, in which order and how many at once; one row of docs/reliability.md."""

import shutil
import time
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.run import spark_variables
from tests.reliability.days import event_extras, trained
from tests.reliability.pipeline import (
    FIRST,
    Case,
    World,
    log_of,
    new_home,
    raw_file,
    require_published,
    require_whole,
    spoil,
    step,
)
from tests.reliability.stack import DAILY, REBUILD, TRAIN, Stack, until

LOG = [FIRST + timedelta(days=number) for number in range(10)]
SCHEDULED = LOG[4:6]
AROUND = LOG[2:8]
ONE_BY_ONE = ("--run-backwards", "--max-active-runs", "1")
NOT_ASKED = ("published by a backfill, which starts no training", "came late, which starts no training")


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
        fix_s = time.monotonic() - began
        require_published(world, home)
        assert _backfilled(stack, days, "failed") == [], "the newest run of a day is the one that counts"
        assert {key: manifest for key, manifest in _manifests(home).items() if key in before} == before

        before = _manifests(home)
        runs = _backfilled(stack, days, "completed", "--run-backwards", "--max-active-runs", "1")
        assert _keys(runs) == [str(day) for day in reversed(days)]
        assert all(one["end_date"] <= next_["start_date"] for one, next_ in pairwise(runs)), "two at once"
        assert _manifests(home) == before
    assert stack.left() == []
    return (
        f"`none`: no run; `failed`: {world.day} alone, published within {fix_s:.0f} s, and no run when asked again; "
        f"`completed`: {len(runs)} runs, the newest day first, one at a time, every partition left as it was"
    )


def backwards(_: World, where: Path) -> str:
    """Two days by the schedule; then two backfills, newest first and side by side, each of days before and after."""
    home = new_home(where / "home", len(LOG))
    by_hand = Home(shutil.copytree(home.path, where / "by-hand"))
    ends, results = {"LONGREEL_FIRST_DAY": str(SCHEDULED[0]), "LONGREEL_LAST_DAY": str(SCHEDULED[-1])}, []
    with Stack(home, ends | spark_variables(home, LOG[0])) as stack:
        for day in SCHEDULED:
            assert stack.ended(DAILY, stack.first(DAILY, str(day)), 900) == "success"
        stack.quiet()
        for name, days, words in (("newest first", AROUND, ONE_BY_ONE), ("side by side", LOG, ())):
            if not words:
                stack.cli("pools", "set", "longreel_spark", "3", "three Spark jobs at once")
            began, rebuild_count = time.monotonic(), len(stack.runs(REBUILD))
            runs = _backfilled(stack, days, "none", *words)
            stack.quiet(1800)
            seconds = time.monotonic() - began
            assert not words or _keys(runs) == sorted(_keys(runs), reverse=True)
            worked = _ended_at_once(stack, runs, stack.runs(REBUILD)[rebuild_count:])
            results.append(f"{name}: {len(runs)} days in {seconds:.0f} s, rebuilds: {worked}")
            _built_in_order(by_hand, days)
            require_whole(home)
            assert _digests(home) == _digests(by_hand), "not what oldest first gives"
        _require_no_training(stack)
    assert stack.left() == []
    return "; ".join(results)


BACKFILLS = {
    "backfill-backwards": Case(
        "backfill-backwards",
        "2 days by the schedule; then two times `airflow backfill create` that adds 2 days before those that are there "
        "and 2 after them: with `--run-backwards --max-active-runs 1`, then without (ten runs at once) and three Spark "
        "jobs at once",
        "every run and every rebuild that it starts ends well, Spark steps on their first try; after each backfill "
        "events and samples of all days have the digests of a lake built oldest first, and nothing is stale; each "
        "day's newest asset event has its digest; no backfilled or rebuilt day caused a training",
        backwards,
    ),
    "backfill-again": Case(
        "backfill-again",
        "4 scheduled days, of which the last fails at the quality checkpoint; then, over all four, `airflow backfill "
        "create --reprocess-behavior none`; then the right raw day, and `failed` twice; then `completed "
        "--run-backwards --max-active-runs 1`",
        "each backfill makes the runs that its `--dry-run` lists, beside those that are there; then the day is right, "
        "and of the other partitions no manifest has changed",
        again,
    ),
}


def _backfilled(stack: Stack, days: list[date], behavior: str, *words: str) -> list[dict[str, Any]]:
    """The runs of a backfill, in the order in which they began; all ended well, and a dry run had listed them so."""
    ends = ("--from-date", str(days[0]), "--to-date", str(days[-1]))
    command = ("backfill", "create", "--dag-id", DAILY, *ends, "--reprocess-behavior", behavior, *words)
    rows = [line.split("|") for line in stack.cli(*command, "--dry-run").splitlines() if line.startswith("|")]
    listed = [cells[2].strip() for cells in rows[1:]]
    earlier = {run["dag_run_id"] for run in stack.runs(DAILY)}
    stack.cli(*command)
    until(
        lambda: all(backfill["completed_at"] for backfill in _backfills(stack)),
        f"the end of the backfill {behavior}",
        900,
    )
    runs = sorted((r for r in stack.runs(DAILY) if r["dag_run_id"] not in earlier), key=lambda run: run["start_date"])
    assert {run["state"] for run in runs} <= {"success"}
    assert {run["run_type"] for run in runs} <= {"backfill"}
    assert sorted(_keys(runs)) == sorted(listed)
    return runs


def _built_in_order(home: Home, days: Sequence[date]) -> None:
    """Ingest days by hand, then build the samples of all ingested days again, oldest first."""
    step(home, "data ingest", "--start", str(days[0]), "--end", str(days[-1]))
    for name in ("samples", "history"):
        shutil.rmtree(Path(home.lake.root) / name, ignore_errors=True)
    ingested = list(home.lake.days("events"))
    step(home, "data build-samples", "--start", str(ingested[0]), "--end", str(ingested[-1]))


def _ended_at_once(stack: Stack, runs: list[dict[str, Any]], rebuilds: list[dict[str, Any]]) -> int:
    """No Spark step was tried twice, and rebuilds ended well; how many of these had something to do."""
    assert {run["state"] for run in rebuilds} <= {"success"}
    assert {run["run_type"] for run in rebuilds} <= {"operator_triggered"}
    worked = 0
    for run in [*runs, *rebuilds]:
        tasks = [stack.task(run["dag_id"], run["dag_run_id"], name) for name in ("ingest", "build_samples")]
        assert all(task["try_number"] <= 1 for task in tasks), f"{run['dag_run_id']} was tried again"
        worked += run["dag_id"] == REBUILD and tasks[-1]["state"] == "success"
    return worked


def _require_no_training(stack: Stack) -> None:
    """Every day's newest event tells its published digest, and the policy was asked about scheduled days only."""
    lake = stack.home.lake
    digests = {day: extra["digest"] for day, extra in event_extras(stack, DAILY, REBUILD).items()}
    assert digests == {str(day): lake.require("samples", day).digest for day in LOG}
    assert trained(stack) == []
    policy_days = [
        run["partition_key"]
        for run in stack.runs(TRAIN)
        if not any(reason in log_of(stack.home, TRAIN, run["dag_run_id"], "should_retrain") for reason in NOT_ASKED)
    ]
    assert sorted(policy_days) == [str(day) for day in SCHEDULED]


def _backfills(stack: Stack) -> list[dict[str, Any]]:
    backfills: list[dict[str, Any]] = stack.ask("GET", f"backfills?dag_id={DAILY}")["backfills"]
    return backfills


def _keys(runs: list[dict[str, Any]]) -> list[str]:
    return [run["partition_key"] for run in runs]


def _digests(home: Home) -> dict[tuple[str, date], str]:
    return {key: manifest.digest for key, manifest in _manifests(home).items()}


def _manifests(home: Home) -> dict[tuple[str, date], Manifest]:
    return {(name, day): home.lake.require(name, day) for name in ("events", "samples") for day in home.lake.days(name)}
