"""The DAGs as Airflow reads them: they parse alone, and any change of structure shows here."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

READ = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
start = time.perf_counter()
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
print("SNAPSHOT" + json.dumps({d.dag_id: {
    "start": str(d.start_date), "end": str(d.end_date), "catchup": d.catchup, "max_active_runs": d.max_active_runs,
    "timetable": type(d.timetable).__name__, "doc": bool(d.doc_md),
    "tasks": {t.task_id: {"operator": type(t).__name__, "next": sorted(t.downstream_task_ids), "retries": t.retries,
                          "timeout": t.execution_timeout is not None, "owner": t.owner,
                          "command": getattr(t, "bash_command", ""), "promote": getattr(t, "promote", None),
                          "tells": bool(t.on_failure_callback),
                          "outlets": [o.name for o in t.outlets]} for t in d.tasks},
} for d in bag.dags.values()}))
"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Both DAGs, read in a process with an Airflow home and a home folder that do not exist yet."""
    return read_dags(tmp_path_factory.mktemp("airflow"))


def read_dags(folder: Path, **settings: str) -> dict:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "LONGREEL_HOME": str(folder / "no-such-home"),
        "LONGREEL_FIRST_DAY": "2026-01-05",
        "LONGREEL_LAST_DAY": "2026-01-09",
        **settings,
    }
    read = subprocess.run(
        [sys.executable, "-c", READ, str(ROOT / "dags")], env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in read.stdout.splitlines() if line.startswith("SNAPSHOT")]
    assert lines, read.stdout + read.stderr
    return json.loads(lines[0].removeprefix("SNAPSHOT"))


def test_the_daily_dag_is_one_chain_that_ends_in_an_asset_event(snapshot: dict) -> None:
    daily = snapshot["longreel_daily"]
    assert daily["timetable"] == "CronPartitionTimetable"
    assert daily["catchup"]
    assert daily["max_active_runs"] == 1
    assert {name: task["next"] for name, task in daily["tasks"].items()} == {
        "ingest": ["build_samples"],
        "build_samples": ["announce"],
        "announce": [],
    }
    assert daily["tasks"]["announce"]["outlets"] == ["longreel_samples"]
    assert {daily["tasks"][name]["operator"] for name in ("ingest", "build_samples")} == {"SparkSubmitOperator"}


def test_runs_start_the_day_after_their_log_day(snapshot: dict) -> None:
    assert snapshot["longreel_daily"]["start"].startswith("2026-01-06")
    assert snapshot["longreel_daily"]["end"].startswith("2026-01-10")


def test_the_training_dag_is_woken_by_partitions_and_asks_first(snapshot: dict) -> None:
    train = snapshot["longreel_train"]
    assert train["timetable"] == "PartitionedAssetTimetable"
    assert train["max_active_runs"] == 1
    assert {name: task["next"] for name, task in train["tasks"].items()} == {"due": ["retrain"], "retrain": []}


def test_every_task_has_an_owner_retries_and_a_timeout(snapshot: dict) -> None:
    assert set(snapshot) == {"longreel_daily", "longreel_train"}
    for dag in snapshot.values():
        assert dag["doc"]
        for name, task in dag["tasks"].items():
            assert task["owner"] == "longreel", name
            assert task["retries"] > 0, name
            assert task["timeout"], name


def test_a_person_approves_and_a_webhook_is_told_once_that_is_configured(snapshot: dict, tmp_path: Path) -> None:
    assert not any(task["tells"] for dag in snapshot.values() for task in dag["tasks"].values())
    asked = read_dags(tmp_path, LONGREEL_APPROVAL="1", LONGREEL_NOTIFY_CONN="hook")
    train = asked["longreel_train"]["tasks"]
    assert {name: task["next"] for name, task in train.items()} == {
        "due": ["retrain"],
        "retrain": ["proposal"],
        "proposal": ["approve"],
        "approve": ["promote"],
        "promote": [],
    }
    assert train["approve"]["operator"] == "HITLOperator"
    assert "--no-promote" in train["retrain"]["command"]
    assert "--no-promote" not in snapshot["longreel_train"]["tasks"]["retrain"]["command"]
    assert all(task["tells"] for dag in asked.values() for task in dag["tasks"].values())


def test_with_a_pipeline_server_the_retrain_is_deferred_and_waits_for_approval_as_before(
    snapshot: dict, tmp_path: Path
) -> None:
    assert snapshot["longreel_train"]["tasks"]["retrain"]["operator"] == "BashOperator"
    asked = read_dags(tmp_path, LONGREEL_KFP_HOST="http://127.0.0.1:1", LONGREEL_APPROVAL="1")
    retrain = asked["longreel_train"]["tasks"]["retrain"]
    assert retrain["operator"] == "RetrainOperator"
    assert retrain["next"] == ["proposal"]
    assert retrain["promote"] is False
    assert retrain["timeout"]
    assert retrain["retries"] > 0


TELL = """
import json, sys, types
from dags.notify import WebhookNotifier
run = types.SimpleNamespace(partition_key="2026-01-09")
for task in ("retrain", "due"):
    ti = types.SimpleNamespace(task_id=task, log_url="http://127.0.0.1/log")
    WebhookNotifier("hook", "longreel_train 2026-01-09: " + task)({"ti": ti, "dag_run": run})
"""


def test_the_webhook_gets_the_decision_its_reasons_and_links(tmp_path: Path) -> None:
    got: list[dict] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append({"path": self.path, "auth": self.headers["Authorization"], **json.loads(body)})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "home" / "reports" / "2026-01-09"
    folder.mkdir(parents=True)
    summary = {
        "model": "longreel-x",
        "version": 3,
        "outcome": "hold",
        "reasons": ["Not sure.", "Too few."],
        "run_id": "r1",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.server_port, "schema": "services/x"}
        environment = {
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "LONGREEL_HOME": str(tmp_path / "home"),
            "AIRFLOW_CONN_HOOK": json.dumps(connection | {"password": "token"}),
            "MLFLOW_TRACKING_URI": "http://mlflow.example",
        }
        tell = subprocess.run(
            [sys.executable, "-c", TELL], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        server.shutdown()
    assert tell.returncode == 0, tell.stderr
    decided, failed = (message["text"] for message in got)
    assert [(m["path"], m["auth"]) for m in got] == [("/services/x", "Bearer token")] * 2
    for wanted in (
        "longreel-x version 3: hold",
        "Not sure.",
        "run_card.html",
        "http://mlflow.example/#/runs/r1",
        "/log",
    ):
        assert wanted in decided
    assert "version 3" not in failed
    assert "http://127.0.0.1/log" in failed
