"""The KFP pipeline: its YAML is what the code says, and it runs from training to promotion under the local runner."""

import importlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import psutil
import pytest
import yaml

from longreel.cli import COMMANDS, command_parser, main
from longreel.components.call import CLUSTER_YAML
from longreel.components.gates.decide import decide
from longreel.components.pipeline import YAML, compile_cluster_to, compile_to
from longreel.components.registry import store
from longreel.components.registry.ledger import Ledger
from longreel.components.reports.record import log_evaluation
from longreel.components.retrain import plan, retrain
from longreel.components.train import train_candidate
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.lake.home import CONFIG_FILE, POLICY_FILE, Home

MakeHome = Callable[..., Home]
VALUES = {"trigger": "freshness", "waits_for_approval": "true"}  # where "1" is no value for a step's option


def test_committed_yaml_is_what_the_code_compiles_to(tmp_path: Path) -> None:
    compile_to(tmp_path / "pipeline.yaml")
    assert (tmp_path / "pipeline.yaml").read_text() == YAML.read_text(), "run `python -m longreel.components.pipeline`"


def test_committed_cluster_edition_is_what_the_code_compiles_to(tmp_path: Path) -> None:
    pytest.importorskip("kfp.kubernetes", reason="kfp-kubernetes is not installed; it writes volumes into the YAML")
    compile_cluster_to(tmp_path / "cluster.yaml")
    assert (tmp_path / "cluster.yaml").read_text() == CLUSTER_YAML.read_text(), (
        "run `python -m longreel.components.pipeline`"
    )


@pytest.mark.parametrize("path", [YAML, CLUSTER_YAML])
def test_components_install_nothing_at_run_time(path: Path) -> None:
    assert "pip install" not in path.read_text()


def test_both_editions_have_the_same_graph_and_interface() -> None:
    here, cluster = (next(yaml.safe_load_all(path.read_text())) for path in (YAML, CLUSTER_YAML))
    assert cluster["root"]["inputDefinitions"] == here["root"]["inputDefinitions"]
    assert cluster["root"]["outputDefinitions"] == here["root"]["outputDefinitions"]
    assert cluster["components"].keys() == here["components"].keys()
    for name, component in here["components"].items():
        for side in ("inputDefinitions", "outputDefinitions"):
            assert cluster["components"][name].get(side) == component.get(side), name


def test_every_container_is_one_command_that_the_command_line_knows() -> None:
    """Its words, with any value for a placeholder, are read by the step's own parser."""
    document = next(yaml.safe_load_all(CLUSTER_YAML.read_text()))
    executors = document["deploymentSpec"]["executors"]
    assert len(executors) == 5
    for executor in executors.values():
        container = executor["container"]
        program, *words = container["command"]
        assert program == "longreel"
        command = " ".join(words)
        parser = command_parser(command)
        importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
        words = [re.sub(r"\{\{.*'(\w+)'.*\}\}", lambda m: VALUES.get(m[1], "1"), word) for word in container["args"]]
        parser.parse_args(words)


def test_a_pod_has_limits_its_volumes_and_no_root() -> None:
    document, platform = yaml.safe_load_all(CLUSTER_YAML.read_text())
    for name, executor in document["deploymentSpec"]["executors"].items():
        resources = executor["container"]["resources"]
        assert resources["resourceCpuLimit"]
        assert resources["resourceMemoryLimit"]
        pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]
        assert pod["securityContext"]["runAsNonRoot"]
        assert {mount["mountPath"] for mount in pod["pvcMount"]} == {"/longreel", "/data"}
        shared = [volume["medium"] for volume in pod["emptyDirMounts"] if volume["mountPath"] == "/dev/shm"]
        assert shared == ["Memory"] * ("accelerator" in resources)


def test_a_pod_mounts_and_reads_what_the_manifests_have() -> None:
    base = Path(__file__).resolve().parents[2] / "manifests/base"
    claims = {item["metadata"]["name"] for item in yaml.safe_load_all((base / "storage.yaml").read_text())}
    maps = {
        config_map["name"]
        for config_map in yaml.safe_load((base / "kustomization.yaml").read_text())["configMapGenerator"]
    }
    variables = {line.split("=")[0] for line in (base / "environment.env").read_text().splitlines()}
    _, platform = yaml.safe_load_all(CLUSTER_YAML.read_text())
    rules = (base / "network.yaml").read_text()
    for pod in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert {mount["constant"] for mount in pod["pvcMount"]} <= claims
        assert {source["configMapName"] for source in pod["configMapAsEnv"] + pod["configMapAsVolume"]} <= maps
        assert {key["configMapKey"] for source in pod["configMapAsEnv"] for key in source["keyToEnv"]} <= variables
        assert f"app.kubernetes.io/name: {pod['podMetadata']['labels']['app.kubernetes.io/name']}" in rules


