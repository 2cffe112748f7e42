"""Faults under a real Airflow, each in its own home, followed by checks of every store.

The world's fourth day is new: Airflow builds it and trains for it, and meanwhile something is killed, full or wrong.
A fault returns what happened, in words and measured seconds, for the table of docs/reliability.md.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from longreel.components.registry import versions
from longreel.components.registry.ledger import Ledger
from longreel.lake.home import TRACKING_VARIABLE, Home
from longreel.run import spark_variables
from tests.reliability.lossy_proxy import losing
from tests.reliability.pipeline import (
    Case,
    World,
    client_of,
    log_of,
    raw_file,
    require_promoted_once,
    require_published,
    require_whole,
    run_states,
    spoil,
    stages_of,
    step,
    unpublished,
)
from tests.reliability.stack import DAILY, TRAIN, Stack, ancestors, live, mlflow_server, until

FAULTS: dict[str, Case] = {}


def fault(name: str, done: str, checked: str) -> Callable[[Callable[[World, Path], str]], Callable[[World, Path], str]]:
    """Enter a function into the table."""

    def entered(run: Callable[[World, Path], str]) -> Callable[[World, Path], str]:
        FAULTS[name] = Case(name, done, checked, run)
        return run

    return entered


RIGHT = "all is right"  # docs/reliability.md says what that is
DAY = "the day is right"  # likewise; nothing is trained here


@contextmanager
def started(world: World, home: Home, **variables: str) -> Iterator[Stack]:
    """An Airflow whose schedule is the world's fourth day; afterwards nothing of it lives."""
    day = str(world.day)
    ends = {"LONGREEL_FIRST_DAY": day, "LONGREEL_LAST_DAY": day}
    with Stack(home, ends | spark_variables(home, world.day) | variables) as stack:
        yield stack
    left = stack.left()
    assert left == [], left


def staged(world: World, home: Home, dataset: str = "events") -> None:
    """Wait until a build of the fourth day has files that are not visible yet."""
    until(lambda: stages_of(home.lake, dataset, world.day), f"files of {dataset} being built", 400, every=0.05)
    assert home.lake.manifest(dataset, world.day) is None, "published before anything could break"


def in_training(world: World, home: Home) -> None:
    """Wait until a training has saved a checkpoint and goes on."""
    until(lambda: list(home.work.glob("train/*/checkpoints/step-*")), "a checkpoint of the training", 600, every=0.1)
    assert not list(home.work.glob("train/*/done.json")), "trained before anything could break"


def tries(stack: Stack, dag: str, task: str, key: str) -> int:
    """How many tries the task of a partition's oldest run took."""
    return int(stack.task(dag, stack.first(dag, key), task)["try_number"])


def succeeded(stack: Stack, dag: str, key: str, seconds: float = 900) -> str:
    """The partition's oldest run, waited for; it ended well."""
    run_id = stack.first(dag, key, seconds)
    state = stack.ended(dag, run_id, seconds)
    assert state == "success", f"{dag} {key} ended as {state}; logs in {stack.home.airflow / 'logs'}"
    return run_id


def both_succeeded(stack: Stack, world: World) -> None:
    """The day was built and the training for it ran, and nothing goes on."""
    for dag in (DAILY, TRAIN):
        succeeded(stack, dag, str(world.day))
    stack.quiet()


def resumed(home: Home, stack: Stack, world: World) -> str:
    """From which step the training went on, as its log says."""
    log = log_of(home, TRAIN, stack.first(TRAIN, str(world.day)), "retrain")
    places = [line.split("resuming from step ")[1].split()[0] for line in log.splitlines() if "resuming from" in line]
    assert places, "the training began again from the first step"
    return places[-1]


# Processes that die
@fault("scheduler-in-spark", "SIGKILL to the scheduler alone while `ingest` has files staged; a new one at once", RIGHT)
def scheduler_in_spark(world: World, where: Path) -> str:
    home = world.home(where)
    with started(world, home) as stack:
        staged(world, home)
        return _scheduler_killed(world, stack, "ingest", DAILY)


