"""Least rights of each component: an account at the Kubernetes API, Secrets by name, connections, MLflow's users."""

import copy
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.rendering import AIRFLOW_SECRETS, DAYS, ROOT, STANDING, of_kind, pods, rendered, values_of

VALUES: dict[str, Any] = yaml.safe_load((ROOT / "manifests/airflow/values.yaml").read_text())
# account -> (Roles, Secrets that its pods may mount)
ACCOUNTS: dict[str, tuple[set[str], set[str]]] = {
    "mlflow": (set(), {"mlflow-database", "mlflow-object-store", "mlflow-auth"}),
    "spark-driver": ({"spark"}, set()),
    "spark-executor": (set(), set()),
    "training": (set(), {"mlflow-training"}),
    "evaluate": (set(), {"mlflow-promotion"}),
    "airflow": (set(), AIRFLOW_SECRETS),
    "airflow-scheduler": ({"airflow-scheduler"}, AIRFLOW_SECRETS),
    "airflow-triggerer": ({"pipelines", "train-jobs"}, AIRFLOW_SECRETS),
    "airflow-task": ({"spark", "pipelines", "train-jobs", "train-jobs-create"}, AIRFLOW_SECRETS),
}
REACH = {
    "": {"pods", "pods/log", "configmaps", "services"},
    "pipelines.kubeflow.org": {"runs", "experiments"},
    "trainer.kubeflow.org": {"trainjobs"},
}
PLACES = {"postgresql", "object-store", "kubernetes-api", "webhook"}
EXAMPLES = ipaddress.ip_network("192.0.2.0/24")  # reserved for documentation: nothing is there


def day_of(folder: str) -> str:
    return {"manifests/base": "manifests/day"}.get(folder, f"{folder}/day")


@pytest.mark.parametrize("folder", STANDING)
def test_each_service_has_the_roles_of_its_component_alone(folder: str) -> None:
    assert not of_kind(folder, "ClusterRole")
    assert not of_kind(folder, "ClusterRoleBinding")
    accounts = {item["metadata"]["name"]: item for item in of_kind(folder, "ServiceAccount")}
    roles = {item["metadata"]["name"]: item["rules"] for item in of_kind(folder, "Role")}
    held: dict[str, set[str]] = {name: set() for name in accounts}
    for binding in of_kind(folder, "RoleBinding"):
        for subject in binding["subjects"]:
            assert subject["kind"] == "ServiceAccount"
            held[subject["name"]].add(binding["roleRef"]["name"])
    assert held == {name: rights for name, (rights, _) in ACCOUNTS.items()}
    assert set(roles) == set().union(*held.values())
    for name, item in accounts.items():
        has_token = bool(held[name]) and name != "airflow-triggerer"  # whose pod alone mounts one
        assert item.get("automountServiceAccountToken", True) is has_token, name


@pytest.mark.parametrize("folder", STANDING)
def test_no_role_reaches_secrets_volumes_or_everything(folder: str) -> None:
    for role in of_kind(folder, "Role"):
        for rule in role["rules"]:
            (group,) = rule["apiGroups"]
            assert set(rule["resources"]) <= REACH[group], role["metadata"]["name"]
            assert "*" not in rule["verbs"]
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def secrets_of(pod: Any) -> set[str]:
    """The Secrets that a pod mounts or has in its environment."""
    names = {ref["name"] for key in ("secretKeyRef", "secretRef") for ref in values_of(pod, key)}
    return names | {volume.get("secretName", volume.get("name")) for volume in values_of(pod, "secret")}


@pytest.mark.parametrize("folder", STANDING)
def test_each_pod_runs_as_its_component_with_its_secrets_alone(folder: str) -> None:
    runs: dict[str, set[str]] = {}
    for name, pod in [*pods(folder), *pods(day_of(folder))]:
        user = pod.get("serviceAccountName", "spark-executor")  # of the executors' template, which Spark completes
        assert name.startswith("ConfigMap") or "serviceAccountName" in pod, name
        runs.setdefault(user, set()).update(secrets_of(pod))
    for application in of_kind(day_of(folder), "SparkApplication"):
        for role in ("driver", "executor"):
            part = application["spec"][role]
            assert part["serviceAccount"] == f"spark-{role}"
            runs.setdefault(part["serviceAccount"], set()).update(secrets_of(part))
    assert runs == {name: ACCOUNTS[name][1] for name in runs}
    assert set(runs) == {name for name in ACCOUNTS if not name.startswith("airflow")}


