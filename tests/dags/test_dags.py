"""DAGs as Airflow parses them, and a snapshot of their structure."""

import http.server
import json
import os
import shlex
import sys
import threading
from datetime import date, datetime, time, timedelta
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pendulum
import pytest
from airflow.timetables.base import TimeRestriction
from airflow.timetables.trigger import CronPartitionTimetable
from jinja2 import Template

from tests.airflow_process import AirflowProcess

ROOT = Path(__file__).resolve().parents[2]

SNAPSHOT = Path(__file__).with_name("snapshot.json")
FIELDS = ("task_type", "owner", "pool", "retries", "retry_delay", "retry_exponential_backoff", "max_retry_delay",
          "execution_timeout", "timeout", "poke_interval", "mode", "skip_on_exit_code", "response_timeout",
          "trigger_rule", "bash_command", "application_args", "force", "promote")  # fmt: skip

READ = """
import json, os, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

def plain(value):
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    return value.value if hasattr(value, "value") else value

def fields_of(task, kept):
    partial = getattr(task, "partial_kwargs", {})
    values = {name: plain(getattr(task, name, partial.get(name))) for name in FIELDS}
    values |= kept
    return {name: value for name, value in values.items() if value is not None}

FIELDS = json.loads(sys.argv[2])
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
dags = {}
for dag in bag.dags.values():
    stored = DagSerialization.to_dict(dag)["dag"]
    tasks = {
        task.task_id: fields_of(task, {
            "next": sorted(task.downstream_task_ids), "documented": bool(task.doc_md),
            "notifies": bool(task.on_failure_callback), "outlets": [outlet.name for outlet in task.outlets] or None,
            "mapped": True if hasattr(task, "partial_kwargs") else None,
            "application": os.path.isfile(task.application) if hasattr(task, "application") else None,
        }) for task in dag.tasks
    }
    params = {name: param["schema"]["__var"] | {"default": param["default"]} for name, param in
              stored.get("params", [])}
    dags[dag.dag_id] = {
        "schedule": stored["timetable"], "start": str(dag.start_date), "end": str(dag.end_date), "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs, "deadline": stored.get("deadline"), "params": params,
        "documented": bool(dag.doc_md), "tasks": tasks,
    }
print("SNAPSHOT" + json.dumps(dags))
"""


@pytest.fixture(scope="module")
def snapshot(airflow_process: AirflowProcess) -> dict:
    """The DAGs, read with an empty Airflow home and a home folder that does not exist."""
    return read_dags(airflow_process)


def read_dags(process: AirflowProcess, **settings: str) -> dict:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LONGREEL_")},
        "LONGREEL_HOME": "/no-such-home",
        "LONGREEL_FIRST_DAY": "2026-01-05",
        "LONGREEL_LAST_DAY": "2026-01-09",
        **settings,
    }
    read = process.run(READ, str(ROOT / "dags"), json.dumps(FIELDS), environment=environment)
    lines = [line for line in read.stdout.splitlines() if line.startswith("SNAPSHOT")]
    assert lines, read.stdout + read.stderr
    return json.loads(lines[0].removeprefix("SNAPSHOT").replace(sys.executable, "python"))


def test_any_change_of_structure_shows_in_the_snapshot(snapshot: dict) -> None:
    """Regenerate it with `LONGREEL_SNAPSHOT=write pytest tests/dags`; a reviewer reads its difference."""
    if os.environ.get("LONGREEL_SNAPSHOT") == "write":
        SNAPSHOT.write_text(json.dumps(snapshot, indent=1, sort_keys=True) + "\n")
    assert snapshot == json.loads(SNAPSHOT.read_text())


def test_the_daily_dag_is_one_chain_that_emits_an_asset_event_and_then_checks_for_stale_days(
    snapshot: dict,
) -> None:
    daily = snapshot["longreel_daily"]
    assert daily["catchup"]
    assert daily["max_active_runs"] == 1
    assert edges(daily) == {
        "check_arrival": ["ingest"],
        "ingest": ["build_samples"],
        "build_samples": ["announce"],
        "announce": ["stale"],
        "stale": ["rebuild"],
        "rebuild": [],
    }
    assert daily["tasks"]["announce"]["outlets"] == ["longreel_samples"]


def edges(dag: dict) -> dict[str, list[str]]:
    return {name: task["next"] for name, task in dag["tasks"].items()}