@fault("scheduler-in-training", "the same in the middle of a training, after its first checkpoint", RIGHT)
def scheduler_in_training(world: World, where: Path) -> str:
    home = world.home(where)
    with started(world, home) as stack:
        in_training(world, home)
        return (
            _scheduler_killed(world, stack, "retrain", TRAIN)
            + f"; training went on from step {resumed(home, stack, world)}"
        )


@fault(
    "takeover-in-spark",
    "the same, and the Java process stands still (SIGSTOP) until the new scheduler has taken the task over, as if the "
    "build took hours",
    RIGHT,
)
def takeover_in_spark(world: World, where: Path) -> str:
    home = world.home(where)
    with started(world, home) as stack:
        staged(world, home)
        java = live("java", "SparkSubmit", str(home.path), "ingest")[-1]
        with _standing_still(java, lambda: len(live("java", str(home.path))) > 1):
            return _scheduler_killed(world, stack, "ingest", DAILY)


@contextlib.contextmanager
def _standing_still(process: psutil.Process, moment: Callable[[], bool]) -> Iterator[None]:
    """Suspend a process; it goes on at a moment, for which the end of the block waits."""
    process.suspend()
    goes_on = threading.Thread(target=_resume_at, args=(process, moment))
    goes_on.start()
    try:
        yield
    finally:
        goes_on.join()


def _resume_at(process: psutil.Process, moment: Callable[[], bool]) -> None:
    """Let a process go on at a moment, or when it is gone or ten minutes are over."""
    deadline = time.monotonic() + 600
    while process.is_running() and not moment() and time.monotonic() < deadline:
        time.sleep(0.2)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


@fault(
    "takeover-after-promotion",
    "SIGKILL to the scheduler alone once `retrain` has promoted, which stands still (SIGSTOP) from then on until the "
    "new scheduler has started it again",
    RIGHT,
)
def takeover_after_promotion(world: World, where: Path) -> str:
    home = world.home(where)
    with started(world, home) as stack:
        until(lambda: list(home.work.glob("train/*/done.json")), "the end of the training", 900, every=0.1)
        until(lambda: Ledger(home, client_of(home)).entries(), "the promotion", 300, every=0.1)
        retrain = _youngest_retrain(home)
        with _standing_still(retrain, lambda: _youngest_retrain(home) != retrain):
            result = _scheduler_killed(world, stack, "retrain", TRAIN)
        assert "is the champion already" in log_of(home, TRAIN, stack.first(TRAIN, str(world.day)), "retrain")
    return f"{result}; the second try found it done"


def _youngest_retrain(home: Home) -> psutil.Process:
    return live("longreel", " retrain ", str(home.path))[-1]


def _scheduler_killed(world: World, stack: Stack, task: str, dag: str) -> str:
    key, began = str(world.day), time.monotonic()
    run_id = stack.first(dag, key)
    stack.kill_scheduler()
    stack.start_scheduler()
    until(
        lambda: stack.task(dag, run_id, task).get("try_number", 0) > 1 or _is_over(stack, dag, run_id, task),
        "a second try",
        600,
    )
    again = time.monotonic() - began
    until(lambda: _is_over(stack, dag, run_id, task), f"the end of {task}", 900)
    over = time.monotonic() - began
    both_succeeded(stack, world)
    require_published(world, stack.home)
    require_promoted_once(stack.home, model=world.expected["model"])
    number = tries(stack, dag, task, key)
    left = f"builds left unpublished: {unpublished(stack.home.lake)}"
    if number == 1:  # its worker needs no scheduler to report to
        return f"the try under way ended by itself, {over:.0f} s after the kill; {left}"
    return f"`{task}` was taken over {again:.0f} s after the kill and done after {over:.0f} s, on try {number}; {left}"