def test_airflow_s_parts_run_as_their_accounts() -> None:
    parts = ("scheduler", "apiServer", "dagProcessor", "triggerer", "workers", "migrateDatabaseJob")
    named = {part: VALUES[part]["serviceAccount"]["name"] for part in parts}
    expected = {"scheduler": "airflow-scheduler", "triggerer": "airflow-triggerer", "workers": "airflow-task"}
    assert named == {part: expected.get(part, "airflow") for part in parts}
    assert secrets_of({**VALUES["apiServer"]}) == {"airflow-users"}  # the users' passwords: no other part has them
    assert all(not secrets_of(VALUES[part]) for part in parts if part != "apiServer")
    assert secrets_of(yaml.safe_load(VALUES["extraEnvFrom"])) == {"mlflow-promotion"}
    assert not VALUES["config"]["core"]["simple_auth_manager_passwords_file"].startswith("/longreel")


@pytest.mark.parametrize("folder", STANDING)
def test_every_connection_has_a_named_peer_or_an_address(folder: str) -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(folder, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule["from"], f"{name} is open to everybody"
        for rule in spec.get("egress", []):
            assert rule["to"], f"{name} may reach everything"
            for peer in rule["to"]:
                assert peer.get("podSelector") or peer.get("namespaceSelector") or peer.get("ipBlock"), name
                if "ipBlock" in peer:
                    assert ipaddress.ip_network(peer["ipBlock"]["cidr"]).prefixlen >= 24, name
                    assert rule["ports"], name


@pytest.mark.parametrize("folder", STANDING)
def test_what_lies_outside_is_closed_until_an_overlay_names_its_address(folder: str) -> None:
    outside = [item for item in of_kind(folder, "NetworkPolicy") if "longreel/outside" in item["metadata"]["labels"]]
    assert {item["metadata"]["labels"]["longreel/outside"] for item in outside} == PLACES
    for item in outside:
        for block in values_of(item, "cidr"):
            assert ipaddress.ip_network(block).subnet_of(EXAMPLES)
    if folder != "manifests/base":  # each place has its patch, in which a person writes the address
        patches = yaml.safe_load((ROOT / folder / "kustomization.yaml").read_text())["patches"]
        selectors = {patch["target"].get("labelSelector", "") for patch in patches}
        assert {f"longreel/outside={place}" for place in PLACES} <= selectors


@pytest.mark.parametrize("folder", STANDING)
def test_mlflow_asks_for_a_password_and_survives_a_drain(folder: str) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    (server,) = of_kind(folder, "Deployment")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    words = container["args"]
    assert words[words.index("--app-name") + 1] == "basic-auth"
    assert not any("://" in word for word in container["command"] + words)  # secrets are no arguments
    variables = {entry["name"]: entry for entry in container["env"]}
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "auth"]
    assert variables["MLFLOW_AUTH_CONFIG_PATH"]["value"] == f"{mount['mountPath']}/basic_auth.ini"
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        assert "secretKeyRef" in variables[name]["valueFrom"]
    (allowed,) = values_of(rendered(folder), "MLFLOW_SERVER_ALLOWED_HOSTS")
    (uri,) = values_of(rendered(folder), "MLFLOW_TRACKING_URI")
    assert is_allowed_host_header(allowed.split(","), uri.removeprefix("http://"))
    assert is_allowed_host_header(allowed.split(","), "localhost:5000")
    assert not is_allowed_host_header(allowed.split(","), "elsewhere.example:5000")


