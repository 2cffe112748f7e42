"""Environment, retries and leftovers of the embedded Airflow; tests/reliability starts a real one."""

import fcntl
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from longreel.airflow_settings import DATABASE, airflow_environment
from longreel.contracts.errors import LongreelError
from longreel.embedded_airflow import EmbeddedAirflow
from longreel.lake.home import Home

URI = "postgresql+psycopg://someone@127.0.0.1/airflow"
SETTINGS = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC")


def test_the_database_is_the_configured_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (DATABASE, *SETTINGS):
        monkeypatch.delenv(variable, raising=False)
    file = f"{tmp_path}/airflow/airflow.db"
    own = [airflow_environment(Home(tmp_path), 8080, {})[name] for name in SETTINGS]
    assert own == [f"sqlite:///{file}", f"sqlite+aiosqlite:///{file}"]
    monkeypatch.setenv(DATABASE, URI)
    assert [airflow_environment(Home(tmp_path), 8080, {})[name] for name in SETTINGS] == [URI, URI]


def test_the_dags_folder_holds_the_dags(tmp_path: Path) -> None:
    folder = Path(airflow_environment(Home(tmp_path), 8080, {})["AIRFLOW__CORE__DAGS_FOLDER"])
    assert {path.name for path in folder.glob("longreel_*.py")} > {"longreel_daily.py", "longreel_train.py"}
    assert (folder / "pools.json").is_file()


def test_requests_are_retried_while_the_server_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite lets one process write at a time; just after the start there are many."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answers, posted = [500, 200, 503, 500, 409, 200], []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code := answers.pop(0))
            self.end_headers()
            self.wfile.write(b'{"pools": [{"name": "default_pool"}]}' if code == 200 else b"{}")

        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["name"])
            self.send_response(answers.pop(0))
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        airflow = EmbeddedAirflow(Home(tmp_path), {})
        airflow.url, airflow._token = f"http://127.0.0.1:{server.server_port}", "token"
        airflow._make_pools()
        server.shutdown()
    assert posted == ["longreel_spark"] * 3 + ["longreel_train"]
    assert answers == []


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_leftover_airflow_is_ended_and_another_process_with_its_id_is_not(is_ours: bool, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.airflow.mkdir()
    environment = os.environ | {"AIRFLOW_HOME": str(home.airflow if is_ours else tmp_path / "other")}
    pipe = subprocess.PIPE
    with subprocess.Popen(["cat"], env=environment, start_new_session=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"started\n")
        process.stdin.flush()
        process.stdout.readline()  # a process has no environment to read while it is being started
        (home.airflow / "standalone.pid").write_text(str(process.pid))
        EmbeddedAirflow(home, {})._stop_leftover()
        assert (process.poll() is not None) == is_ours
        process.kill()
    assert not (home.airflow / "standalone.pid").exists()


def test_an_empty_pid_file_is_ignored(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.airflow.mkdir()
    (home.airflow / "standalone.pid").touch()
    EmbeddedAirflow(home, {})._stop_leftover()
    assert not (home.airflow / "standalone.pid").exists()


def test_the_airflow_of_a_running_command_is_no_leftover(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.airflow.mkdir()
    environment = os.environ | {"AIRFLOW_HOME": str(home.airflow)}
    with (
        subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True) as process,
        (home.airflow / "standalone.lock").open("w") as lock,
    ):
        (home.airflow / "standalone.pid").write_text(str(process.pid))
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LongreelError, match="in use by another"):
            EmbeddedAirflow(home, {}).__enter__()
        assert process.poll() is None
        process.kill()
