"""Every kustomization renders, and what comes out is valid to the last field, pinned, bounded and without rights it
does not need."""

import argparse
import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from longreel.cli import COMMANDS, command_parser, split_command
from tests.manifests.rendering import (
    CUSTOM,
    DAYS,
    FOLDERS,
    KUBERNETES,
    LOCKED_UP,
    NOT_ROOT,
    ROOT,
    SECRETS,
    STANDING,
    VERSION,
    assert_bounded,
    containers,
    cores,
    gib,
    kustomized,
    of_kind,
    pods,
    rendered,
    spark_defaults,
    targets,
    values_of,
)

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_built_in_object_is_strictly_valid(folder: str) -> None:
    kinds = {item["kind"] for item in rendered(folder)}
    if folder in STANDING:
        assert {"Namespace", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Role", "TrainingRuntime"} <= kinds
    else:
        assert kinds == {"SparkApplication", "TrainJob", "Job"}
    for item in rendered(folder):
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
        if "executor.yaml" in item.get("data", {}):
            kubernetes_validate.validate(yaml.safe_load(item["data"]["executor.yaml"]), KUBERNETES, strict=True)


def test_an_unknown_field_is_noticed() -> None:
    bad = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "lables": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_is_in_one_namespace(folder: str) -> None:
    namespace = "longreel-dev" if "/dev" in folder else "longreel"
    namespaces = {item["metadata"].get("namespace", namespace) for item in rendered(folder)}
    namespaces |= {item["metadata"]["name"] for item in of_kind(folder, "Namespace")}
    assert namespaces == {namespace}
    for environment in values_of(rendered(folder), "AIRFLOW_CONN_SPARK_DEFAULT"):
        assert json.loads(environment)["extra"]["namespace"] == namespace


@pytest.mark.parametrize("folder", FOLDERS)
def test_secrets_are_only_named(folder: str) -> None:
    assert not of_kind(folder, "Secret")
    named = [*values_of(rendered(folder), "secretKeyRef"), *values_of(rendered(folder), "secretRef")]
    assert {ref["name"] for ref in named} <= SECRETS
    for item in of_kind(folder, "ConfigMap"):
        assert not re.search(r"(?i)password|secret_?key|access_key|://[^/\s]*:[^/\s]*@", json.dumps(item["data"]))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_container_is_bounded_and_locked_up(folder: str) -> None:
    for name, container in containers(folder):
        assert container["securityContext"] == LOCKED_UP, name
        if name.startswith("ConfigMap"):  # Spark gives executors their cores and memory
            continue
        assert_bounded(container["resources"], name)
    for job in of_kind(folder, "TrainJob"):
        assert_bounded(job["spec"]["trainer"]["resourcesPerNode"], "TrainJob")
    for name, pod in pods(folder):
        assert NOT_ROOT.items() <= pod["securityContext"].items(), name
        assert pod["automountServiceAccountToken"] is False, name
        for volume in pod["volumes"]:
            assert "hostPath" not in volume, name
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], name


@pytest.mark.parametrize("folder", DAYS)
def test_spark_pods_are_bounded_and_locked_up(folder: str) -> None:
    applications = of_kind(folder, "SparkApplication")
    assert len(applications) == 2
    for application in applications:
        for role in ("driver", "executor"):
            pod = application["spec"][role]
            assert NOT_ROOT.items() <= pod["podSecurityContext"].items()
            assert pod["securityContext"] == LOCKED_UP
            assert cores(pod["coreRequest"]) <= cores(pod["coreLimit"])
            assert pod["memory"]
            assert pod["memoryOverhead"]  # request and limit are their sum
            mounted = {mount["name"] for mount in pod["volumeMounts"]}
            assert mounted == {volume["name"] for volume in application["spec"]["volumes"]}


