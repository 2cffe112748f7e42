"""The DAGs as Airflow reads them: they parse alone, and any change of structure shows here."""

import json
import os
import subprocess
import sys
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
                          "outlets": [o.name for o in t.outlets]} for t in d.tasks},
} for d in bag.dags.values()}))
"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Both DAGs, read in a process with an Airflow home and a home folder that do not exist yet."""
    folder = tmp_path_factory.mktemp("airflow")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "LONGREEL_HOME": str(folder / "no-such-home"),
        "LONGREEL_FIRST_DAY": "2026-01-05",
        "LONGREEL_LAST_DAY": "2026-01-09",
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