def _is_over(stack: Stack, dag: str, run_id: str, task: str) -> bool:
    return stack.task(dag, run_id, task).get("state") == "success"


@fault(
    "power-cut-in-training",
    "SIGKILL to every process, tasks too, in the middle of a training; all started again",
    RIGHT,
)
def power_cut(world: World, where: Path) -> str:
    home, day = world.home(where), str(world.day)
    with started(world, home) as stack:
        in_training(world, home)
        stack.kill_everything()
        until(lambda: not stack.left(), "the end of every process", 30)
        began = time.monotonic()
    with started(world, home) as stack:
        up = time.monotonic() - began
        both_succeeded(stack, world)
        over = time.monotonic() - began - 5
        number, at = tries(stack, TRAIN, "retrain", day), resumed(home, stack, world)
    require_published(world, home)
    require_promoted_once(home, model=world.expected["model"])
    return f"Airflow up again after {up:.0f} s, all done after {over:.0f} s, `retrain` on try {number}, from step {at}"


@fault(
    "spark-killed",
    "SIGKILL to the Java process of `ingest` while it has files staged, as the kernel does when memory ends",
    DAY,
)
def spark_killed(world: World, where: Path) -> str:
    home = world.home(where, trains=False)
    with started(world, home) as stack:
        staged(world, home)
        return _step_killed(world, stack, live("java", "SparkSubmit", str(home.path), "ingest")[-1], DAILY, "ingest")


@fault("training-killed", "SIGKILL to the training's process after its first checkpoint", RIGHT)
def training_killed(world: World, where: Path) -> str:
    home = world.home(where)
    with started(world, home) as stack:
        in_training(world, home)
        result = _step_killed(world, stack, live("longreel", " train ", str(home.path))[-1], TRAIN, "retrain")
        return f"{result}, from step {resumed(home, stack, world)}"


@fault("worker-killed", "SIGKILL to the LocalExecutor's worker that supervises `ingest`; its task lives on", DAY)
def worker_killed(world: World, where: Path) -> str:
    home = world.home(where, trains=False)
    with started(world, home) as stack:
        staged(world, home)
        java = live("java", "SparkSubmit", str(home.path), "ingest")[-1]
        return _step_killed(world, stack, ancestors(java, "LocalExecutor"), DAILY, "ingest")


@fault(
    "task-killed",
    "SIGKILL to the task's own process (Airflow's task runner) of `ingest`; what it started lives on",
    DAY,
)
def task_killed(world: World, where: Path) -> str:
    home = world.home(where, trains=False)
    with started(world, home) as stack:
        staged(world, home)
        java = live("java", "SparkSubmit", str(home.path), "ingest")[-1]
        runner = next(p for p in java.parents() if "airflow worker" in " ".join(p.cmdline()))
        return _step_killed(world, stack, runner, DAILY, "ingest")


def _step_killed(world: World, stack: Stack, process: psutil.Process, dag: str, task: str) -> str:
    key, began = str(world.day), time.monotonic()
    run_id = stack.first(dag, key)
    words, copies = (("java", " ingest ") if dag == DAILY else ("longreel", " train ")), 0
    process.kill()

    def over_now() -> bool:
        nonlocal copies
        copies = max(copies, len(live(*words, "--home", str(stack.home.path))))
        return _is_over(stack, dag, run_id, task)

    until(over_now, f"the end of {task}", 900)
    over = time.monotonic() - began
    both_succeeded(stack, world)
    require_published(world, stack.home)
    if dag == TRAIN:
        require_promoted_once(stack.home, model=world.expected["model"])
    also = "; two copies ran at once meanwhile" if copies > 1 else ""
    return f"`{task}` done {over:.0f} s after the kill, on try {tries(stack, dag, task, key)}{also}"