def test_a_run_waits_for_its_raw_day_without_holding_a_worker_and_is_reported_when_late(
    airflow_process: AirflowProcess,
) -> None:
    read = read_dags(
        airflow_process, LONGREEL_ARRIVAL_HOURS="6", LONGREEL_ARRIVAL_POLL_S="60", LONGREEL_DEADLINE_HOURS="8"
    )
    arrived = read["longreel_daily"]["tasks"]["check_arrival"]
    assert (arrived["mode"], arrived["timeout"], arrived["poke_interval"]) == ("reschedule", 6 * 3600, 60)
    (deadline,) = read["longreel_daily"]["deadline"]
    # Airflow 3.3.2 refuses to clear a run that has yet to miss a DagRunQueuedAtDeadline; a logical date is never there.
    assert deadline["reference"]["reference_type"] == "AverageRuntimeDeadline"
    assert deadline["reference"]["min_runs"] == 1
    assert deadline["interval"]["__data__"] == 8 * 3600
    assert deadline["callback"]["__data__"]["path"] == "longreel.dags.notify.notify_late"


def test_runs_start_the_day_after_their_log_day(snapshot: dict) -> None:
    assert snapshot["longreel_daily"]["start"].startswith("2026-01-06")
    assert snapshot["longreel_daily"]["end"].startswith("2026-01-10")


def test_the_training_dag_starts_on_partitions_and_asks_the_policy_first(snapshot: dict) -> None:
    train = snapshot["longreel_train"]
    assert train["max_active_runs"] == 1
    assert edges(train) == {"should_retrain": ["retrain"], "retrain": []}


def test_heavy_tasks_are_in_the_pools_of_the_committed_file(snapshot: dict) -> None:
    pools = json.loads((ROOT / "dags" / "pools.json").read_text())
    used = {task["pool"] for dag in snapshot.values() for task in dag["tasks"].values()}
    assert used == {*pools, "default_pool"}
    assert pools["longreel_train"]["slots"] == 1
    assert pools["longreel_train"]["include_deferred"]  # a retrain on a server is deferred, and is one all the same
    for dag, task in (("longreel_daily", "ingest"), ("longreel_rebuild", "build_samples")):
        assert snapshot[dag]["tasks"][task]["pool"] == "longreel_spark"
    assert snapshot["longreel_train"]["tasks"]["retrain"]["pool"] == "longreel_train"


def test_every_task_has_an_owner_a_timeout_retries_with_backoff_and_a_runbook(snapshot: dict) -> None:
    names = ("daily", "train", "rebuild", "watch", "verify")
    assert set(snapshot) == {f"longreel_{name}" for name in names}
    for dag in snapshot.values():
        assert dag["documented"]
        for name, task in dag["tasks"].items():
            assert task["owner"] == "longreel", name
            assert task["retries"] > 0, name
            assert task["retry_exponential_backoff"], name
            assert task["execution_timeout"], name
            assert task["documented"], name


def test_a_log_that_has_ended_is_not_watched_and_schedules_are_settings(
    snapshot: dict, airflow_process: AirflowProcess
) -> None:
    assert "NullTimetable" in snapshot["longreel_watch"]["schedule"]["__type"]
    assert "PartitionedAtRuntime" in snapshot["longreel_rebuild"]["schedule"]["__type"]
    live = read_dags(airflow_process, LONGREEL_LAST_DAY="", LONGREEL_REBUILD_CRON="0 5 * * *", LONGREEL_HOME="/my home")
    assert "ops status --home '/my home' --check" in live["longreel_watch"]["tasks"]["check_status"]["bash_command"]
    assert live["longreel_watch"]["schedule"]["__var"]["expression"] == "0 */6 * * *"
    assert live["longreel_rebuild"]["schedule"]["__var"]["expression"] == "0 5 * * *"
    assert "NullTimetable" in snapshot["longreel_verify"]["schedule"]["__type"]
    verify = live["longreel_verify"]["tasks"]["verify"]["application_args"]
    assert verify == ["data", "verify", "--home", "/my home", "--part-of", "28"]


