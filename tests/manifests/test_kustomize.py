"""Every kustomization renders, and every object in it is valid to the last field."""

import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("manifests/base", "manifests/overlays/dev")
KUBERNETES = "1.31"


def rendered(folder: str) -> list[dict]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it renders the kustomizations")
    text = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / folder)], capture_output=True, text=True, check=True
    ).stdout
    return [item for item in yaml.safe_load_all(text) if item]


@pytest.mark.parametrize("folder", FOLDERS)
def test_renders_and_is_valid(folder: str) -> None:
    objects = rendered(folder)
    assert {"Namespace", "Deployment", "Service", "ConfigMap", "NetworkPolicy"} <= {item["kind"] for item in objects}
    for item in objects:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_secret_and_no_root(folder: str) -> None:
    for item in rendered(folder):
        assert item["kind"] != "Secret"
        if item["kind"] == "Deployment":
            pod = item["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"]
            for container in pod["containers"]:
                assert container["resources"]["limits"]
                assert container["resources"]["requests"]


def test_an_unknown_field_is_noticed() -> None:
    bad = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "lables": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, KUBERNETES, strict=True)


def test_the_cluster_starts_from_the_generic_preset() -> None:
    preset = (ROOT / "contracts/presets/generic.toml").read_text()
    assert (ROOT / "manifests/base/longreel.toml").read_text() == preset
