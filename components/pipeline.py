"""One experiment as a Kubeflow pipeline: train -> evaluate candidate and champion -> decide -> promote.

Two editions of one definition, both compiled and committed (`python -m longreel.components.pipeline`):
- pipeline.yaml, lightweight components, which `kfp.local` runs on one machine (retrain.py);
- pipeline-cluster.yaml, container components with resources, volumes and retries, which a KFP server runs (server.py).
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

# What manifests/base calls the things that a step's pod mounts and reads.
HOME_CLAIM = "home"
LAKE_CLAIM, LAKE_PATH = "lake", "/data"
SETTINGS, SETTINGS_PATH = "longreel-config", "/etc/longreel"
ENVIRONMENT, VARIABLES = "longreel-environment", ("LONGREEL_LAKE", "MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY")
USER = 10001


def train(home: str, date: str, trigger: str, inputs_digest: str, version: dsl.OutputPath(int)):  # type: ignore
    """Train the candidate for a day on the days before it; register it; gives its version."""
    from longreel.components.call import call

    return call("model train", "--home", home, "--date", date, "--trigger", trigger, "--version-out", version)


def evaluate(home: str, date: str, version: int, inputs_digest: str, report: dsl.Output[dsl.Artifact]):  # type: ignore
    """Judge a registered version on a day; version 0 stands for "no champion yet" and gives an empty report."""
    from longreel.components.call import call

    return call("model evaluate", "--home", home, "--date", date, "--version", version, "--out", report.path)


def decide(  # type: ignore[no-untyped-def]
    home: str,
    version: int,
    inputs_digest: str,
    candidate: dsl.Input[dsl.Artifact],
    champion: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    outcome: dsl.OutputPath(str),  # type: ignore
):
    """Judge the reports by the gates, and record evidence and decision; gives promote, hold or reject."""
    from longreel.components.call import call

    reports = ("--candidate", candidate.path, "--champion", champion.path)
    record = ("--record", version, "--inputs-digest", inputs_digest)
    return call("model decide", "--home", home, *reports, *record, "--out", decision.path, "--outcome-out", outcome)


def promote(home: str, version: int, decision: dsl.Input[dsl.Artifact], waits_for_approval: bool):  # type: ignore
    """Make the version the champion, if the decision says so and no person is to approve it first."""
    from longreel.components.call import call

    candidate = ("--version", version, "--decision", decision.path)
    return call("model promote", "--home", home, *candidate, "--if-better", "--waits-for-approval", waits_for_approval)


class Retrained(NamedTuple):
    """The pipeline's outputs."""

    version: int
    outcome: str


def _pipeline(component: Callable[[Callable[..., Any]], Component], place: Callable[..., None]) -> Component:
    """The pipeline of the four functions above, each made a component by `component`; `place` says what it needs."""
    train_, evaluate_, decide_, promote_ = (component(step) for step in (train, evaluate, decide, promote))

    @dsl.pipeline(
        name="longreel-retrain", description="Train, judge on a fresh day, decide, and promote what is better."
    )
    def retrain_pipeline(
        home: str, date: str, trigger: str, inputs_digest: str, champion: int, waits_for_approval: bool = False
    ) -> Retrained:
        """One candidate for one day. `champion` is the present champion's version, 0 where there is none."""
        trained = train_(home=home, date=date, trigger=trigger, inputs_digest=inputs_digest)
        place(trained, "train", cpu=8, memory_gib=64, gpus=1)
        version = trained.outputs["version"]
        judged = evaluate_(home=home, date=date, version=version, inputs_digest=inputs_digest)
        place(judged, "evaluate candidate", cpu=8, memory_gib=64, gpus=1)
        rival = evaluate_(home=home, date=date, version=champion, inputs_digest=inputs_digest)
        place(rival, "evaluate champion", cpu=8, memory_gib=64, gpus=1)
        made = decide_(
            home=home,
            version=version,
            inputs_digest=inputs_digest,
            candidate=judged.outputs["report"],
            champion=rival.outputs["report"],
        )
        place(made, "decide", cpu=2, memory_gib=4)
        made.set_caching_options(False)  # it writes to MLflow, as does promote
        # always there, and heeds the decision: kfp.local takes a condition on an output not named Output for false
        moved = promote_(
            home=home, version=version, decision=made.outputs["decision"], waits_for_approval=waits_for_approval
        )
        place(moved, "promote", cpu=1, memory_gib=2)
        moved.set_caching_options(False)
        return Retrained(version, made.outputs["outcome"])

    return retrain_pipeline  # type: ignore[no-any-return]


def _here(task: Any, name: str, **_: int) -> None:
    """What a step needs on one machine: a name for the log."""
    task.set_display_name(name)


def _in_a_pod(task: Any, name: str, *, cpu: int, memory_gib: int, gpus: int = 0) -> None:
    """What a step needs in a cluster: resources, the volumes and settings of manifests/base, and a second try.

    KFP cannot say everything that manifests/base asks of a pod. Privilege escalation is the namespace's to enforce
    (`pod-security.kubernetes.io/enforce: restricted`); a read-only root file system nothing here enforces.
    """
    from kfp import kubernetes

    task.set_display_name(name)
    task.set_cpu_request(str(cpu)).set_cpu_limit(str(cpu))
    task.set_memory_request(f"{memory_gib}Gi").set_memory_limit(f"{memory_gib}Gi")
    if gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=f"{memory_gib // 4}Gi")
    task.set_retry(num_retries=2, backoff_duration="60s", backoff_factor=2.0)  # training goes on from its checkpoint
    task.set_env_variable("HOME", "/tmp").set_env_variable("LONGREEL_CONFIG", SETTINGS_PATH)
    task.set_env_variable("LONGREEL_ACTOR", "kubeflow pipeline")  # who, in the ledger
    kubernetes.use_config_map_as_env(task, ENVIRONMENT, {name: name for name in VARIABLES})
    kubernetes.use_config_map_as_volume(task, SETTINGS, SETTINGS_PATH)
    kubernetes.mount_pvc(task, HOME_CLAIM, HOME_PATH)
    kubernetes.mount_pvc(task, LAKE_CLAIM, LAKE_PATH)
    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit="20Gi")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "longreel-evaluate")  # the network's rules go by it


def _lightweight(step: Callable[..., Any]) -> Component:
    return dsl.component(step, base_image=IMAGE, install_kfp_package=False)


retrain_pipeline = _pipeline(_lightweight, _here)


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
