"""Late, unchanged, backfilled and corrected days under a real Airflow: each builds what changed and starts no training.

The policy would train for every day but for one thing: the simulated days lie too far back for `max_data_age_days`. So
whether a day was asked about at all shows in the reason that `should_retrain` gives.
"""

import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from longreel.embedded_airflow import EmbeddedAirflow
from longreel.lake.home import CONFIG_FILE, Home
from longreel.lake.lineage import stale_partitions
from longreel.run import spark_variables

pytestmark = pytest.mark.slow
FIRST = date(2026, 1, 5)
DAYS = [FIRST + timedelta(days=i) for i in range(3)]
NEW = FIRST + timedelta(days=3)  # its raw log is there, and no run of the daily DAG
OVER = ("success", "failed")
BACKFILL, TOO_OLD = "published by a backfill, which starts no training", "[retrain] max_data_age_days allows 30"
CORRECTION = "published again, because it or an earlier day was corrected or came late, which starts no training"


def step(home: Home, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "longreel", *words[0].split(), "--home", str(home.path), *words[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Airflow:
    """The embedded Airflow, asked over REST."""

    def __init__(self, embedded: EmbeddedAirflow) -> None:
        self.embedded, self.get = embedded, embedded.get

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.get("version")  # signs in
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.embedded._token}"}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.embedded.url}/api/v2/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def runs(self, dag: str, **fields: str) -> list[dict[str, Any]]:
        runs = self.get(f"dags/{dag}/dagRuns?limit=100&order_by=id")["dag_runs"]
        return [run for run in runs if all(run[name] == value for name, value in fields.items())]

    def tasks(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        path = f"dags/{run['dag_id']}/dagRuns/{quote(run['dag_run_id'], safe='')}/taskInstances"
        return {task["task_id"]: task for task in self.get(path)["task_instances"]}

    def log(self, run: dict[str, Any], task: str) -> str:
        folder = self.embedded.home.airflow / "logs" / f"dag_id={run['dag_id']}" / f"run_id={run['dag_run_id']}"
        return "".join(path.read_text() for path in sorted((folder / f"task_id={task}").rglob("*.log")))

    def ended(self, dag: str, number: int, **fields: str) -> list[dict[str, Any]]:
        """Runs of a DAG, waited for until there are so many and all have ended."""
        self.until(
            lambda: len(runs := self.runs(dag, **fields)) >= number and all(run["state"] in OVER for run in runs),
            f"{number} ended runs of {dag} {fields}",
        )
        runs = self.runs(dag, **fields)
        assert len(runs) == number
        assert {run["state"] for run in runs} == {"success"}
        return runs

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s; logs: {self.embedded.log}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Four small days of raw log, of which two are published and the third is still to come (`later`)."""
    home = Home(tmp_path_factory.mktemp("days") / "home")
    step(home, "init")
    text = (home.path / CONFIG_FILE).read_text()
    policy = "[retrain]\nmin_train_days = 1\nmax_data_age_days = 30\n"
    (home.path / CONFIG_FILE).write_text(text[: text.index("[retrain]")] + policy)
    step(home, "simulate", "--days", "4", "--users", "60", "--items", "300")
    for name in ("data ingest", "data build-samples"):
        step(home, name, "--start", str(DAYS[0]), "--end", str(DAYS[1]))
    raw_day(home, DAYS[2]).rename(home.path / "later")
    return home


def raw_day(home: Home, day: date) -> Path:
    return home.log / f"date={day}"


@pytest.fixture(scope="module")
def webhook() -> Iterator[tuple[int, list[str]]]:
    """A webhook on a port, and the texts that it got."""
    got: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, got
        server.shutdown()


@pytest.fixture(scope="module")
def airflow(home: Home, webhook: tuple[int, list[str]]) -> Iterator[Airflow]:
    """An Airflow whose schedule is the first day; whatever else runs was asked for. Its deadline is ten seconds."""
    settings = {
        "LONGREEL_FIRST_DAY": str(DAYS[0]),
        "LONGREEL_LAST_DAY": str(DAYS[0]),
        "LONGREEL_ARRIVAL_POLL_S": "2",
        "LONGREEL_DEADLINE_HOURS": str(10 / 3600),
        "LONGREEL_NOTIFY_CONN": "hook",
        "AIRFLOW_CONN_HOOK": json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": webhook[0]}),
    }
    with EmbeddedAirflow(home, settings | spark_variables(home, DAYS[0])) as embedded:
        airflow = Airflow(embedded)
        airflow.until(lambda: airflow.get("dags")["total_entries"] == 5, "the DAGs are read")
        yield airflow


def published(home: Home) -> dict[date, tuple[str, str]]:
    """Digest and time of every samples partition."""
    manifests = {day: home.lake.require("samples", day) for day in home.lake.days("samples")}
    return {day: (manifest.digest, manifest.created_at) for day, manifest in manifests.items()}


def policy_log(airflow: Airflow, day: date, number: int) -> str:
    """What `should_retrain` said in the newest of a day's training runs; nothing was trained in any."""
    runs = airflow.ended("longreel_train", number, partition_key=str(day))
    for run in runs:
        assert {name: task["state"] for name, task in airflow.tasks(run).items()}["retrain"] == "skipped"
    return airflow.log(runs[-1], "should_retrain")


def test_an_unchanged_day_stays_and_its_event_starts_no_training(home: Home, airflow: Airflow) -> None:
    before = published(home)
    (run,) = airflow.ended("longreel_daily", 1, partition_key=str(DAYS[0]))
    for task in ("ingest", "build_samples"):
        assert f"{DAYS[0]}: unchanged" in airflow.log(run, task)
    assert "0 published days lie before" in policy_log(airflow, DAYS[0], 1)
    assert published(home) == before


def test_a_backfill_waits_for_a_missing_day_and_starts_no_training(
    home: Home, airflow: Airflow, webhook: tuple[int, list[str]]
) -> None:
    days = {"from_date": f"{DAYS[1]}T00:00:00Z", "to_date": f"{DAYS[2]}T00:00:00Z"}
    body = {"dag_id": "longreel_daily", "reprocess_behavior": "none", "run_backwards": False, "max_active_runs": 1}
    airflow.post("backfills", body | days)
    airflow.ended("longreel_daily", 1, partition_key=str(DAYS[1]))

    def waiting() -> bool:
        runs = airflow.runs("longreel_daily", partition_key=str(DAYS[2]))
        return bool(runs) and airflow.tasks(runs[0])["check_arrival"]["state"] == "up_for_reschedule"

    airflow.until(waiting, "the third day waits")
    late = f"longreel_daily {DAYS[2]}: not done by its deadline"
    airflow.until(lambda: any(text.startswith(late) for text in webhook[1]), "the message that the day is late")
    assert home.lake.manifest("events", DAYS[2]) is None
    (home.path / "later").rename(raw_day(home, DAYS[2]))
    (run,) = airflow.ended("longreel_daily", 1, partition_key=str(DAYS[2]))
    assert run["run_type"] == "backfill"
    assert home.lake.require("samples", DAYS[2]).rows > 0
    for day in DAYS[1:]:
        assert BACKFILL in policy_log(airflow, day, 1)


def correct(home: Home, day: date) -> None:
    """A corrected raw day: its last twenty rows never were."""
    path = raw_day(home, day) / "log.parquet"
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(0, table.num_rows - 20), home.path / "corrected.parquet")
    shutil.move(home.path / "corrected.parquet", path)


def test_a_corrected_day_is_rebuilt_with_its_dependents_and_only_a_new_day_asks_the_policy(
    home: Home, airflow: Airflow
) -> None:
    before = published(home)
    correct(home, DAYS[1])
    airflow.post(
        "dags/longreel_rebuild/dagRuns", {"logical_date": None, "conf": {"start": str(DAYS[1]), "end": str(NEW)}}
    )
    (run,) = airflow.ended("longreel_rebuild", 1)

    after = published(home)
    assert [day for day in DAYS if after[day] != before[day]] == DAYS[1:]
    assert stale_partitions(home.lake, home.config) == []
    for day in DAYS[1:]:
        assert CORRECTION in policy_log(airflow, day, 2)
    assert TOO_OLD in policy_log(airflow, NEW, 1)
    # Airflow answers 500 while a run that a listed event has made is not started yet; here all have ended.
    events = airflow.get("assets/events?limit=100")["asset_events"]
    extras = {event["partition_key"]: event["extra"] for event in events if event["source_run_id"] == run["dag_run_id"]}
    assert {key: extra["digest"] for key, extra in extras.items()} == {
        str(day): after[day][0] for day in (*DAYS[1:], NEW)
    }
    assert all(extra["rows"] and extra["users"] and extra["watermark"] == key for key, extra in extras.items())


def test_a_rebuild_without_changes_skips_and_a_manual_training_gets_its_reason(home: Home, airflow: Airflow) -> None:
    before = published(home)
    airflow.post("dags/longreel_rebuild/dagRuns", {"logical_date": None, "conf": {"start": str(DAYS[0])}})
    airflow.post("dags/longreel_train/dagRuns", {"logical_date": None, "conf": {"date": str(DAYS[2])}})
    tasks = airflow.tasks(airflow.ended("longreel_rebuild", 2)[-1])
    assert {task["state"] for task in tasks.values()} == {"skipped"}
    (run,) = airflow.ended("longreel_train", 1, run_type="manual")
    assert airflow.tasks(run)["retrain"]["state"] == "skipped"
    assert f"{TOO_OLD}. (force trains anyway)" in airflow.log(run, "should_retrain")
    assert published(home) == before


def cleared(airflow: Airflow, first: date, last: date) -> list[dict[str, Any]]:
    """Clear the daily runs of a range, wait until they and the rebuilds they ask for have ended well; the rebuilds."""
    number_before = len(airflow.runs("longreel_rebuild"))
    ends = {"partition_date_start": f"{first}T00:00:00Z", "partition_date_end": f"{last}T00:00:00Z"}
    airflow.post("dags/longreel_daily/clearDagRuns", {"dry_run": False} | ends)
    for dag in ("longreel_daily", "longreel_rebuild"):  # a rebuild is there before the run that asks for it has ended
        airflow.until(lambda dag=dag: all(run["state"] in OVER for run in airflow.runs(dag)), f"the end of {dag}", 600)
        assert {run["state"] for run in airflow.runs(dag)} == {"success"}
    return airflow.runs("longreel_rebuild")[number_before:]


def test_clearing_one_corrected_day_rebuilds_the_days_after_it(home: Home, airflow: Airflow) -> None:
    before = published(home)
    correct(home, DAYS[0])
    (rebuild,) = cleared(airflow, DAYS[0], DAYS[0])
    assert rebuild["conf"] == {"start": str(DAYS[1])}
    assert stale_partitions(home.lake, home.config) == []
    assert [day for day in DAYS if published(home)[day][0] != before[day][0]] == DAYS
    assert "0 published days lie before" in policy_log(airflow, DAYS[0], 2)  # a cleared run asks what it asked before
    assert CORRECTION in policy_log(airflow, DAYS[1], 3)


def test_days_cleared_together_end_up_to_date_in_any_order(home: Home, airflow: Airflow) -> None:
    """Runs that a backfill made follow no order: the last day may be built before the events it holds are corrected."""
    before = published(home)
    correct(home, DAYS[1])
    cleared(airflow, DAYS[0], DAYS[2])
    assert stale_partitions(home.lake, home.config) == []
    assert [day for day in DAYS if published(home)[day][0] != before[day][0]] == DAYS[1:]
    assert cleared(airflow, DAYS[0], DAYS[2]) == []  # nothing is stale, nothing is started
