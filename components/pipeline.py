"""One experiment as a Kubeflow pipeline: train -> evaluate candidate and champion -> decide -> promote.

Two editions of one definition, both compiled and committed (`make pipeline-yaml`):
- pipeline.yaml, lightweight components, which `kfp.local` runs on one machine (retrain.py);
- pipeline-cluster.yaml, container components with resources, volumes and retries, for a KFP server (kfp_server.py).
A component is one command of the command line (call.py). `inputs_digest` names data, settings and code, so that KFP's
cache follows content.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl

from longreel.components.call import CLUSTER_YAML, HOME_PATH, IMAGE

YAML = Path(__file__).with_name("pipeline.yaml")
Component = Callable[..., Any]  # gives a PipelineTask

# Names in manifests/base of what a step's pod mounts and reads.
HOME_CLAIM = "home"
LAKE_CLAIM, LAKE_PATH = "lake", "/data"
SETTINGS, SETTINGS_PATH = "longreel-config", "/etc/longreel"
ENVIRONMENT, VARIABLES = "longreel-environment", ("LONGREEL_LAKE", "MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY")
# The users of MLflow: a step that decides may move the champion, one that trains may not delete anything.
MLFLOW_SECRETS = {"decide": "mlflow-promotion", "promote": "mlflow-promotion"}
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
USER = 10001


def train(home: str, date: str, trigger: str, inputs_digest: str, version: dsl.OutputPath(int)):
    """Train the candidate for a day on the days before it, register it and return its version."""
    from longreel.components.call import call

    return call("model train", "--home", home, "--date", date, "--trigger", trigger, "--version-out", version)


def evaluate(home: str, date: str, version: int, inputs_digest: str, report: dsl.Output[dsl.Artifact]):
    """Evaluate a registered version on a day; version 0 means "no champion yet" and gives an empty report."""
    from longreel.components.call import call

    return call("model evaluate", "--home", home, "--date", date, "--version", version, "--out", report.path)


def decide(
    home: str,
    version: int,
    inputs_digest: str,
    candidate: dsl.Input[dsl.Artifact],
    champion: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    outcome: dsl.OutputPath(str),
):
    """Decide by the gates, record evidence and decision, and return promote, hold or reject."""
    from longreel.components.call import call

    reports = ("--candidate", candidate.path, "--champion", champion.path)
    record = ("--record", version, "--inputs-digest", inputs_digest)
    return call("model decide", "--home", home, *reports, *record, "--out", decision.path, "--outcome-out", outcome)


def promote(home: str, version: int, decision: dsl.Input[dsl.Artifact], waits_for_approval: bool):
    """Make the version the champion, if the decision says so and no approval is pending."""
    from longreel.components.call import call

    candidate = ("--version", version, "--decision", decision.path)
    return call("model promote", "--home", home, *candidate, "--if-better", "--waits-for-approval", waits_for_approval)


class Retrained(NamedTuple):
    """The pipeline's outputs."""

    version: int
    outcome: str


def _pipeline(component: Callable[[Callable[..., Any]], Component], place: Callable[..., None]) -> Component:
    """The pipeline of the four functions above; `component` makes each a component, `place` sets its resources."""
    train_, evaluate_, decide_, promote_ = (component(step) for step in (train, evaluate, decide, promote))

    def retrain_pipeline(
        home: str, date: str, trigger: str, inputs_digest: str, champion: int, waits_for_approval: bool = False
    ) -> Retrained:
        """One candidate for one day. `champion` is the present champion's version, 0 where there is none."""
        trained = train_(home=home, date=date, trigger=trigger, inputs_digest=inputs_digest)
        place(trained, "train", cpu=8, memory_gib=64, gpus=1)
        version = trained.outputs["version"]
        candidate_report = evaluate_(home=home, date=date, version=version, inputs_digest=inputs_digest)
        place(candidate_report, "evaluate candidate", cpu=8, memory_gib=64, gpus=1)
        champion_report = evaluate_(home=home, date=date, version=champion, inputs_digest=inputs_digest)
        place(champion_report, "evaluate champion", cpu=8, memory_gib=64, gpus=1)
        decided = decide_(
            home=home,
            version=version,
            inputs_digest=inputs_digest,
            candidate=candidate_report.outputs["report"],
            champion=champion_report.outputs["report"],
        )
        place(decided, "decide", cpu=2, memory_gib=4)
        decided.set_caching_options(False)  # it writes to MLflow, as does promote
        # unconditional, reads the decision: kfp.local takes a condition on an output not named Output for false
        promoted = promote_(
            home=home, version=version, decision=decided.outputs["decision"], waits_for_approval=waits_for_approval
        )
        place(promoted, "promote", cpu=1, memory_gib=2)
        promoted.set_caching_options(False)
        return Retrained(version, decided.outputs["outcome"])

    description = "Train, evaluate on a new day, decide, and promote what is better."
    pipeline: Component = dsl.pipeline(name="longreel-retrain", description=description)(retrain_pipeline)
    return pipeline


def _on_this_machine(task: Any, name: str, **_: int) -> None:
    """A step's settings on one machine: a name for the log."""
    task.set_display_name(name)


def _in_a_pod(task: Any, name: str, *, cpu: int, memory_gib: int, gpus: int = 0) -> None:
    """A step's settings in a cluster: resources, the volumes and settings of manifests/base, and retries.

    KFP cannot express all that manifests/base requires of a pod. The namespace forbids privilege escalation
    (`pod-security.kubernetes.io/enforce: restricted`); nothing here enforces a read-only root file system.
    """
    from kfp import kubernetes

    task.set_display_name(name)
    task.set_cpu_request(str(cpu)).set_cpu_limit(str(cpu))
    task.set_memory_request(f"{memory_gib}Gi").set_memory_limit(f"{memory_gib}Gi")
    if gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=f"{memory_gib // 4}Gi")
    task.set_retry(num_retries=2, backoff_duration="60s", backoff_factor=2.0)  # training continues from its checkpoint
    task.set_env_variable("HOME", "/tmp").set_env_variable("LONGREEL_CONFIG", SETTINGS_PATH)
    task.set_env_variable("LONGREEL_ACTOR", "kubeflow pipeline")  # the actor in the ledger
    kubernetes.use_config_map_as_env(task, ENVIRONMENT, {name: name for name in VARIABLES})
    kubernetes.use_secret_as_env(task, MLFLOW_SECRETS.get(name, "mlflow-training"), {key: key for key in CREDENTIALS})
    kubernetes.use_config_map_as_volume(task, SETTINGS, SETTINGS_PATH)
    kubernetes.mount_pvc(task, HOME_CLAIM, HOME_PATH)
    kubernetes.mount_pvc(task, LAKE_CLAIM, LAKE_PATH)
    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit="20Gi")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "longreel-evaluate")  # the network policies select by it


def _lightweight(step: Callable[..., Any]) -> Component:
    component: Component = dsl.component(step, base_image=IMAGE, install_kfp_package=False)
    return component


retrain_pipeline = _pipeline(_lightweight, _on_this_machine)


def compile_to(path: Path) -> None:
    """Write the one-machine edition."""
    compiler.Compiler().compile(retrain_pipeline, str(path))


def compile_cluster_to(path: Path) -> None:
    """Write the cluster edition; needs the package kfp-kubernetes, which running it does not."""
    compiler.Compiler().compile(_pipeline(dsl.container_component, _in_a_pod), str(path))


if __name__ == "__main__":
    compile_to(YAML)
    compile_cluster_to(CLUSTER_YAML)
    print(f"wrote {YAML} and {CLUSTER_YAML}")