def test_the_schedule_makes_runs_from_the_first_to_the_last_day_at_any_hour_in_any_time_zone(
    airflow_process: AirflowProcess,
) -> None:
    days = [f"2026-01-{number:02}" for number in range(5, 10)]
    for cron, zone in (("0 0 * * *", "Asia/Tokyo"), ("0 23 * * *", "America/Los_Angeles")):
        daily = read_dags(airflow_process, LONGREEL_CRON=cron, LONGREEL_TIMEZONE=zone)["longreel_daily"]
        timetable = CronPartitionTimetable.deserialize(daily["schedule"]["__var"])
        bounds = TimeRestriction(pendulum.parse(daily["start"]), pendulum.parse(daily["end"]), catchup=True)
        keys, run = [], None
        while run := timetable.next_dagrun_info_v2(last_dagrun_info=run, restriction=bounds):
            keys.append(run.partition_key)
        assert keys == days, (cron, zone)


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("0 0 * * *", "America/Santiago"),  # at midnight the clock jumps to 1:00, as in the next three
        ("0 0 * * *", "Africa/Cairo"),
        ("0 0 * * *", "Asia/Beirut"),
        ("0 0 * * *", "America/Havana"),
        ("30 2 * * *", "America/New_York"),  # from 2:00 to 3:00
        ("30 2 * * *", "Europe/Berlin"),
        ("0 23 * * *", "America/Los_Angeles"),
        ("0 0 * * *", "Africa/Casablanca"),  # an hour back in Ramadan
        ("0 0 * * *", "Australia/Lord_Howe"),  # half an hour
        ("0 0 * * *", "Asia/Kolkata"),
    ],
)
def test_every_local_day_has_one_run_which_starts_once_the_day_has_ended(
    airflow_process: AirflowProcess, cron: str, zone: str
) -> None:
    first, days = date(2026, 1, 1), 730
    last = str(first + timedelta(days=days - 1))
    settings = {"LONGREEL_FIRST_DAY": str(first), "LONGREEL_LAST_DAY": last}
    daily = read_dags(airflow_process, LONGREEL_CRON=cron, LONGREEL_TIMEZONE=zone, **settings)["longreel_daily"]
    timetable = CronPartitionTimetable.deserialize(daily["schedule"]["__var"])
    bounds = TimeRestriction(pendulum.parse(daily["start"]), pendulum.parse(daily["end"]), catchup=True)
    minute, hour = map(float, cron.split()[:2])
    run = None
    for number in range(days):
        day = first + timedelta(days=number)
        run = timetable.next_dagrun_info_v2(last_dagrun_info=run, restriction=bounds)
        assert run is not None
        assert run.partition_key == str(day)
        end = datetime.combine(day + timedelta(days=1), time(), tzinfo=ZoneInfo(zone))
        assert 0 <= run.run_after.timestamp() - end.timestamp() <= 3600 * (hour + 1) + 60 * minute, day
    assert timetable.next_dagrun_info_v2(last_dagrun_info=run, restriction=bounds) is None
    keys = timetable.iter_partition_dagrun_infos(
        earliest=pendulum.parse(str(first)), latest=pendulum.parse(last).end_of("day")
    )
    assert [run.partition_key for run in keys] == [str(first + timedelta(days=number)) for number in range(days)]


def test_an_invalid_setting_is_an_import_error_that_names_it(
    airflow_process: AirflowProcess,
) -> None:
    """What is shown is the message of what importing the folder raises."""
    for variable, value, expected in (
        ("LONGREEL_FIRST_DAY", "05.01.2026", "a day, YYYY-MM-DD"),
        ("LONGREEL_DEADLINE_HOURS", "half a day", "a number of hours"),
        ("LONGREEL_TIMEZONE", "Mars/Olympus", "a time zone such as Asia/Shanghai"),
    ):
        with pytest.raises(AssertionError, match=f"{variable} is '{value}'; expected {expected}"):
            read_dags(airflow_process, **{variable: value})


def test_a_partition_key_is_one_word_of_a_command_line(snapshot: dict) -> None:
    key = "2026-01-05'; touch /tmp/more; echo '$(id)"
    context = {"dag_run": SimpleNamespace(partition_key=key, run_type="manual"), "trigger_of": lambda *_: "manual"}
    context |= {"params": SimpleNamespace(date=None, start=None, end=None, force=False), "ti": None}
    context |= {"triggering_asset_events": {}}
    dates = {}
    for dag in snapshot.values():
        for task in dag["tasks"].values():
            if "--date" in task.get("bash_command", ""):
                words = shlex.split(Template(task["bash_command"]).render(context))
                dates[task["bash_command"]] = words[words.index("--date") + 1]
    assert len(dates) >= 3
    assert set(dates.values()) == {key.replace("'", "")}


def test_a_build_ingests_the_missing_days_that_it_needs(snapshot: dict) -> None:
    """So days may be backfilled newest first or side by side, and a rebuild may begin after a gap."""
    for dag in ("longreel_daily", "longreel_rebuild"):
        tasks = snapshot[dag]["tasks"]
        assert "--ingest-missing" in tasks["build_samples"]["application_args"]
        assert "--ingest-missing" not in tasks["ingest"]["application_args"]
        assert tasks["ingest"]["application"]  # the file that Spark is to run is there


