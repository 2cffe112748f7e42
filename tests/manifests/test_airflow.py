"""Airflow's values name no secret's content, lock every pod up, and give its Spark tasks a command that reaches the
cluster."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.rendering import LOCKED_UP, NOT_ROOT, VERSION, assert_bounded, rendered, values_of

ROOT = Path(__file__).resolve().parents[2]
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "manifests/airflow/values.yaml").read_text())
PARTS = ("scheduler", "apiServer", "dagProcessor", "triggerer", "workers", "migrateDatabaseJob")
ASK = """
from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
print(*SparkSubmitHook(conn_id="spark_default")._build_spark_submit_command("/x.py"), sep="\\n")
"""


def test_the_image_and_airflow_are_the_locked_ones() -> None:
    (locked,) = re.findall(r"^apache-airflow==(.*)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert VALUES["airflowVersion"] == locked
    assert VALUES["defaultAirflowTag"] == f"{VERSION[1]}-python3.11"


def test_every_part_is_bounded_and_locked_up() -> None:
    for part in PARTS:
        assert_bounded(VALUES[part]["resources"], part)
        assert VALUES[part]["serviceAccount"]["create"] is False, part
    assert VALUES["securityContexts"]["containers"] == LOCKED_UP
    assert NOT_ROOT.items() <= VALUES["securityContexts"]["pod"].items()
    for off in ("postgresql", "redis", "flower", "statsd", "createUserJob", "cleanup"):
        assert VALUES[off] == {"enabled": False}
    for part in ("scheduler", "dagProcessor", "triggerer"):  # a side car without limits would be refused by the quota
        assert VALUES[part]["logGroomerSidecar"] == {"enabled": False}


def test_no_example_dags_and_no_secret_s_content() -> None:
    assert VALUES["config"]["core"]["load_examples"] == "False"
    for name in ("fernetKey", "apiSecretKey", "jwtSecret", "webserverSecretKey"):
        assert name not in VALUES
        assert not list(values_of(VALUES["data"], "metadataConnection"))


def test_a_spark_task_is_submitted_to_the_cluster_as_its_driver(tmp_path: Path) -> None:
    (connection,) = values_of(rendered("manifests/overlays/dev"), "AIRFLOW_CONN_SPARK_DEFAULT")
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_SPARK_DEFAULT": connection,
    }
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[words.index("--master") + 1] == "k8s://https://kubernetes.default.svc"
    assert words[words.index("--deploy-mode") + 1] == "client"
    assert "spark.kubernetes.namespace=longreel-dev" in words
