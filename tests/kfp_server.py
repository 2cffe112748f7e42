"""A local server with the part of the KFP v2beta1 REST interface that kfp.Client uses for runs, and levers for tests.

It keeps runs in memory and runs nothing by itself: a test sets states, or has a run's containers run as processes.
"""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Answer = tuple[int, dict[str, Any]]
API = "/apis/v2beta1"


class KfpServer:
    """The server's memory, the requests that it got, and what a test has it do."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []  # "METHOD path" of every request, in order
        self.terminated: list[str] = []
        self.token: str | None = None  # where set, requests without it are refused
        self.fail_next: list[int] = []  # status codes of the next answers
        self.after_create: Any = None  # called once, after the next run was made
        self.url = ""

    def set(self, run_id: str, state: str, **values: Any) -> None:
        """Move a run to a state."""
        self.runs[run_id] |= {"state": state, **values}

    def age(self, run_id: str, hours: float) -> None:
        """Make a run older."""
        self.runs[run_id]["created_at"] = _stamp(datetime.now(UTC) - timedelta(hours=hours))

    def add(self, name: str, state: str = "RUNNING", *, hours: float = 0, parameters: Any = None) -> str:
        """A run that somebody else submitted; returns its id."""
        run_id = self.create({"display_name": name, "runtime_config": {"parameters": parameters or {}}})["run_id"]
        self.set(run_id, state)
        self.age(run_id, hours)
        return str(run_id)

    def create(self, run: dict[str, Any]) -> dict[str, Any]:
        run_id = str(uuid.uuid4())
        created = run | {"run_id": run_id, "state": "PENDING", "created_at": _stamp(datetime.now(UTC))}
        self.runs[run_id] = created
        return created

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, token: str | None) -> Answer:
        self.requests.append(f"{method} {path}")
        if self.token is not None and token != f"Bearer {self.token}":
            return 401, {"code": 16, "message": "Request header error: there is no user identity header."}
        if self.fail_next:
            return self.fail_next.pop(0), {"code": 14, "message": "the database is away"}
        if path == f"{API}/healthz":
            return 200, {"multi_user": False}
        if path == f"{API}/experiments":
            return self._experiments(method, query, body)
        if path == f"{API}/runs" and method == "POST":
            created = self.create(body)
            then, self.after_create = self.after_create, None
            if then is not None:
                then(created)
            return 200, created
        if path == f"{API}/runs":
            return self._list(query)
        return self._one(method, path)

    def _experiments(self, method: str, query: dict[str, str], body: Any) -> Answer:
        if method == "POST":
            created = body | {"experiment_id": str(uuid.uuid4())}
            self.experiments[created["experiment_id"]] = created
            return 200, created
        experiments = _matching(self.experiments.values(), query)
        namespace = query.get("namespace") or ""  # none and an empty one are the same
        return 200, {"experiments": [item for item in experiments if (item.get("namespace") or "") == namespace]}

    def _list(self, query: dict[str, str]) -> Answer:
        runs, size = _matching(self.runs.values(), query), 2  # small pages: a client must follow them
        start = int(query.get("page_token") or 0)
        page: dict[str, Any] = {"runs": runs[start : start + size]}
        if start + size < len(runs):
            page["next_page_token"] = str(start + size)
        return 200, page

    def _one(self, method: str, path: str) -> Answer:
        run_id, _, verb = path.removeprefix(f"{API}/runs/").partition(":")
        run = self.runs.get(run_id)
        if run is None:
            return 404, {"code": 5, "message": f"Failed to fetch run {run_id}: not found."}
        if verb == "terminate" and method == "POST":
            self.terminated.append(run_id)
            self.set(run_id, "CANCELING")
            return 200, {}
        return 200, run


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _matching(items: Any, query: dict[str, str]) -> list[dict[str, Any]]:
    predicates = json.loads(query["filter"])["predicates"] if query.get("filter") else []
    for predicate in predicates:
        assert predicate["operation"] in ("EQUALS", 1), predicate
    return [
        item for item in items if all(item[predicate["key"]] == predicate["stringValue"] for predicate in predicates)
    ]


@contextmanager
def serving(server: Any, tls: ssl.SSLContext | None = None) -> Iterator[None]:
    """Has a server's `answer` heard on a free port of 127.0.0.1; None hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            answer = server.answer(self.command, parts.path, query, body, self.headers.get("Authorization"))
            if answer is None:
                return
            status, payload = answer
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(payload).encode())

        do_GET = do_POST = do_DELETE = _do  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    server.url = f"http{'s' * bool(tls)}://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    """A pipeline server, which the environment names; conftest files hand it on."""
    server = KfpServer()
    with serving(server):
        for name in ("NAMESPACE", "TOKEN_FILE", "CA_FILE"):
            monkeypatch.delenv(f"LONGREEL_KFP_{name}", raising=False)
        monkeypatch.setenv("LONGREEL_KFP_HOST", server.url)
        yield server


class Pods:
    """Runs a submitted run's containers one after another as processes, the volumes being folders of this machine.

    `mounts` are what the pods see under other names: {"/longreel": the home's folder}.
    """

    def __init__(self, run: dict[str, Any], mounts: dict[str, str], scratch: Path) -> None:
        document = run["pipeline_spec"]
        self.spec = document.get("pipeline_spec", document)
        self.mounts, self.scratch = mounts, scratch
        self.commands: list[list[str]] = []
        values = {key: self._resolve(value) for key, value in run["runtime_config"]["parameters"].items()}
        self._graph(values)

    def _resolve(self, value: Any) -> Any:
        return self.mounts.get(value, value) if isinstance(value, str) else value

    def _graph(self, values: dict[str, Any]) -> None:
        tasks, outputs = dict(self.spec["root"]["dag"]["tasks"]), {}
        while tasks:
            name = next(name for name, task in tasks.items() if set(task.get("dependentTasks", ())) <= set(outputs))
            task = tasks.pop(name)
            assert "triggerPolicy" not in task, "conditions are not understood here"
            inputs = task["inputs"]
            given = {key: self._value(source, values, outputs) for key, source in inputs["parameters"].items()}
            paths = {key: self._artifact(source, outputs) for key, source in inputs.get("artifacts", {}).items()}
            component = self.spec["components"][task["componentRef"]["name"]]
            outputs[name] = self._container(component, given, paths, self.scratch / name)

    def _value(self, source: dict[str, Any], values: Any, outputs: Any) -> Any:
        if "componentInputParameter" in source:
            return values[source["componentInputParameter"]]
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            return outputs[output["producerTask"]][output["outputParameterKey"]].read_text()
        return source["runtimeValue"]["constant"]

    def _artifact(self, source: dict[str, Any], outputs: Any) -> str:
        output = source["taskOutputArtifact"]
        return str(outputs[output["producerTask"]][output["outputArtifactKey"]])

    def _container(self, component: Any, given: Any, paths: Any, place: Path) -> dict[str, Path]:
        container = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        outputs = {
            key: place / key
            for kind in ("parameters", "artifacts")
            for key in component.get("outputDefinitions", {}).get(kind, {})
        }
        place.mkdir(parents=True)

        def filled(match: re.Match[str]) -> str:
            side, _, key = match.groups()
            return str(outputs[key] if side == "outputs" else given[key] if key in given else paths[key])

        pattern = r"\{\{\$\.(inputs|outputs)\.(parameters|artifacts)\['(\w+)'\](?:\.\w+)?\}\}"
        words = [re.sub(pattern, filled, word) for word in container["args"]]
        assert container["command"][0] == "longreel"
        self.commands.append([*container["command"], *words])
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        variables |= {"LONGREEL_CONFIG": self.mounts[variables["LONGREEL_CONFIG"]]}
        command = [sys.executable, "-m", *container["command"], *words]
        subprocess.run(command, env=os.environ | variables, check=True)
        return outputs
