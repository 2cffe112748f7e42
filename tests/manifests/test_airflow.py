"""Airflow's values name no secret's content, lock every pod up, and give its Spark tasks a command that reaches the
cluster."""

import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.airflow_process import AirflowProcess
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
VARIABLES = {entry["name"]: entry.get("value") for entry in yaml.safe_load(VALUES["extraEnv"])}
PARTS = ("scheduler", "apiServer", "dagProcessor", "triggerer", "workers", "migrateDatabaseJob")
ASK = """
from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
print(*SparkSubmitHook(conn_id="spark_default")._build_spark_submit_command("/x.py"), sep="\\n")
"""


def test_the_image_and_airflow_are_the_locked_ones() -> None:
    (locked,) = re.findall(r"^apache-airflow==(\S+) ", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
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


def test_only_tasks_and_triggerer_have_a_token_for_kubeflow_pipelines() -> None:
    """As Kubeflow's documentation asks: projected, for its audience, where LONGREEL_KFP_TOKEN_FILE says."""
    holders = {part for part in PARTS if "pipelines-token" in mounted(part)}
    assert holders == {"triggerer", "workers"}
    for part in holders:
        assert VALUES[part]["serviceAccount"]["name"] in bound_to("pipelines")
        volume, path = mounted(part)["pipelines-token"]
        (source,) = volume["projected"]["sources"]
        token = source["serviceAccountToken"]
        assert token["audience"] == "pipelines.kubeflow.org"
        assert f"{path}/{token['path']}" == VARIABLES["LONGREEL_KFP_TOKEN_FILE"]


def mounted(part: str) -> dict[str, tuple[dict[str, Any], str]]:
    """A part's own volumes with where they are mounted, read only."""
    own = {volume["name"]: volume for volume in VALUES[part].get("extraVolumes", [])}
    mounts = {mount["name"]: mount for mount in VALUES[part].get("extraVolumeMounts", [])}
    assert all(mount["readOnly"] for mount in mounts.values())
    return {name: (own[name], mount["mountPath"]) for name, mount in mounts.items()}


def bound_to(role: str) -> set[str]:
    (binding,) = [item for item in of_kind("manifests/base", "RoleBinding") if item["metadata"]["name"] == role]
    return {subject["name"] for subject in binding["subjects"]}


def test_tasks_make_train_jobs_of_the_mounted_file_and_the_triggerer_sees_and_deletes_them() -> None:
    """The triggerer's account has no token by itself; it is put where the Kubernetes client looks for it."""
    from kubernetes.config import incluster_config

    volume, path = mounted("workers")["train-job"]
    (settings,) = [
        item["data"]
        for item in of_kind("manifests/base", "ConfigMap")
        if item["metadata"]["name"] == volume["configMap"]["name"]
    ]
    assert [f"{path}/{name}" for name in settings] == ["/etc/longreel/train-job.yaml"]
    assert (
        "/etc/longreel/train-job.yaml" in (ROOT / "manifests/airflow/values.yaml").read_text().split("kubeflow:8888")[0]
    )
    assert VARIABLES["LONGREEL_TRAIN_JOB"] == VARIABLES["LONGREEL_KFP_HOST"] == ""  # off
    volume, path = mounted("triggerer")["kubernetes-token"]
    token, authority = volume["projected"]["sources"]
    assert f"{path}/{token['serviceAccountToken']['path']}" == incluster_config.SERVICE_TOKEN_FILENAME
    assert f"{path}/{authority['configMap']['items'][0]['path']}" == incluster_config.SERVICE_CERT_FILENAME
    assert VALUES["workers"]["serviceAccount"]["name"] in bound_to("train-jobs") & bound_to("train-jobs-create")
    assert VALUES["triggerer"]["serviceAccount"]["name"] in bound_to("train-jobs") - bound_to("train-jobs-create")


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


def test_every_setting_of_ours_is_one_that_is_read() -> None:
    code = "".join((ROOT / name).read_text() for name in ("dags/settings.py", "components/kfp_server.py"))
    ours = [name for name in VARIABLES if name.startswith("LONGREEL_")]
    assert len(ours) == 4
    assert all(f"\n{name} " in code for name in ours)


def test_no_example_dags_and_no_secret_s_content() -> None:
    assert VALUES["config"]["core"]["load_examples"] == "False"
    for name in ("fernetKey", "apiSecretKey", "jwtSecret", "webserverSecretKey"):
        assert name not in VALUES
        assert not list(values_of(VALUES["data"], "metadataConnection"))


def test_a_spark_task_is_submitted_to_the_cluster_as_its_driver(airflow_process: AirflowProcess) -> None:
    (connection,) = values_of(rendered("manifests/overlays/dev"), "AIRFLOW_CONN_SPARK_DEFAULT")
    done = airflow_process.run(ASK, environment=os.environ | {"AIRFLOW_CONN_SPARK_DEFAULT": connection})
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[words.index("--master") + 1] == "k8s://https://kubernetes.default.svc"
    assert words[words.index("--deploy-mode") + 1] == "client"
    assert "spark.kubernetes.namespace=longreel-dev" in words
