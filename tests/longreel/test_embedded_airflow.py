"""What the embedded Airflow is told by its environment; under a real one: tests/reliability."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from contracts.home import Home
from longreel.embedded_airflow import DATABASE, EmbeddedAirflow, airflow_environment

URI = "postgresql+psycopg://someone@127.0.0.1/airflow"
SETTINGS = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC")


def test_its_database_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (DATABASE, *SETTINGS):
        monkeypatch.delenv(variable, raising=False)
    assert not set(SETTINGS) & set(airflow_environment(Home(tmp_path), 8080, {}))  # SQLite in AIRFLOW_HOME
    monkeypatch.setenv(DATABASE, URI)
    assert [airflow_environment(Home(tmp_path), 8080, {})[name] for name in SETTINGS] == [URI, URI]


def test_a_server_that_fails_for_a_while_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        airflow = EmbeddedAirflow(Home(tmp_path), {})
        airflow.url, airflow._token = f"http://127.0.0.1:{server.server_port}", "token"
        airflow._make_pools()
        server.shutdown()
    assert posted == ["longreel_spark"] * 3 + ["longreel_train"]
    assert answers == []
