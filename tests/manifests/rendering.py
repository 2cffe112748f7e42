"""Rendered manifests, shared by the tests of this folder."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STANDING = ("manifests/base", "manifests/overlays/dev", "manifests/overlays/prod")
DAYS = ("manifests/day", "manifests/overlays/dev/day", "manifests/overlays/prod/day")
FOLDERS = STANDING + DAYS
KUBERNETES = "1.31"
VERSION = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
CUSTOM = {"SparkApplication", "TrainJob", "TrainingRuntime"}
# What docs/cluster.md says to make, and the Secrets of Airflow's values.
SECRETS = {"mlflow-database", "mlflow-object-store", "mlflow-auth", "mlflow-training", "mlflow-promotion"}
AIRFLOW_SECRETS = {"airflow-database", "airflow-fernet-key", "airflow-api-secret", "airflow-jwt", "mlflow-promotion"}
NOT_ROOT = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
LOCKED_UP = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@cache
def rendered(folder: str) -> tuple[dict[str, Any], ...]:
    """A folder of the repository, once a session."""
    return kustomized(ROOT / folder)


def kustomized(folder: Path) -> tuple[dict[str, Any], ...]:
    """What `kubectl kustomize` makes of a folder."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it renders the kustomizations")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(item for item in yaml.safe_load_all(done.stdout) if item)


def of_kind(folder: str, kind: str) -> list[dict[str, Any]]:
    return [item for item in rendered(folder) if item["kind"] == kind]


def pods(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod specification with its owner's name, Spark's executor template included."""
    for item in rendered(folder):
        spec, name = item.get("spec", {}), f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] in ("Deployment", "Job"):
            yield name, spec["template"]["spec"]
        elif item["kind"] == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                yield name, job["template"]["spec"]["template"]["spec"]
        elif item["kind"] == "ConfigMap" and "executor.yaml" in item["data"]:
            yield name, yaml.safe_load(item["data"]["executor.yaml"])["spec"]


def containers(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(folder):
        for container in pod["containers"] + pod.get("initContainers", []):
            yield f"{name}/{container['name']}", container


def values_of(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from values_of(value, key)


def spark_defaults(folder: str) -> dict[str, str]:
    (text,) = [
        item["data"]["spark-defaults.conf"]
        for item in rendered(folder)
        if "spark-defaults.conf" in item.get("data", {})
    ]
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value.strip() for name, value in lines}


def assert_bounded(resources: dict[str, Any], name: str) -> None:
    requests, limits = resources["requests"], resources["limits"]
    assert cores(requests["cpu"]) <= cores(limits["cpu"]), name
    assert gib(requests["memory"]) <= gib(limits["memory"]), name
    assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu"), name


def cores(quantity: str) -> float:
    return float(quantity.removesuffix("m")) / (1_000 if quantity.endswith("m") else 1)


def gib(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|Ti)", quantity).groups()
    return int(number) * {"Mi": 2**-10, "Gi": 1, "Ti": 2**10}[unit]


def targets() -> set[str]:
    """The images that the Dockerfile can build."""
    text = (ROOT / "manifests/images/Dockerfile").read_text()
    return set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)) - {"base", "code"}
