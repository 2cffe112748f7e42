"""Airflow's values name no secret's content, lock every pod up, and give its Spark tasks a command that reaches the
cluster."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.manifests.rendering import (
    KUBERNETES,
    LOCKED_UP,
    NOT_ROOT,
    VERSION,
    assert_bounded,
    of_kind,
    rendered,
    values_of,
)

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


def test_tasks_and_triggerer_have_a_token_for_kubeflow_pipelines_and_nobody_else_has() -> None:
    """As Kubeflow's documentation asks: projected, for its audience, where LONGREEL_KFP_TOKEN_FILE says."""
    variables = {each["name"]: each.get("value") for each in yaml.safe_load(VALUES["extraEnv"])}
    holders = [part for part in PARTS if VALUES[part].get("extraVolumes")]
    assert holders == ["triggerer", "workers"]
    bound = {subject["name"] for subject in binding_of("pipelines")["subjects"]}
    for part in holders:
        assert VALUES[part]["serviceAccount"]["name"] in bound
        (volume,), (mount,) = VALUES[part]["extraVolumes"], VALUES[part]["extraVolumeMounts"]
        (source,) = volume["projected"]["sources"]
        token = source["serviceAccountToken"]
        assert token["audience"] == "pipelines.kubeflow.org"
        assert (mount["name"], mount["readOnly"]) == (volume["name"], True)
        assert f"{mount['mountPath']}/{token['path']}" == variables["LONGREEL_KFP_TOKEN_FILE"]


def binding_of(name: str) -> dict[str, Any]:
    (found,) = [item for item in of_kind("manifests/base", "RoleBinding") if item["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("part", PARTS)
def test_a_pod_made_of_the_values_is_strictly_valid(part: str) -> None:
    """Volumes, mounts, variables and security, as the chart puts them into a pod."""
    own = VALUES[part]
    container = {
        "name": part,
        "image": "airflow",
        "env": yaml.safe_load(VALUES["extraEnv"]),
        "envFrom": yaml.safe_load(VALUES["extraEnvFrom"]),
        "volumeMounts": VALUES["volumeMounts"] + own.get("extraVolumeMounts", []),
        "resources": own["resources"],
        "securityContext": VALUES["securityContexts"]["containers"],
    }
    volumes = VALUES["volumes"] + own.get("extraVolumes", [])
    spec = {"containers": [container], "volumes": volumes, "securityContext": VALUES["securityContexts"]["pod"]}
    spec["serviceAccountName"] = own["serviceAccount"]["name"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": part.lower()}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in volumes}


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