@pytest.mark.parametrize("folder", STANDING)
def test_executors_of_airflow_s_jobs_are_bounded_too(folder: str) -> None:
    settings = spark_defaults(folder)
    for name in ("executor.request.cores", "executor.limit.cores"):
        assert settings[f"spark.kubernetes.{name}"] == settings["spark.executor.cores"]
    assert settings["spark.executor.memory"]
    assert settings["spark.executor.memoryOverhead"]
    ports = {settings[f"spark.{name}"] for name in ("driver.port", "driver.blockManager.port", "blockManager.port")}
    opened = {
        str(port["port"])
        for policy in of_kind(folder, "NetworkPolicy")
        if policy["metadata"]["name"] == "spark"
        for rule in policy["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert ports == opened


@pytest.mark.parametrize("folder", FOLDERS)
def test_images_are_this_version_s_and_pinned(folder: str) -> None:
    images = set(values_of(rendered(folder), "image"))
    if folder in STANDING:
        images.add(spark_defaults(folder)["spark.kubernetes.container.image"])
    assert images
    for image in images:
        assert image.split(":")[1] == f"{VERSION[1]}-python3.11", image
    runtimes = {image.split(":")[0].removeprefix("longreel/") for image in images}
    assert runtimes <= targets()


@pytest.mark.parametrize(("folder", "day"), list(zip(STANDING, DAYS, strict=True)))
def test_airflow_creates_the_train_job_that_the_day_s_folder_renders(folder: str, day: str) -> None:
    """`make train-job-yaml` writes the file that the ConfigMap is made of."""
    (settings,) = [item for item in of_kind(folder, "ConfigMap") if item["metadata"]["name"] == "longreel-train-job"]
    (job,) = of_kind(day, "TrainJob")
    assert yaml.safe_load(settings["data"]["train-job.yaml"]) == job
    text = (ROOT / folder / "train-job.yaml").read_text()
    assert settings["data"] == {"train-job.yaml": text}


def test_training_uses_the_pipeline_s_image() -> None:
    (runtime,) = of_kind("manifests/base", "TrainingRuntime")
    compiled = (ROOT / "components/pipeline.yaml").read_text()
    assert set(re.findall(r"image: (\S+)", compiled)) == set(values_of(runtime, "image"))


@pytest.mark.parametrize("folder", ["manifests/base", "manifests/day"])
def test_an_overlay_can_name_a_registry_and_a_digest_for_every_image(folder: str, tmp_path: Path) -> None:
    names = {image.split(":")[0] for image in values_of(rendered(folder), "image")}
    overlay = {
        "resources": [os.path.relpath(ROOT / folder, tmp_path)],
        "images": [{"name": name, "newName": f"registry.example/{name}", "digest": DIGEST} for name in sorted(names)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    moved = list(values_of(kustomized(tmp_path), "image"))
    assert len(moved) == len(list(values_of(rendered(folder), "image")))
    assert all(image.startswith("registry.example/longreel/") and image.endswith(f"@{DIGEST}") for image in moved)


def commands(folder: str) -> Iterator[list[str]]:
    """The words of every longreel command line."""
    for application in of_kind(folder, "SparkApplication"):
        assert application["spec"]["mainApplicationFile"] == "local:///opt/longreel/longreel/__main__.py"
        yield application["spec"]["arguments"]
    for job in of_kind(folder, "TrainJob"):
        launcher, module, program, *rest = job["spec"]["trainer"]["command"]
        assert (launcher, module, program) == ("torchrun", "-m", "longreel")
        yield rest
    for job in of_kind(folder, "Job"):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        program, *rest = container["command"]
        assert program == "longreel"
        yield rest


@pytest.mark.parametrize("folder", DAYS)
def test_every_command_is_one_that_the_program_takes(folder: str) -> None:
    command_lines = list(commands(folder))
    read = [split_command(words) for words in command_lines]
    assert sorted(command for command, _ in read) == [
        "data build-samples",
        "data ingest",
        "model train",
        "ops retrain",
    ]
    for command, options in read:
        assert parser_of(command).parse_args(options).date == "1970-01-01"


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = command_parser(command)
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return parser


def test_commands_in_the_docs_are_ones_that_the_program_takes() -> None:
    text = (ROOT / "docs/cluster.md").read_text()
    command_lines = re.findall(r"-- longreel ((?:[a-z-]+ )?[a-z-]+)((?: --?\S+(?: [^\s-]\S*)?)*)", text)
    assert command_lines
    for words, options in command_lines:
        command, rest = split_command(words.split())
        parser_of(command).parse_args([*rest, *options.split()])


@pytest.mark.parametrize("folder", STANDING)
def test_named_volumes_service_accounts_and_settings_exist(folder: str) -> None:
    day = {"manifests/base": "manifests/day"}.get(folder, f"{folder}/day")
    both, names = rendered(folder) + rendered(day), {}
    for item in both:
        names.setdefault(item["kind"], set()).add(item["metadata"]["name"])
    values = yaml.safe_load((ROOT / "manifests/airflow/values.yaml").read_text())
    templates = [pod for _, pod in pods(folder)]
    everything = [*both, *templates, values, yaml.safe_load(values["extraEnvFrom"])]
    claimed = set(values_of(everything, "claimName")) | set(values_of(everything, "existingClaim"))
    assert claimed == names["PersistentVolumeClaim"]
    settings = [*values_of(everything, "configMap"), *values_of(everything, "configMapRef")]
    in_every_namespace = {"kube-root-ca.crt"}
    assert {ref["name"] for ref in settings} <= names["ConfigMap"] | in_every_namespace
    accounts = set(values_of(both, "serviceAccount")) | set(values_of(both, "serviceAccountName"))
    accounts |= {ref["name"] for ref in values_of(values, "serviceAccount")}
    assert accounts == names["ServiceAccount"]
    (job,) = of_kind(day, "TrainJob")
    assert job["spec"]["runtimeRef"]["name"] in names["TrainingRuntime"]


def test_the_environment_names_only_variables_that_are_read() -> None:
    (environment,) = [
        item["data"]
        for item in of_kind("manifests/base", "ConfigMap")
        if item["metadata"]["name"] == "longreel-environment"
    ]
    code = "".join(
        (ROOT / name).read_text() for name in ("lake/home.py", "dags/settings.py", "components/registry/ledger.py")
    )
    for name in [
        *environment,
        *(env["name"] for _, container in containers("manifests/day") for env in container.get("env", [])),
    ]:
        if name.startswith("LONGREEL_"):
            assert re.search(rf"\b{name}\b", code), name


def test_a_prod_day_fits_into_the_quota() -> None:
    (quota,) = of_kind("manifests/overlays/prod", "ResourceQuota")
    cpu = gpus = 0.0
    for application in of_kind("manifests/overlays/prod/day", "SparkApplication")[:1]:
        spec = application["spec"]
        cpu += cores(spec["driver"]["coreRequest"]) + spec["executor"]["instances"] * cores(
            spec["executor"]["coreRequest"]
        )
    for job in of_kind("manifests/overlays/prod/day", "TrainJob"):
        trainer = job["spec"]["trainer"]
        cpu += trainer["numNodes"] * cores(trainer["resourcesPerNode"]["requests"]["cpu"])
        gpus += trainer["numNodes"] * int(trainer["resourcesPerNode"]["requests"]["nvidia.com/gpu"])
        assert trainer["numProcPerNode"] == int(trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"])
    for _, container in containers("manifests/overlays/prod/day"):
        gpus += int(container["resources"]["requests"]["nvidia.com/gpu"])
    assert cpu < cores(quota["spec"]["hard"]["requests.cpu"])
    assert gpus == int(quota["spec"]["hard"]["requests.nvidia.com/gpu"])


def test_training_has_shared_memory_within_its_limit() -> None:
    for folder, day in zip(STANDING, DAYS, strict=True):
        (pod,) = [pod for name, pod in pods(folder) if name.startswith("TrainingRuntime")]
        (shm,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
        (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "shm"]
        assert (shm["medium"], mount["mountPath"]) == ("Memory", "/dev/shm")
        (job,) = of_kind(day, "TrainJob")
        limit = job["spec"]["trainer"]["resourcesPerNode"]["limits"]["memory"]
        assert 2 * gib(shm["sizeLimit"]) <= gib(limit)


@pytest.mark.parametrize("name", ["generic", "gates"])
def test_the_cluster_starts_from_the_shipped_presets(name: str) -> None:
    preset = (ROOT / f"contracts/presets/{name}.toml").read_text().replace('log = ""', 'log = "/data/raw"')
    here = "longreel" if name == "generic" else name
    assert (ROOT / f"manifests/base/{here}.toml").read_text() == preset
