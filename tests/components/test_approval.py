"""A person is asked under a real Airflow: who approves is in the ledger, who rejects leaves the champion and is too."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from longreel.components.gates.decide import decide
from longreel.components.registry.ledger import Ledger
from longreel.components.reports.record import log_evaluation
from longreel.components.retrain import _report
from longreel.contracts.report import EvaluationReport
from longreel.embedded_airflow import PASSWORDS, EmbeddedAirflow
from longreel.lake.home import Home

pytestmark = pytest.mark.slow
DAG = "dags/longreel_train"
LIMIT_S = 150
READING_S = 3
SETTINGS = {
    "LONGREEL_APPROVAL": "1",
    "LONGREEL_FIRST_DAY": "2026-01-01",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",  # no daily runs: their days are there
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,lead:admin",
}


class Person:
    """Somebody who is signed in to an Airflow."""

    def __init__(self, airflow: EmbeddedAirflow, name: str) -> None:
        self._url, self._headers = airflow.url, {"Content-Type": "application/json"}
        password = json.loads((airflow.home.airflow / PASSWORDS).read_text())[name]
        token = self.asks("POST", "/auth/token", {"username": name, "password": password})["access_token"]
        self._headers["Authorization"] = f"Bearer {token}"

    def asks(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))

    def answers(self, airflow: EmbeddedAirflow, run: str, word: str, reason: str) -> None:
        """Answer whenever asked, until it has been acted on. Airflow asks again where the answer came so soon that the
        asking process had not been reported as ended."""
        path = f"/api/v2/{DAG}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"

        def acted_on() -> bool:
            if state(airflow, run, "approve") == "awaiting_input":
                time.sleep(READING_S)
                try:
                    self.asks("PATCH", path, {"chosen_options": [word], "params_input": {"reason": reason}})
                except urllib.error.HTTPError as error:
                    if error.code != 409:  # answered already, and about to be resumed
                        raise
            return state(airflow, run, "promote") == "success"

        until(acted_on, f"{word} acted on; log: {airflow.log}")


def until(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if value := holds():
            return value
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {LIMIT_S} s")


def state(airflow: EmbeddedAirflow, run: str, task: str) -> str | None:
    task_state = airflow.get(f"{DAG}/dagRuns/{run}/taskInstances/{task}")["state"]
    assert task_state not in ("failed", "up_for_retry"), f"{task} failed; log: {airflow.log}"
    return None if task_state is None else str(task_state)


def record_evaluation(
    home: Home, register: Callable[..., Any], report: Callable[..., EvaluationReport], day: str
) -> None:
    """What a retrain leaves for `day`: a candidate that is better than the champion, if there is one."""
    champion = Ledger(home).champion()
    version = register(home, int(day[-1]), day=day, watermark="2026-01-02")
    same: dict[str, Any] = {"windows": (8, 64), "by_window": (0.0, 0.01), "date": day}
    ours = report(0.01, model=version.model_digest, **same)
    theirs = None if champion is None else report(model=champion.model_digest, **same)
    log_evaluation(home, version.version, ours, theirs, decide(ours, theirs, home.policy))
    before = 0 if champion is None else champion.version
    _report(home, date.fromisoformat(day), version.version, "freshness", before, 0.0)


def proposed(airflow: EmbeddedAirflow, admin: Person, day: str) -> tuple[str, dict[str, Any]]:
    """A run of the training DAG whose person is asked: its id, and what they see."""
    dag_run = admin.asks("POST", f"/api/v2/{DAG}/dagRuns", {"logical_date": None, "partition_key": day})
    run = str(dag_run["dag_run_id"])
    retrain = f"/api/v2/{DAG}/dagRuns/{run}/taskInstances/retrain"
    admin.asks("PATCH", retrain, {"new_state": "success"})  # it is done; `should_retrain` has only just begun
    until(lambda: state(airflow, run, "approve") == "awaiting_input", f"asked about {day}; log: {airflow.log}")
    (proposal,) = [
        d for d in airflow.get(f"{DAG}/dagRuns/{run}/hitlDetails")["hitl_details"] if not d["response_received"]
    ]
    return run, proposal


def test_who_approves_and_who_rejects_is_in_the_ledger(
    make_home: Callable[..., Home], register: Callable[..., Any], report: Callable[..., EvaluationReport]
) -> None:
    home = make_home(4)
    record_evaluation(home, register, report, "2026-01-03")
    with EmbeddedAirflow(home, SETTINGS) as airflow:
        until(lambda: airflow.get("dags")["total_entries"] >= 2, "the DAGs are read")
        admin, lead = Person(airflow, "admin"), Person(airflow, "lead")
        admin.asks("PATCH", f"/api/v2/{DAG}", {"is_paused": False})

        run, proposal = proposed(airflow, admin, "2026-01-03")
        assert proposal["subject"] == "Promote the candidate evaluated on 2026-01-03?"
        assert "version 1: promote. There is no champion yet" in proposal["body"]
        assert str(home.reports / "2026-01-03" / "run_card.html") in proposal["body"]
        assert Ledger(home).champion() is None  # nothing moves before the answer
        lead.answers(airflow, run, "Approve", 'ready "$(touch injected)" `touch injected`')

        record_evaluation(home, register, report, "2026-01-04")
        run, proposal = proposed(airflow, admin, "2026-01-04")
        assert "version 2: promote. Against the champion on the same 200 users" in proposal["body"]
        admin.answers(airflow, run, "Reject", "a launch is tomorrow")

    ledger = Ledger(home)
    champion = ledger.champion()
    assert champion is not None
    assert champion.version == 1
    approved, rejected = ledger.entries()
    assert (approved.who, approved.action, approved.to_version) == ("lead", "promote", 1)
    assert approved.reason.startswith('ready "$(touch injected)" `touch injected` There is no champion yet')
    assert (rejected.who, rejected.action) == ("admin", "decline")
    assert (rejected.from_version, rejected.to_version) == (1, 2)
    assert rejected.reason == "a launch is tomorrow"
    assert not list(home.path.rglob("injected"))
