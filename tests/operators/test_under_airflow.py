"""The operator under a real Airflow: killed, it goes on with the pipeline run that is there; a person ends it."""

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from contracts.home import Home
from longreel.embedded_airflow import EmbeddedAirflow, end_session
from tests.kfp_server import KfpServer
from tests.operators.test_retrain import DAY, judged_by_pods

pytestmark = pytest.mark.slow
DAG = "dags/longreel_train"


def asked(airflow: EmbeddedAirflow, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    airflow.get("version")  # signs in
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {airflow._token}"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{airflow.url}/api/v2/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(holds: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


def state(airflow: EmbeddedAirflow, run: str) -> str:
    return str(airflow.get(f"{DAG}/dagRuns/{run}/taskInstances/retrain")["state"])


def begun(airflow: EmbeddedAirflow, kfp: KfpServer, runs: int) -> str:
    """A run of the training DAG whose task waits for the `runs`-th pipeline run."""
    until(lambda: airflow.get("dags")["total_entries"] == 4, "the DAGs are read")
    asked(airflow, "PATCH", DAG, {"is_paused": False})
    run = asked(airflow, "POST", f"{DAG}/dagRuns", {"logical_date": None, "partition_key": DAY})["dag_run_id"]
    until(lambda: state(airflow, run) == "deferred", f"deferred; log: {airflow.log}")
    assert len(kfp.runs) == runs
    return str(run)


def test_a_killed_airflow_goes_on_with_the_pipeline_run_that_is_there(
    kfp: KfpServer, make_home: Callable[..., Home], register: Callable[..., Any], report: Callable[..., Any]
) -> None:
    home = make_home(3)
    settings = {"LONGREEL_KFP_HOST": kfp.url, "LONGREEL_FIRST_DAY": "2026-01-01"}
    settings["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "True"  # no daily runs: their days are there
    with EmbeddedAirflow(home, settings) as airflow:
        run = begun(airflow, kfp, 1)
        (ended,) = kfp.runs
        seen = f"GET /apis/v2beta1/runs/{ended}"
        until(
            lambda: kfp.asked.count(seen) > 1, "watched: before a triggerer has it, nothing tells it of a person's word"
        )
        asked(airflow, "PATCH", f"{DAG}/dagRuns/{run}/taskInstances/retrain", {"new_state": "failed"})
        until(lambda: kfp.terminated == [ended], f"terminated; log: {airflow.log}")

        run = begun(airflow, kfp, 2)
        assert airflow._process is not None
        end_session(airflow._process.pid, grace_s=0)
    pipeline_run = next(each for each in kfp.runs if each != ended)
    asked_before = len(kfp.asked)
    with EmbeddedAirflow(home, settings) as airflow:
        until(lambda: any(pipeline_run in path for path in kfp.asked[asked_before:]), "watched again")
        digest = kfp.runs[pipeline_run]["runtime_config"]["parameters"]["inputs_digest"]
        judged_by_pods(home, register, report, digest)
        kfp.set(pipeline_run, "SUCCEEDED")
        until(lambda: state(airflow, run) == "success", f"collected; log: {airflow.log}")
    assert set(kfp.runs) == {ended, pipeline_run}
    assert kfp.terminated == [ended]
    assert json.loads((home.reports / DAY / "summary.json").read_text())["outcome"] == "promote"
