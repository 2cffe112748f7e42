"""Operators under a real Airflow: after a kill they continue with the existing run; a person ends it."""

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from longreel.embedded_airflow import EmbeddedAirflow, end_session
from longreel.lake.home import Home
from tests.kfp_server import KfpServer
from tests.kubernetes_server import KubernetesServer
from tests.operators.test_retrain import DAY, evaluated_by_pods
from tests.operators.test_train import MANIFEST, trained_by_pods

pytestmark = pytest.mark.slow
DAG = "dags/longreel_train"


def call(airflow: EmbeddedAirflow, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    airflow.get("version")  # signs in
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {airflow._token}"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{airflow.url}/api/v2/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def until(holds: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := holds():
            return value
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s")


def state(airflow: EmbeddedAirflow, run: str, task: str) -> str:
    return str(airflow.get(f"{DAG}/dagRuns/{run}/taskInstances/{task}")["state"])


def begun(airflow: EmbeddedAirflow, task: str) -> str:
    """A run of the training DAG, one of whose tasks waits for what runs elsewhere."""
    until(lambda: airflow.get("dags")["total_entries"] == 5, "the DAGs are read")
    call(airflow, "PATCH", DAG, {"is_paused": False})
    run = call(airflow, "POST", f"{DAG}/dagRuns", {"logical_date": None, "partition_key": DAY})["dag_run_id"]
    until(lambda: state(airflow, run, task) == "deferred", f"deferred; log: {airflow.log}")
    return str(run)


def mark_failed(airflow: EmbeddedAirflow, run: str, task: str) -> None:
    call(airflow, "PATCH", f"{DAG}/dagRuns/{run}/taskInstances/{task}", {"new_state": "failed"})


def test_a_killed_airflow_continues_with_the_existing_pipeline_run(
    kfp: KfpServer, make_home: Callable[..., Home], register: Callable[..., Any], report: Callable[..., Any]
) -> None:
    home = make_home(3)
    settings = {"LONGREEL_KFP_HOST": kfp.url, "LONGREEL_FIRST_DAY": "2026-01-01"}
    settings["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "True"  # no daily runs: their days are there
    with EmbeddedAirflow(home, settings) as airflow:
        run = begun(airflow, "retrain")
        (ended,) = kfp.runs
        get_run = f"GET /apis/v2beta1/runs/{ended}"
        until(
            lambda: kfp.requests.count(get_run) > 1,
            "watched: before a triggerer has it, nothing tells it of a person's word",
        )
        mark_failed(airflow, run, "retrain")
        until(lambda: kfp.terminated == [ended], f"terminated; log: {airflow.log}")

        run = begun(airflow, "retrain")
        assert len(kfp.runs) == 2
        assert airflow._process is not None
        end_session(airflow._process.pid, grace_s=0)
    pipeline_run = next(run_id for run_id in kfp.runs if run_id != ended)
    requests_before = len(kfp.requests)
    with EmbeddedAirflow(home, settings) as airflow:
        until(lambda: any(pipeline_run in path for path in kfp.requests[requests_before:]), "watched again")
        digest = kfp.runs[pipeline_run]["runtime_config"]["parameters"]["inputs_digest"]
        evaluated_by_pods(home, register, report, digest)
        kfp.set(pipeline_run, "SUCCEEDED")
        until(lambda: state(airflow, run, "retrain") == "success", f"collected; log: {airflow.log}")
    assert set(kfp.runs) == {ended, pipeline_run}
    assert kfp.terminated == [ended]
    assert json.loads((home.reports / DAY / "summary.json").read_text())["outcome"] == "promote"


def test_a_killed_airflow_continues_with_the_existing_train_job_and_evaluates_its_candidate(
    cluster: KubernetesServer, make_home: Callable[..., Home], register: Callable[..., Any]
) -> None:
    home = make_home(3)
    settings = {"LONGREEL_TRAIN_JOB": str(MANIFEST), "LONGREEL_FIRST_DAY": "2026-01-01"}
    settings["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = "True"
    with EmbeddedAirflow(home, settings) as airflow:
        run = begun(airflow, "train")
        (first,) = cluster.created
        name = first["metadata"]["name"]
        until(lambda: cluster.requests.count(f"get {name}") > 1, "watched by the triggerer")
        mark_failed(airflow, run, "train")
        until(lambda: "deletionTimestamp" in first["metadata"], f"deleted; log: {airflow.log}")

        run = begun(airflow, "train")
        assert len(cluster.created) == 2
        assert airflow._process is not None
        end_session(airflow._process.pid, grace_s=0)
    requests_before = len(cluster.requests)
    with EmbeddedAirflow(home, settings) as airflow:
        until(lambda: f"get {name}" in cluster.requests[requests_before:], "watched again")
        candidate = trained_by_pods(home, register)
        cluster.end(name, "Complete", "AllJobsCompleted")
        until(lambda: state(airflow, run, "retrain") == "success", f"evaluated; log: {airflow.log}")
    assert len(cluster.created) == 2
    assert json.loads((home.reports / DAY / "summary.json").read_text())["version"] == candidate.version
