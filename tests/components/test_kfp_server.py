"""A pipeline server behind `longreel ops retrain`: the real kfp.Client against a local KFP REST server."""

import socket
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from longreel.cli import main
from longreel.components.call import CLUSTER_YAML
from longreel.components.kfp_server import PipelineServer, ServerError, ServerUnavailableError
from longreel.components.registry.ledger import Ledger
from longreel.components.retrain import plan, retrain, submit
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from tests.kfp_server import KfpServer, Pods, serving

MakeHome = Callable[..., Home]


def connected() -> PipelineServer:
    server = PipelineServer.configured()
    assert server is not None
    return server


def test_without_a_host_pipelines_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGREEL_KFP_HOST", raising=False)
    assert PipelineServer.configured() is None


def test_a_submitted_run_carries_the_committed_cluster_edition_and_its_arguments(
    kfp: KfpServer, make_home: MakeHome
) -> None:
    home = make_home(3)
    planned = plan(home, date(2026, 1, 3))
    run = submit(connected(), home, date(2026, 1, 3), planned, trigger="freshness", promote=False)
    sent = kfp.runs[run.run_id]
    committed = list(yaml.safe_load_all(CLUSTER_YAML.read_text()))
    assert sent["pipeline_spec"]["pipeline_spec"]["root"] == committed[0]["root"]
    volumes = sent["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {mount["mountPath"] for mount in volumes["exec-train"]["pvcMount"]} == {"/longreel", "/data"}
    assert sent["runtime_config"]["parameters"] == {
        "home": "/longreel",
        "date": "2026-01-03",
        "trigger": "freshness",
        "waits_for_approval": True,
        "inputs_digest": planned.inputs_digest,
        "champion": 0,
    }
    assert sent["display_name"].startswith("tiny 2026-01-03 ")
    assert [experiment["display_name"] for experiment in kfp.experiments.values()] == ["longreel"]


def test_the_same_request_gives_the_same_run_and_a_failed_run_a_new_one(kfp: KfpServer) -> None:
    def run_id() -> str:
        return connected().submit("a", CLUSTER_YAML, {}).run_id

    first = run_id()
    assert run_id() == first
    kfp.set(first, "SUCCEEDED")
    assert run_id() == first
    kfp.set(first, "FAILED")
    second = run_id()
    assert second != first
    kfp.set(second, "CANCELING")
    third = run_id()
    assert third not in (first, second)
    for i in range(5):
        kfp.add(f"other {i}")
    assert run_id() == third, "found on a later page of the list"
    assert len(kfp.experiments) == 1


def test_of_two_submissions_at_one_moment_the_earlier_run_stays(kfp: KfpServer) -> None:
    others = []
    kfp.after_create = lambda created: others.append(kfp.add("a", hours=0.001))
    run = connected().submit("a", CLUSTER_YAML, {})
    assert [run.run_id] == others
    ours = (set(kfp.runs) - set(others)).pop()
    assert kfp.terminated == [ours]


def test_another_requester_gets_its_own_run(kfp: KfpServer, make_home: MakeHome) -> None:
    home = make_home(3)
    day, server = date(2026, 1, 3), connected()
    planned = plan(home, day)

    def run_id(by: str) -> str:
        return submit(server, home, day, planned, trigger="manual", promote=True, requester=by).run_id

    assert run_id("x") == run_id("x") != run_id("y")


def test_waiting_survives_a_server_outage(kfp: KfpServer) -> None:
    run_id, server = kfp.add("a"), connected()
    kfp.fail_next = [503, 500]
    with pytest.raises(ServerUnavailableError, match="the database is away"):
        server.get_run(run_id)
    kfp.set(run_id, "SUCCEEDED")
    assert server.wait(run_id, poll_s=0.01).succeeded


def test_a_run_that_takes_too_long_is_terminated(kfp: KfpServer) -> None:
    run_id = kfp.add("a", hours=13)
    with pytest.raises(LongreelError, match=r"has not ended 12\.0 h after its creation and was terminated"):
        connected().wait(run_id, poll_s=0.01)
    assert kfp.terminated == [run_id]


def test_terminating_an_ended_run_sends_no_request(kfp: KfpServer) -> None:
    run_id = kfp.add("a", "FAILED")
    connected().terminate(run_id)
    assert kfp.terminated == []


def test_a_failed_run_says_which_step_and_why(kfp: KfpServer, make_home: MakeHome) -> None:
    home = make_home(3)

    def fail(created: dict[str, Any]) -> None:
        steps = [{"display_name": "train", "error": {"code": 9, "message": "OOMKilled"}}, {"display_name": "decide"}]
        kfp.set(created["run_id"], "FAILED", run_details={"task_details": steps})

    kfp.after_create = fail
    with pytest.raises(LongreelError, match="ended as FAILED: step 'train': OOMKilled"):
        retrain(home, date(2026, 1, 3))


def test_the_token_is_read_from_its_file_for_each_request(
    kfp: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, file = kfp.add("a"), tmp_path / "token"
    kfp.token = "first"
    with pytest.raises(ServerError, match=r"401.*no user identity header.*is the token right\?"):
        connected().get_run(run_id)
    monkeypatch.setenv("LONGREEL_KFP_TOKEN_FILE", str(file))
    with pytest.raises(ServerError, match="does not exist"):
        connected()
    file.write_text("first")
    monkeypatch.setenv("LONGREEL_KFP_CA_FILE", str(tmp_path / "ca.crt"))
    with pytest.raises(ServerError, match=r"LONGREEL_KFP_CA_FILE names .*does not exist"):
        connected()
    monkeypatch.delenv("LONGREEL_KFP_CA_FILE")
    server = connected()
    assert server.get_run(run_id).is_running
    kfp.token = "second"
    with pytest.raises(ServerError, match="401"):
        server.get_run(run_id)
    file.write_text("second")
    assert server.get_run(run_id).is_running


def test_runs_are_in_the_configured_namespace(kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    connected().submit("a", CLUSTER_YAML, {})
    monkeypatch.setenv("LONGREEL_KFP_NAMESPACE", "longreel")
    connected().submit("b", CLUSTER_YAML, {})
    assert [experiment.get("namespace") or "" for experiment in kfp.experiments.values()] == ["", "longreel"]


def test_an_unknown_run_and_a_missing_server_are_different_errors(
    kfp: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServerError, match="404"):
        connected().get_run("none")
    server = connected()
    other = KfpServer()
    with serving(other):
        gone = other.url
    server._client._existing_config.host = gone
    with pytest.raises(ServerUnavailableError, match="cannot get run none"):
        server.get_run("none")


@pytest.mark.slow
def test_the_cluster_edition_run_as_processes_ends_with_the_same_evidence_and_one_champion(
    kfp: KfpServer, make_home: MakeHome, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The submitted containers' commands, run in the order of the submitted graph; promotion waits the second time."""
    home = make_home(4)
    ran: list[list[str]] = []

    def pods(created: dict[str, Any]) -> None:
        mounts = {"/longreel": str(home.path), "/etc/longreel": str(home.path)}
        ran.append([" ".join(command[1:3]) for command in Pods(created, mounts, tmp_path / created["run_id"]).commands])
        kfp.set(created["run_id"], "SUCCEEDED")

    kfp.after_create = pods
    assert main(["ops", "retrain", "--home", str(home.path), "--date", "2026-01-03"]) == 0
    champion = Ledger(home).champion()
    assert champion is not None
    assert sorted(ran[0]) == ["model decide", "model evaluate", "model evaluate", "model promote", "model train"]
    names = {path.name for path in (home.reports / "2026-01-03").iterdir()}
    assert names == {"report.json", "decision.json", "run_card.html", "plots", "summary.json"}
    out = capfd.readouterr().out
    assert "Decision on 2026-01-03" in out
    kfp.after_create = pods
    assert main(["ops", "retrain", "--home", str(home.path), "--date", "2026-01-04", "--no-promote"]) == 0
    assert sorted(ran[1]) == sorted(ran[0])
    assert (home.reports / "2026-01-04" / "champion_report.json").is_file()
    after = Ledger(home).champion()
    assert after is not None
    assert after.version == champion.version


def test_a_server_that_never_answers_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longreel.components.kfp_server.TIMEOUT_S", (0.3, 0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = PipelineServer(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServerUnavailableError, match="get run"):
            server.get_run("a")