def test_caching_follows_the_inputs_digest() -> None:
    """What is cached takes the digest of data, settings and code; what writes to MLflow's registry is never cached."""
    for path in (YAML, CLUSTER_YAML):
        document = next(yaml.safe_load_all(path.read_text()))
        graphs = [document["root"], *document["components"].values()]
        tasks = [task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).values()]
        cached = {task["taskInfo"]["name"] for task in tasks if task["cachingOptions"].get("enableCache")}
        assert cached == {"train", "evaluate candidate", "evaluate champion"}
        for task in tasks:
            if task["taskInfo"]["name"] in cached:
                assert "inputs_digest" in task["inputs"]["parameters"]


def test_a_hold_and_a_promotion_that_waits_move_nothing(
    make_home: MakeHome,
    register: Callable[..., Any],
    report: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home, file = make_home(3), tmp_path / "decision.json"
    version = register(home)
    evaluated = report(model=version.model_digest, windows=(8, 64), by_window=(0.0, 0.01))
    decision = decide(evaluated, None, home.policy)
    command = ["model", "promote", "--home", str(home.path), "--version", str(version.version), "--decision", str(file)]
    file.write_text(replace(decision, outcome="hold").to_json())
    assert main([*command, "--if-better", "--waits-for-approval", "false"]) == 0
    assert Ledger(home).champion() is None
    file.write_text(decision.to_json())
    assert main([*command, "--if-better", "--waits-for-approval", "True"]) == 0
    assert Ledger(home).champion() is None
    promote = [*command, "--if-better", "--waits-for-approval", "false"]
    assert main(promote) == 2
    assert "version 1 has no recorded evaluation" in capsys.readouterr().err
    log_evaluation(home, 1, evaluated, None, decision)
    file.write_text(replace(decision, gates=decision.gates[1:], evaluation_days=9).to_json())  # as made by hand
    assert main(promote) == 2
    error = capsys.readouterr().err
    assert "evaluation_days is 9, expected 1; gate " in error
    assert " is missing, expected pass" in error
    file.write_text(decision.to_json())
    policy = home.path / POLICY_FILE
    before = policy.read_text()
    policy.write_text(before.replace("max_ece = 0.5", "max_ece = 0.4"))
    assert main(promote) == 2
    assert "policy_digest is " in capsys.readouterr().err
    policy.write_text(before)
    (path,) = home.artifacts.rglob("evaluation/report.json")
    text = path.read_text()
    path.write_text(text.replace('"latency_ms": 2.0', '"latency_ms": 1.0'))
    assert main(promote) == 2
    assert "it was changed; evaluate and decide again" in capsys.readouterr().err
    path.write_text(text)
    assert main(promote) == 0
    assert Ledger(home).champion() is not None


@pytest.mark.slow
def test_two_retrains_end_with_reports_and_one_champion(make_home: MakeHome, capfd: pytest.CaptureFixture[str]) -> None:
    home = make_home(4)
    assert main(["ops", "retrain", "--home", str(home.path), "--date", "2026-01-03", "--trigger", "freshness"]) == 0
    assert main(["ops", "retrain", "--home", str(home.path), "--date", "2026-01-04", "--trigger", "freshness"]) == 0
    first, second = (json.loads((home.reports / d / "summary.json").read_text()) for d in ("2026-01-03", "2026-01-04"))
    assert first["outcome"] == "promote"
    assert (first["champion_before"], first["champion_after"]) == (None, 1)
    assert second["version"] == 2
    assert second["champion_before"] == 1
    assert second["champion_after"] == (2 if second["outcome"] == "promote" else 1)
    names = {path.name for path in (home.reports / "2026-01-04").iterdir()}
    assert names == {"report.json", "champion_report.json", "decision.json", "run_card.html", "plots", "summary.json"}
    out = capfd.readouterr().out
    assert "Decision on 2026-01-04" in out
    assert "champion/superiority" in out
    champion = Ledger(home).champion()
    assert champion is not None
    assert champion.version == second["champion_after"]
    assert main(["ops", "status", "--home", str(home.path)]) == 0
    assert "Ledger" in capfd.readouterr().out


@pytest.mark.slow
def test_a_failing_step_ends_the_retrain_with_its_exit_code(
    make_home: MakeHome, capfd: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3)
    part = home.lake.paths(home.lake.require("samples", date(2026, 1, 2)))[0]
    Path(part).write_bytes(b"not parquet")
    assert main(["ops", "retrain", "--home", str(home.path), "--date", "2026-01-03"]) == LongreelError.exit_code
    assert "Inner task failed: 'train'" in capfd.readouterr().err
    assert not (home.reports / "2026-01-03" / "summary.json").exists()


@pytest.mark.slow
def test_a_retrain_moves_no_alias_that_a_person_moved(make_home: MakeHome, capfd: pytest.CaptureFixture[str]) -> None:
    """It trains, evaluates and decides; once a person has decided, the next call trains nothing and promotes."""
    home, command = make_home(3), ["ops", "retrain", "--date", "2026-01-03", "--home"]
    ledger = Ledger(home)
    train_candidate(home, date(2026, 1, 3))
    ledger.client.set_registered_model_alias(ledger.model, "champion", "1")  # before any promotion
    text = (home.path / CONFIG_FILE).read_text()
    (home.path / CONFIG_FILE).write_text(text.replace("[training]", "[training]\nseed = 1"))
    assert main([*command, str(home.path)]) == LongreelError.exit_code
    assert "was moved in MLflow: it is version 1, the ledger has no entry" in capfd.readouterr().out
    assert (ledger.read().alias, ledger.entries()) == (1, [])
    ledger.client.delete_registered_model_alias(ledger.model, "champion")
    assert main([*command, str(home.path)]) == 0
    assert [(entry.action, entry.to_version) for entry in ledger.entries()] == [("promote", 2)]
    assert [version.version for version in ledger.read().registered] == [1, 2]


@pytest.mark.slow
def test_a_terminated_retrain_ends_its_step_and_the_next_one_finishes(make_home: MakeHome) -> None:
    home = make_home(3, epochs=20)
    command = [sys.executable, "-m", "longreel", "ops", "retrain", "--home", str(home.path), "--date", "2026-01-03"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not any(home.work.glob("train/*/checkpoints/*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    steps = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert steps
    assert not psutil.wait_procs(steps, timeout=20)[1]
    assert main(["ops", "retrain", "--home", str(home.path), "--date", "2026-01-03"]) == 0
    summary = json.loads((home.reports / "2026-01-03" / "summary.json").read_text())
    assert summary["version"] == 1
    assert run_states(home) == {summary["run_id"]: "FINISHED"}


def run_states(home: Home) -> dict[str, str]:
    """Every MLflow run of the pipeline, with its state."""
    client = store.open_store(home)
    runs = client.search_runs([store.experiment_id(home, client)])
    return {run.info.run_id: run.info.status for run in runs}


def test_inputs_digest_follows_content(make_home: MakeHome, publish: Callable[..., None]) -> None:
    home = make_home(3)
    before = plan(home, date(2026, 1, 3))
    assert plan(home, date(2026, 1, 3)) == before
    publish(home, date(2026, 1, 1), seed=5)
    assert plan(home, date(2026, 1, 3)).inputs_digest != before.inputs_digest


def test_too_few_days_and_an_unpublished_day_are_rejected(make_home: MakeHome) -> None:
    home = make_home(3)
    with pytest.raises(DataNotReadyError, match="at least 2 days before"):
        plan(home, date(2026, 1, 2))
    with pytest.raises(DataNotReadyError, match="samples of 2026-02-01 expected"):
        plan(home, date(2026, 2, 1))


def test_a_day_the_champion_was_trained_on_is_rejected_before_training(
    make_home: MakeHome, register: Callable[..., object], promotion: Callable[..., object]
) -> None:
    home = make_home(4)
    version = register(home, 1, watermark="2026-01-03", day="2026-01-04")
    Ledger(home).promote(promotion(version, None), version)  # type: ignore[arg-type]
    with pytest.raises(LongreelError, match=r"the champion \(version 1\) was trained through 2026-01-03"):
        plan(home, date(2026, 1, 3))


@pytest.mark.slow
def test_a_retrain_killed_after_its_promotion_is_found_done(make_home: MakeHome) -> None:
    """A scheduler that died takes the task over while the old try is still at work: the new one begins after the old
    one has promoted, and must not evaluate the new champion against itself."""
    home, day = make_home(3), date(2026, 1, 3)
    begun = retrain(home, day)
    shutil.rmtree(home.reports)  # killed before it reported
    assert retrain(home, day) == begun | {"seconds": ANY}
    assert run_states(home) == {begun["run_id"]: "FINISHED"}
    assert [entry.action for entry in Ledger(home).entries()] == ["promote"]