# Stores that fail
@fault(
    "mlflow-down",
    "the MLflow server (http) is killed in the middle of a training and starts again a minute later",
    f"{RIGHT}; curves and plots in the MLflow run",
)
def mlflow_down(world: World, where: Path) -> str:
    home, day = world.home(where), str(world.day)
    with mlflow_server(where / "server", f"sqlite:///{where / 'server.db'}") as server:
        with started(world, home, **{TRACKING_VARIABLE: server.url}) as stack:
            in_training(world, home)
            server.kill()
            down = time.monotonic()
            time.sleep(60)
            server.start()
            up = time.monotonic()
            both_succeeded(stack, world)
            over, number = time.monotonic() - up - 5, tries(stack, TRAIN, "retrain", day)
        require_published(world, home)
        run_id = require_promoted_once(home, server.url, world.expected["model"])
        client = client_of(home, server.url)
        assert len(client.get_metric_history(run_id, "train/loss")) > 3
        assert client.list_artifacts(run_id, "plots")
    return f"down for {up - down:.0f} s; all done {over:.0f} s after it was back, `retrain` on try {number}"


@fault(
    "disk-full",
    "the lake's disk (a tmpfs) is full while the day is built, and has space again after the first failure",
    f"while the disk is full, nothing new is visible and no build remains; then {RIGHT}",
)
def disk_full(world: World, where: Path) -> str:
    home, day = world.home(where), str(world.day)
    with small_disk(home.path / "lake") as ballast, started(world, home) as stack:
        run_id = stack.first(DAILY, day)
        until(
            lambda: stack.task(DAILY, run_id, "ingest").get("state") == "up_for_retry",
            "a failure for lack of space",
            400,
        )
        log = log_of(home, DAILY, run_id, "ingest")
        assert "No space left on device" in log
        assert all(home.lake.manifest(name, world.day) is None for name in ("events", "users", "quarantine", "samples"))
        require_whole(home)
        left = unpublished(home.lake)
        ballast.unlink()
        began = time.monotonic()
        until(lambda: _is_over(stack, DAILY, run_id, "ingest"), "the end of ingest", 600)
        over, number = time.monotonic() - began, tries(stack, DAILY, "ingest", day)
        both_succeeded(stack, world)
        require_published(world, home)
        require_promoted_once(home, model=world.expected["model"])
    assert left == 0, f"{left} builds lay about on a full disk"
    return (
        f"`ingest` failed with ENOSPC and removed its builds; done {over:.0f} s after there was space, on try {number}"
    )


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Put a folder on a separate disk that is full but for 64 KiB; yields the file that fills it.

    Raises:
        PermissionError: this process may not mount.
    """
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        raise PermissionError(f"a separate disk needs the right to mount: {mounted.stderr.decode()}")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(folder)], check=True)
        ballast = folder / "ballast"
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with ballast.open("wb") as file:
            file.write(bytes(free - 65_536))
        yield ballast
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# Things that go wrong without anything dying
@fault(
    "two-runs",
    "a second run of the day in Airflow, `longreel data ingest` by hand while the first one ingests, and "
    "`longreel ops retrain` by hand while the DAG's trains the same candidate",
    RIGHT,
)
def two_runs(world: World, where: Path) -> str:
    home, day = world.home(where), str(world.day)
    with started(world, home) as stack:
        stack.first(DAILY, day)
        stack.trigger(DAILY, day)
        until(lambda: live("java", " ingest ", str(home.path)), "an ingest")
        ingest = by_hand(stack, "data ingest", "--date", day)
        until(lambda: list(home.work.glob("train/*/checkpoints/step-*")), "a training", 900)
        retrain = by_hand(stack, "ops retrain", "--date", day)
        outputs = [process.communicate(timeout=900)[0] for process in (ingest, retrain)]
        stack.quiet()
        runs = stack.runs(DAILY, day)
        assert {run["state"] for run in runs} == {"success"}
        states = [stack.task(TRAIN, run["dag_run_id"], "retrain")["state"] for run in stack.runs(TRAIN, day)]
        assert states.count("success") == 1
    require_published(world, home)
    require_promoted_once(home, model=world.expected["model"])
    assert "waiting for it to end" in outputs[1], "the two trainings did not meet"
    codes = [process.returncode for process in (ingest, retrain)]
    superseded = sum(entry.superseded for entry in Ledger(home, client_of(home)).entries())
    return (
        f"{len(runs)} runs, one after the other; `retrain` of their training runs: {', '.join(states)}; exit codes "
        f"by hand: ingest {codes[0]}, retrain {codes[1]}, which waited for the other training; superseded ledger "
        f"entries: {superseded}"
    )


def by_hand(stack: Stack, *words: str) -> "subprocess.Popen[str]":
    """`longreel WORDS` beside Airflow, in its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "longreel", *words[0].split(), "--home", str(stack.home.path), *words[1:]],
        env=stack.airflow._environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@fault(
    "bad-day",
    "the raw day comes with every tenth row broken, more than the quality limit allows; then the right file "
    "comes and the run is cleared",
    f"stopped: nothing of the day visible, downstream not run, Data Docs and reasons there; after the fix: {RIGHT}",
)
def bad_day(world: World, where: Path) -> str:
    home, day = world.home(where), str(world.day)
    right = spoil(home, world.day)
    with started(world, home) as stack:
        run_id, began = stack.first(DAILY, day), time.monotonic()
        assert stack.ended(DAILY, run_id) == "failed"
        failed, number = time.monotonic() - began, tries(stack, DAILY, "ingest", day)
        assert stack.task(DAILY, run_id, "build_samples")["state"] == "upstream_failed"
        assert stack.runs(TRAIN, day) == []
        assert all(home.lake.manifest(name, world.day) is None for name in ("events", "users", "quarantine", "samples"))
        quality = json.loads((home.reports / day / "quality-events.json").read_text())
        assert not quality["success"]
        assert unpublished(home.lake) == 0
        raw_file(home, world.day).write_bytes(right)
        cleared = time.monotonic()
        stack.cli("dags", "clear", DAILY, "--partition-key", day, "-y")
        until(lambda: home.lake.manifest("samples", world.day), "the day's samples", 400)
        published = time.monotonic() - cleared
        both_succeeded(stack, world)
    require_published(world, home)
    require_promoted_once(home, model=world.expected["model"])
    return (
        f"stopped after {failed:.0f} s and {number} tries (the checkpoint says why); published {published:.0f} s after "
        "it was cleared"
    )