def test_approval_and_notifications_are_off_until_configured(snapshot: dict, airflow_process: AirflowProcess) -> None:
    assert not any(task["notifies"] for dag in snapshot.values() for task in dag["tasks"].values())
    configured = read_dags(airflow_process, LONGREEL_APPROVAL="1", LONGREEL_NOTIFY_CONN="hook")
    train = configured["longreel_train"]["tasks"]
    assert {name: task["next"] for name, task in train.items()} == {
        "should_retrain": ["retrain"],
        "retrain": ["proposal"],
        "proposal": ["approve"],
        "approve": ["promote"],
        "promote": [],
    }
    assert train["approve"]["task_type"] == "HITLOperator"
    assert "--no-promote" in train["retrain"]["bash_command"]
    assert "--no-promote" not in snapshot["longreel_train"]["tasks"]["retrain"]["bash_command"]
    assert all(task["notifies"] for dag in configured.values() for task in dag["tasks"].values())


def test_with_a_pipeline_server_the_retrain_is_deferred_and_waits_for_approval_as_before(
    snapshot: dict, airflow_process: AirflowProcess
) -> None:
    assert snapshot["longreel_train"]["tasks"]["retrain"]["task_type"] == "BashOperator"
    configured = read_dags(airflow_process, LONGREEL_KFP_HOST="http://127.0.0.1:1", LONGREEL_APPROVAL="1")
    retrain = configured["longreel_train"]["tasks"]["retrain"]
    assert retrain["task_type"] == "RetrainOperator"
    assert retrain["next"] == ["proposal"]
    assert retrain["promote"] is False
    assert retrain["timeout"]
    assert retrain["retries"] > 0


def test_with_a_train_job_a_task_trains_the_candidate_before_its_evaluation(
    snapshot: dict, airflow_process: AirflowProcess
) -> None:
    switched = {"LONGREEL_TRAIN_JOB": "/no-such-file", "LONGREEL_APPROVAL": "1"}
    read = read_dags(airflow_process, **switched)["longreel_train"]
    assert edges(read) == {
        "should_retrain": ["train"],
        "train": ["retrain"],
        "retrain": ["proposal"],
        "proposal": ["approve"],
        "approve": ["promote"],
        "promote": [],
    }
    train = read["tasks"]["train"]
    assert (train["task_type"], train["pool"], train["owner"]) == ("TrainOperator", "longreel_train", "longreel")
    assert train["documented"]
    assert train["retries"] > 0
    assert train["timeout"] < train["execution_timeout"]  # the operator gives up first, and ends the job
    assert read["tasks"]["retrain"]["task_type"] == "BashOperator"
    both = read_dags(airflow_process, LONGREEL_KFP_HOST="http://127.0.0.1:1", **switched)["longreel_train"]
    assert edges(both) == edges(read)
    assert both["tasks"]["retrain"]["task_type"] == "RetrainOperator"


TRIGGERS = """
import json, types
from airflow.models.dagrun import DagRunType
from longreel.dags.longreel_train import SAMPLES, trigger_of
def trigger(run_type, *extras):
    run = types.SimpleNamespace(run_type=DagRunType(run_type))
    return trigger_of(run, {SAMPLES: [types.SimpleNamespace(extra=extra) for extra in extras]} if extras else {})
print("ANSWERS" + json.dumps([
    trigger("manual"),
    trigger("asset_triggered", {"run_type": "scheduled"}),
    trigger("asset_triggered", {"run_type": "backfill"}),
    trigger("asset_triggered", {"run_type": "backfill"}, {"run_type": "rebuild"}),
    trigger("asset_triggered", {"run_type": "correction"}),
    trigger("asset_triggered", {"run_type": "correction"}, {"run_type": "backfill"}),
    trigger("asset_triggered", {"run_type": "correction"}, {"run_type": "scheduled"}),
    trigger("asset_triggered", {"from_rest_api": True}),
    trigger("asset_triggered", None),
]))
"""


def test_the_trigger_of_a_training_follows_the_run_and_its_events(airflow_process: AirflowProcess) -> None:
    """Events of backfills and corrections never ask; one of another kind among them does, as does one by hand."""
    assert answers(airflow_process, TRIGGERS) == [
        "manual",
        "freshness",
        "backfill",
        "freshness",
        "correction",
        "backfill",
        "freshness",
        "freshness",
        "freshness",
    ]


EVENT_KINDS = """
import json
from longreel.dags.longreel_rebuild import event_kinds
was, now = {"05": "a", "06": "b", "07": "c"}, {"05": "a", "06": "x", "07": "y"}
print("ANSWERS" + json.dumps([
    event_kinds(was, now, True), event_kinds(was, was, True), event_kinds(was, now | {"08": "d"}, True),
    event_kinds({}, was, True), event_kinds({"05": "a", "07": "c"}, {"05": "a", "06": "b", "07": "y"}, True),
    event_kinds(was, now | {"08": "d"}, False),
]))
"""