@pytest.mark.parametrize("folder", STANDING)
def test_what_answers_a_service_has_probes_and_a_disruption_budget(folder: str) -> None:
    servers = [item["spec"]["template"] for item in of_kind(folder, "Deployment")]
    budgets = [item["spec"] for item in of_kind(folder, "PodDisruptionBudget")]
    services = of_kind(folder, "Service")
    assert services
    for service in services:
        selector = service["spec"]["selector"]
        (template,) = [one for one in servers if selector.items() <= one["metadata"]["labels"].items()]
        (container,) = template["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        (budget,) = [one for one in budgets if one["selector"]["matchLabels"] == selector]
        assert budget["maxUnavailable"] == 1
    assert of_kind("manifests/overlays/prod", "Deployment")[0]["spec"]["replicas"] == 2
    for part in ("scheduler", "apiServer"):
        assert VALUES[part]["podDisruptionBudget"] == {"enabled": True, "config": {"maxUnavailable": 1}}


# --- admission policies, evaluated as the API server does


def refusals(policy: str, user: str, thing: dict[str, Any], namespace: str = "longreel") -> list[str] | None:
    """What a policy of manifests/base says to a creation by a user; None where it does not apply."""
    celpy = pytest.importorskip("celpy", reason="cel-python is not installed")
    from celpy.adapter import json_to_cel

    (spec,) = [
        item["spec"]
        for item in of_kind("manifests/base", "ValidatingAdmissionPolicy")
        if item["metadata"]["name"] == policy
    ]
    environment = celpy.Environment()
    request = {"userInfo": {"username": user}, "namespace": namespace}
    context = {"request": json_to_cel(request), "object": json_to_cel(thing)}
    variables = celpy.celtypes.MapType()

    def value(expression: str) -> Any:
        program = environment.program(environment.compile(expression))
        return program.evaluate(context | {"variables": variables})

    if not all(value(condition["expression"]) for condition in spec["matchConditions"]):
        return None
    for variable in spec.get("variables", ()):
        variables[celpy.celtypes.StringType(variable["name"])] = value(variable["expression"])
    return [rule["message"] for rule in spec["validations"] if not value(rule["expression"])]


def by(name: str, namespace: str = "longreel") -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def executor() -> dict[str, Any]:
    """The pod that a Spark driver creates from the template."""
    (pod,) = [pod for name, pod in pods("manifests/base") if name.startswith("ConfigMap")]
    return {"spec": copy.deepcopy(pod) | {"serviceAccountName": "spark-executor"}}


def mounting(**source: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["volumes"].append({"name": "x", **source})


def with_environment(**source: Any) -> Callable[[dict[str, Any]], None]:
    return lambda spec: spec["containers"][0].update(source)


DATABASE = {"name": "x", "valueFrom": {"secretKeyRef": {"name": "mlflow-database", "key": "uri"}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(serviceAccountName="mlflow"), "the account"),
        (lambda spec: spec.pop("serviceAccountName"), "the account"),
        (mounting(secret={"secretName": "mlflow-database"}), "no volume of a Secret"),
        (mounting(csi={"driver": "x"}), "no volume of a Secret"),
        (mounting(projected={"sources": [{"secret": {"name": "mlflow-database"}}]}), "no projected Secret"),
        (with_environment(env=[{"name": "a", "value": "b"}, DATABASE]), "no Secret in env"),
        (with_environment(envFrom=[{"secretRef": {"name": "airflow-jwt"}}]), "no Secret in envFrom"),
        (lambda spec: spec.update(initContainers=[{"name": "i", "env": [DATABASE]}]), "no Secret in env"),
    ],
)
def test_a_driver_s_pods_are_executors_without_secrets(change: Callable[[Any], Any], message: str) -> None:
    for user in ("spark-driver", "airflow-task"):
        assert refusals("longreel-pods", by(user), executor()) == []
        pod = executor()
        change(pod["spec"])
        (refusal,) = refusals("longreel-pods", by(user), pod) or [""]
        assert message in refusal
    assert refusals("longreel-pods", by("airflow-task", "elsewhere"), executor()) is None
    assert refusals("longreel-pods", "system:serviceaccount:spark-operator:controller", executor()) is None


def test_the_scheduler_s_pods_have_airflow_s_secrets_alone() -> None:
    pod = executor()
    pod["spec"]["serviceAccountName"] = "airflow-task"
    pod["spec"]["containers"][0]["envFrom"] += yaml.safe_load(VALUES["extraEnvFrom"])
    pod["spec"]["containers"][0]["env"] = yaml.safe_load(VALUES["extraEnv"])
    pod["spec"]["volumes"] += VALUES["workers"]["extraVolumes"]
    assert refusals("longreel-pods", by("airflow-scheduler"), pod) == []
    pod["spec"]["containers"][0]["env"].append(DATABASE)
    assert len(refusals("longreel-pods", by("airflow-scheduler"), pod) or []) == 1


@pytest.mark.parametrize("folder", DAYS)
def test_a_task_s_train_jobs_choose_sizes_and_nothing_else(folder: str) -> None:
    (job,) = of_kind(folder, "TrainJob")
    assert refusals("longreel-train-jobs", by("airflow-task"), job) == []
    for place, change in (
        ((), {"podTemplateOverrides": [{}]}),
        (("trainer",), {"env": [DATABASE]}),
        (("trainer",), {"image": "elsewhere"}),
        (("runtimeRef",), {"name": "torch-distributed"}),
        (("runtimeRef",), {"kind": "ClusterTrainingRuntime"}),
    ):
        changed = copy.deepcopy(job)
        inner = changed["spec"]
        for name in place:
            inner = inner[name]
        inner.update(change)
        assert len(refusals("longreel-train-jobs", by("airflow-task"), changed) or []) == 1


def test_the_docs_name_every_secret() -> None:
    text = Path(ROOT / "docs/cluster.md").read_text()
    for name in set().union(*(secrets for _, secrets in ACCOUNTS.values())) | {"airflow-users"}:
        assert name in text, name