@fault(
    "answer-lost",
    "the MLflow server does what each request says, but a proxy drops its answers to the creation of the run, to the "
    "candidate's registration and to the ledger's entry, so the client repeats these requests",
    "one run, which is finished; one entry of the ledger counts, the alias on it, the retrain ends well",
)
def answer_lost(world: World, where: Path) -> str:
    home, day = world.home(where), str(world.day)
    for name in ("data ingest", "data build-samples"):
        step(home, name, "--date", day)
    lose = [("model-versions/create", "-ledger"), ("model-versions/create", "model_digest")]
    lose += [("runs/create", "candidate")]
    with mlflow_server(where / "server", f"sqlite:///{where / 'server.db'}") as server:
        with losing(server.url, lose) as proxy:
            step(home, "ops retrain", "--date", day, **{TRACKING_VARIABLE: proxy.url})
            assert len(proxy.lost) == len(lose)
        ledger = Ledger(home, client_of(home, server.url))
        entries = ledger.entries()
        (counting,) = [entry for entry in entries if not entry.superseded]
        assert int(ledger.client.get_model_version_by_alias(ledger.model, "champion").version) == counting.to_version
        summary = json.loads((home.reports / day / "summary.json").read_text())
        assert (summary["outcome"], summary["champion_after"]) == ("promote", counting.to_version)
        decisions = [version.decision for version in versions.list_versions(ledger.client, ledger.model)]
        assert run_states(home, ledger.client) == {summary["run_id"]: "FINISHED"}
    return f"{len(entries)} entries, 1 counts; versions: {', '.join(decisions)}"
