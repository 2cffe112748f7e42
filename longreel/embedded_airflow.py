"""Embedded Airflow: `airflow standalone` on 127.0.0.1, a child process that always stops with its parent."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import psutil

from longreel.airflow_settings import DAGS, airflow_environment, sqlite_file
from longreel.contracts.errors import LongreelError
from longreel.contracts.web import open_url
from longreel.lake.home import Home, private_file, private_folder
from longreel.ports import AIRFLOW_PORT, Port

POOLS = DAGS / "pools.json"
STARTUP_S = 180
PASSWORDS = "simple_auth_manager_passwords.json.generated"


class EmbeddedAirflow:
    """A context manager: started on entry, stopped with everything it started on exit, also on Ctrl-C."""

    def __init__(self, home: Home, dag_variables: dict[str, str], port: int | None = None) -> None:
        self.home = home
        self.log = home.airflow / "standalone.log"
        self.url = self.notice = ""  # where it listens, and what a user should know of that: set on entry
        self._chosen_port, self._dag_variables = port, dag_variables
        self._pid_file = home.airflow / "standalone.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""

    def __enter__(self) -> "EmbeddedAirflow":
        private_folder(self.home.airflow)
        self._lock = (self.home.airflow / "standalone.lock").open("w")  # released however this process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LongreelError(
                f"the Airflow of {self.home.path} is in use by another `longreel run` or `longreel ui`; wait for it "
                "to end, or stop it with Ctrl-C (`longreel ui --mlflow-only` opens MLflow beside it)"
            ) from error
        self._stop_leftover()
        self._port = Port("Airflow", AIRFLOW_PORT, self._chosen_port)
        self.url, self.notice = self._port.url, self._port.notice
        self._environment = airflow_environment(self.home, self._port.number, self._dag_variables)
        for file in (self.log, sqlite_file(self.home)):  # Airflow's own would be readable by everybody
            private_file(file)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "longreel.standalone"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid_file.write_text(str(self._process.pid))
        try:
            self._wait_until_up()
            self._make_pools()
        except BaseException:
            self._stop(patience_s=0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(patience_s=15 if kind is None else 0)

    @property
    def password(self) -> str:
        """The generated password of the user `admin`."""
        return str(json.loads((self.home.airflow / PASSWORDS).read_text())["admin"])

    @property
    def sign_in(self) -> str:
        """The address with the user and the password, for a person."""
        return f"{self.url}  user admin  password {self.password}"

    def get(self, path: str) -> dict[str, Any]:
        """GET /api/v2/`path`, signed in."""
        if not self._token:
            body = json.dumps({"username": "admin", "password": self.password}).encode()
            self._token = self._request("/auth/token", body)["access_token"]
        return self._request(f"/api/v2/{path}")

    def _make_pools(self) -> None:
        """Create the pools of the DAGs' tasks; an existing one keeps its size."""
        existing = {pool["name"] for pool in self.get("pools?limit=100")["pools"]}
        for name, pool in json.loads(POOLS.read_text()).items():
            if name in existing:
                continue
            try:
                self._request("/api/v2/pools", json.dumps({"name": name, **pool}).encode())
            except urllib.error.HTTPError as error:
                if error.code != 409:  # created by a request whose answer was lost
                    raise

    def _request(self, path: str, body: bytes | None = None, tries: int = 6) -> dict[str, Any]:
        """The answer, with retries while the server fails: SQLite lets one process write at a time."""
        for attempt in range(tries - 1):
            try:
                return self._request_once(path, body)
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise
            except OSError:  # no connection, or no answer in time
                pass
            time.sleep(2**attempt)
        return self._request_once(path, body)

    def _request_once(self, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        with open_url(request, timeout_s=30) as answer:
            result: dict[str, Any] = json.load(answer)
            return result

    def is_running(self) -> bool:
        """Whether the standalone process is alive."""
        return self._process is not None and self._process.poll() is None

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + STARTUP_S
        while time.monotonic() < deadline:
            if not self.is_running():
                raise LongreelError(f"Airflow stopped while starting; its last lines are in {self.log}")
            try:
                health = self._request("/api/v2/monitor/health", tries=1)
                if health["scheduler"]["status"] == "healthy" and (self.home.airflow / PASSWORDS).exists():
                    (self.home.airflow / PASSWORDS).chmod(0o600)
                    return
            except (OSError, ValueError, KeyError):
                pass
            time.sleep(1)
        raise LongreelError(f"Airflow was not healthy after {STARTUP_S} s; see {self.log}")

    def _stop(self, patience_s: float) -> None:
        """Send SIGINT, which ends it cleanly once idle, then end what is left of its session by force."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=patience_s)
        end_session(process.pid)
        process.wait(timeout=30)
        self._process = None
        self._pid_file.unlink(missing_ok=True)
        self._port.release()
        self._lock.close()

    def _stop_leftover(self) -> None:
        """End an Airflow of this home that a killed `longreel run` left, unless another process has its id by now."""
        if not self._pid_file.exists():
            return
        with contextlib.suppress(ValueError):  # nothing was written yet
            leader = int(self._pid_file.read_text())
            if any(
                _environment_of(process).get("AIRFLOW_HOME") == str(self.home.airflow)
                for process in session_members(leader)
            ):
                end_session(leader)
        self._pid_file.unlink()


def interruptible() -> None:
    """Let Ctrl-C end this process also where a shell started it with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _environment_of(process: psutil.Process) -> dict[str, str]:
    """The environment of a process; empty if it has ended or belongs to another user."""
    try:
        return dict(process.environ())
    except psutil.Error:
        return {}


def session_members(leader: int) -> list[psutil.Process]:
    """Live processes of a session. Tasks have their own process groups but stay in the session."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def end_session(leader: int, grace_s: float = 10.0) -> None:
    """SIGTERM every process of a session (a training saves its state on it), then SIGKILL what is left."""
    psutil.wait_procs(_signalled(session_members(leader), signal.SIGTERM), timeout=grace_s)
    psutil.wait_procs(_signalled(session_members(leader), signal.SIGKILL), timeout=grace_s)


def _signalled(processes: Iterable[psutil.Process], number: signal.Signals) -> list[psutil.Process]:
    reached = []
    for process in processes:
        try:
            process.send_signal(number)
            reached.append(process)
        except psutil.NoSuchProcess:
            continue
    return reached