def test_a_rebuild_asks_the_policy_about_the_newest_new_day_and_no_corrected_one(
    airflow_process: AirflowProcess,
) -> None:
    kinds = [{event["day"]: event["run_type"] for event in events} for events in answers(airflow_process, EVENT_KINDS)]
    assert kinds == [
        {"06": "correction", "07": "correction"},
        {},
        {"06": "correction", "07": "correction", "08": "rebuild"},
        {"05": "backfill", "06": "backfill", "07": "rebuild"},
        {"06": "rebuild", "07": "correction"},
        {"06": "correction", "07": "correction", "08": "backfill"},  # started by longreel_daily
    ]


def answers(process: AirflowProcess, script: str) -> list:
    """What a script that reads the DAGs prints after ANSWERS."""
    done = process.run(script, environment=os.environ)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS")]
    assert lines, done.stderr
    return json.loads(lines[0].removeprefix("ANSWERS"))


TELL = """
import asyncio, json, sys, types
from longreel.dags import notify
from longreel.dags.notify import WebhookNotifier
run = types.SimpleNamespace(partition_key="2026-01-09")
for task in ("retrain", "should_retrain"):
    ti = types.SimpleNamespace(task_id=task, log_url="http://127.0.0.1/log")
    WebhookNotifier("hook", "longreel_train 2026-01-09: " + task)({"ti": ti, "dag_run": run})
late = {"dag_run": {"dag_id": "longreel_daily", "partition_key": "2026-01-10"}, "deadline": {}}
asyncio.run(notify.notify_late(context=late))
"""


NOTIFY = """
import asyncio
from longreel.dags import notify
late = {"dag_run": {"dag_id": "longreel_daily", "partition_key": "2026-01-10"}, "deadline": {}}
asyncio.run(notify.notify_late(context=late))
"""


def test_a_webhook_s_token_and_address_stay_with_its_server(airflow_process: AirflowProcess) -> None:
    """A redirect, a server that is away and an address that is none: the log names the connection alone."""
    requests: list[str | None] = []

    class Moved(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.end_headers()

        def do_GET(self) -> None:
            requests.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Moved) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        here = {"conn_type": "http", "host": "127.0.0.1", "port": server.server_port, "password": "pl4nted-token"}
        for connection, reason in (
            (here | {"schema": "pl4nted-path"}, "it answered 302"),
            (here | {"schema": "pl4nted-path", "port": 1}, "URLError"),
            (here | {"schema": "pl4nted path"}, "InvalidURL"),
        ):
            environment = os.environ | {"LONGREEL_NOTIFY_CONN": "hook", "AIRFLOW_CONN_HOOK": json.dumps(connection)}
            done = airflow_process.run(NOTIFY, environment=environment)
            assert done.returncode == 1
            assert f"the webhook of connection 'hook' took no message ({reason})" in done.stderr
            assert "pl4nted" not in done.stdout + done.stderr
        server.shutdown()
    assert requests == []


def test_the_webhook_gets_the_decision_its_reasons_and_links(airflow_process: AirflowProcess, tmp_path: Path) -> None:
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
        "headline": "AUC is .01 better (95% interval .005 .. .015).",
        "reasons": ["The report is complete.", "The samples passed."],
        "run_id": "r1",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.server_port, "schema": "services/x"}
        environment = {
            **os.environ,
            "LONGREEL_HOME": str(tmp_path / "home"),
            "LONGREEL_NOTIFY_CONN": "hook",
            "AIRFLOW_CONN_HOOK": json.dumps(connection | {"password": "token"}),
            "MLFLOW_TRACKING_URI": "http://mlflow.example",
        }
        tell = airflow_process.run(TELL, environment=environment)
        server.shutdown()
    assert tell.returncode == 0, tell.stderr
    decided, failed, late = (message["text"] for message in got)
    assert [(m["path"], m["auth"]) for m in got] == [("/services/x", "Bearer token")] * 3
    assert late.startswith("longreel_daily 2026-01-10: not done by its deadline")
    for part in (
        "longreel-x version 3: hold",
        "AUC is .01 better (95% interval .005 .. .015).",
        "run_card.html",
        "http://mlflow.example/#/runs/r1",
        "/log",
    ):
        assert part in decided
    assert "The report is complete." not in decided
    assert "version 3" not in failed
    assert "http://127.0.0.1/log" in failed
