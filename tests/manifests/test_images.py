"""Images are built from a pinned base and the lock, run as the user that the manifests name, and start Spark as Spark
on Kubernetes expects."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.manifests.rendering import targets

FOLDER = Path(__file__).resolve().parents[2] / "manifests/images"
TEXT = (FOLDER / "Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_the_base_is_pinned_to_a_patch_version() -> None:
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-bookworm$", TEXT, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+) AS", TEXT, re.MULTILINE)
    assert set(bases) == {"${BASE}", "base", "code"}


def test_a_build_sees_every_package() -> None:
    links = (path for path in (FOLDER.parents[1] / "longreel").iterdir() if path.is_symlink())
    packages = {"longreel", *(path.name for path in links)}
    patterns = set((FOLDER / "Dockerfile.dockerignore").read_text().splitlines())
    assert {f"!{name}" for name in packages} <= patterns
    assert "*" in patterns


def test_a_build_sees_the_files_that_the_project_names() -> None:
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]
    patterns = set((FOLDER / "Dockerfile.dockerignore").read_text().splitlines())
    assert {f"!{name}" for name in ("pyproject.toml", project["readme"], *project["license-files"])} <= patterns


@pytest.mark.parametrize("target", sorted(targets()))
def test_an_image_runs_without_rights_and_installs_by_the_lock(target: str) -> None:
    users = re.findall(r"^USER (.*)$", STAGES[target], re.MULTILINE)
    assert users == ["10001:10001"]
    groups = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = re.findall(r"install\.py ([a-z ]+?)(?: \\| &&|\n)", STAGES[target])
    assert set(installed.split()) <= set(groups)
    for options in re.findall(r"pip install ([^\n]*)", STAGES[target]):
        assert "--no-deps --no-build-isolation -e /opt/longreel" in options  # this project alone: all else is locked
    assert "ADD " not in STAGES[target]


def spark(tmp_path: Path, *words: str, **environment: str) -> list[str]:
    """What the entry point would start: java and spark-submit are replaced by a program that prints its arguments."""
    for name in ("bin/java", "bin/spark-submit"):
        program = tmp_path / name
        program.parent.mkdir(exist_ok=True)
        program.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
        program.chmod(0o755)
    done = subprocess.run(
        ["bash", str(FOLDER / "spark-entrypoint.sh"), *words],
        env={"PATH": "/usr/bin:/bin", "JAVA_HOME": str(tmp_path), "SPARK_HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_an_executor_gets_its_options_in_order_and_its_place(tmp_path: Path) -> None:
    given = {f"SPARK_JAVA_OPT_{n}": f"-Dn={n} spaced" for n in range(12)}
    given |= {"SPARK_EXECUTOR_MEMORY": "4g", "SPARK_DRIVER_URL": "spark://d:7078", "SPARK_EXECUTOR_ID": "3"}
    given |= {"SPARK_EXECUTOR_CORES": "4", "SPARK_APPLICATION_ID": "app", "SPARK_EXECUTOR_POD_IP": "10.0.0.7"}
    given |= {"SPARK_RESOURCE_PROFILE_ID": "0", "SPARK_EXECUTOR_POD_NAME": "pod"}
    words = spark(tmp_path, "executor", **given)
    assert words[:12] == [f"-Dn={n} spaced" for n in range(12)]
    assert {"-Xms4g", "-Xmx4g", "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"} <= set(words)
    assert words[words.index("--driver-url") + 1] == "spark://d:7078"
    assert words[words.index("--hostname") + 1] == "10.0.0.7"


def test_a_driver_is_submitted_in_its_own_pod(tmp_path: Path) -> None:
    words = spark(tmp_path, "driver", "--class", "x", "local:///a.py", SPARK_DRIVER_BIND_ADDRESS="10.0.0.8")
    assert words[:2] == ["--deploy-mode", "client"]
    assert "spark.driver.bindAddress=10.0.0.8" in words
    assert words[-3:] == ["--class", "x", "local:///a.py"]
