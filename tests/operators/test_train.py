"""Operator and trigger of TrainJobs against a local server with their Kubernetes API: one job a candidate, however
often it is asked for; the evaluation finds what the job trained.
"""

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from longreel.components.registry import store, tracking, versions
from longreel.components.retrain import retrain
from longreel.components.training.spec import Candidate, training_spec
from longreel.contracts.errors import DataNotReadyError, LongreelError, TransientError
from longreel.lake.home import Home
from longreel.operators.remote import RUN_KEY
from longreel.operators.train import TrainJobTrigger, TrainOperator
from tests.kfp_server import serving
from tests.kubernetes_server import KubernetesServer, kubeconfig
from tests.manifests.rendering import of_kind
from tests.operators.test_retrain import DAY, context, ended

MakeHome = Callable[..., Home]
ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "manifests/overlays/prod/train-job.yaml"


def operator(home: Home, **options: Any) -> TrainOperator:
    """As a worker has it: templates filled in."""
    values: dict[str, Any] = {"poll_interval": timedelta(seconds=0.02), "manifest": str(MANIFEST)} | options
    return TrainOperator(task_id="train", home=str(home.path), day=DAY, **values)


def deferred(task: TrainOperator, given: dict[str, Any]) -> TrainJobTrigger:
    """Run a try up to its deferral; gives the trigger as a triggerer gets it, from what is stored."""
    with pytest.raises(TaskDeferred) as stopped:
        task.execute(given)
    assert stopped.value.method_name == "collect"
    path, values = stopped.value.trigger.serialize()
    assert path == "longreel.operators.train.TrainJobTrigger"
    return TrainJobTrigger(**json.loads(json.dumps(values)))


def fired(trigger: TrainJobTrigger) -> dict[str, Any]:
    """The trigger's event."""

    async def first() -> Any:
        return (await anext(trigger.run())).payload

    return asyncio.run(asyncio.wait_for(first(), 20))


def name_of(home: Home) -> str:
    return f"train-{training_spec(home, date.fromisoformat(DAY)).name}"


def trained_by_pods(home: Home, register: Callable[..., Any]) -> Candidate:
    """What a job's pods leave in the home and in MLflow, without training."""
    registered, spec = register(home), training_spec(home, date.fromisoformat(DAY))
    done = Candidate(
        version=registered.version,
        run_id=registered.run_id,
        model_digest=registered.model_digest,
        evaluation_day=DAY,
        train_first_day="2026-01-01",
        train_last_day="2026-01-02",
    )
    spec.folder(home).mkdir(parents=True)
    (spec.folder(home) / "done.json").write_text(json.dumps(asdict(done)))
    return done


def test_creates_one_job_watches_collects_and_leaves_no_job_behind(
    cluster: KubernetesServer, make_home: MakeHome, register: Callable[..., Any]
) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    (job,) = cluster.created
    name = job["metadata"]["name"]
    assert name == name_of(home)
    assert given["task_state_store"] == {RUN_KEY: f"longreel/{name}"}
    candidate = trained_by_pods(home, register)
    cluster.end(name, "Complete", "AllJobsCompleted")
    event = fired(trigger)
    assert operator(home).collect(given, event) == asdict(candidate)
    assert "deletionTimestamp" in cluster.jobs[name]["metadata"]
    assert operator(home).execute(given) == asdict(candidate)  # cleared afterwards: found in the home, no second job
    assert len(cluster.created) == 1


def test_the_job_is_the_mounted_template_for_this_day_candidate_and_airflow_run(
    cluster: KubernetesServer, make_home: MakeHome
) -> None:
    """Its name is a DNS label that leaves space for what JobSet appends to it for a pod."""
    home = make_home(3)
    deferred(operator(home, trigger="manual"), context())
    (job,) = cluster.created
    assert "1970" not in json.dumps(job)
    trainer = job["spec"]["trainer"]
    assert trainer["command"][-6:] == ["--date", DAY, "--trigger", "freshness", "--trigger", "manual"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert {entry["name"]: entry["value"] for entry in trainer["env"]} == {
        "AIRFLOW_CTX_DAG_ID": "longreel_train",
        "AIRFLOW_CTX_DAG_RUN_ID": "asset_triggered__1",
    }
    assert len(job["metadata"]["name"] + "-node-0-99-xxxxx") <= 63


def test_a_try_after_a_crash_continues_with_the_existing_job(cluster: KubernetesServer, make_home: MakeHome) -> None:
    """Killed after it deferred, and killed between creating and storing; another Airflow run finds it too."""
    home, given = make_home(3), context()
    first = deferred(operator(home), given)
    assert deferred(operator(home), given).run_id == first.run_id
    assert deferred(operator(home), context(run="manual__2")).run_id == first.run_id
    assert len(cluster.created) == 1


def test_a_creation_whose_answer_is_lost_is_found_by_the_next_try(
    cluster: KubernetesServer, make_home: MakeHome
) -> None:
    home, given = make_home(3), context()
    cluster.lose_next = ["create"]
    with pytest.raises(TransientError, match="cannot create TrainJob"):
        operator(home).execute(given)
    deferred(operator(home), given)
    assert len(cluster.created) == 1


def test_a_try_that_dies_between_finding_the_candidate_and_deleting_its_job_leaves_that_to_the_next(
    cluster: KubernetesServer, make_home: MakeHome, register: Callable[..., Any]
) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    candidate = trained_by_pods(home, register)
    cluster.end(name_of(home), "Complete")
    remote_run = TrainJobTrigger.server().get_run(trigger.run_id)
    cluster.fail_next = [503]
    with pytest.raises(TransientError, match="cannot delete TrainJob"):
        TrainJobTrigger.server().collect(home, date.fromisoformat(DAY), remote_run)
    assert operator(home).execute(given) == asdict(candidate)
    assert "deletionTimestamp" in cluster.jobs[name_of(home)]["metadata"]


def test_two_that_create_at_once_both_wait_for_the_first_job(cluster: KubernetesServer, make_home: MakeHome) -> None:
    """The second one's creation is answered 409."""
    home = make_home(3)
    cluster.before_create = lambda: deferred(operator(home), context())
    assert deferred(operator(home), context()).run_id == f"longreel/{name_of(home)}"
    assert len(cluster.created) == 1
    assert [request.split()[0] for request in cluster.requests].count("create") == 2


def test_a_failed_job_fails_the_task_and_is_created_again_once_its_pods_have_stopped(
    cluster: KubernetesServer, make_home: MakeHome
) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    name, cluster.lingers = name_of(home), 3
    cluster.end(name, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
    event = fired(trigger)
    with pytest.raises(TransientError, match=r"failed \(FailedJobs: jobset failed .*`kubectl -n longreel logs -l"):
        operator(home).collect(given, event)
    assert "deletionTimestamp" not in cluster.jobs[name]["metadata"]  # it stays to be looked at
    cluster.requests.clear()
    assert deferred(operator(home), given).run_id == trigger.run_id
    assert [request.split()[0] for request in cluster.requests] == ["get", "delete", *["get"] * 4, "create"]
    assert len({job["metadata"]["uid"] for job in cluster.created}) == 2


def test_a_job_whose_pods_do_not_stop_is_reported(
    cluster: KubernetesServer, make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, given = make_home(3), context()
    deferred(operator(home), given)
    cluster.end(name_of(home), "Failed")
    cluster.lingers = 10**9
    monkeypatch.setattr("longreel.components.train_job.DELETION_TIMEOUT_S", 0.1)
    with pytest.raises(TransientError, match=r"still being deleted after .*`kubectl -n longreel get pods"):
        operator(home).execute(given)
    assert len(cluster.created) == 1


def test_a_late_deletion_spares_a_newer_job_of_the_same_name(cluster: KubernetesServer, make_home: MakeHome) -> None:
    home, given = make_home(3), context()
    deferred(operator(home), given)
    cluster.end(name_of(home), "Failed")
    jobs = TrainJobTrigger.server()
    failed = jobs.get_run(f"longreel/{name_of(home)}")
    deferred(operator(home), given)
    jobs._delete(failed)
    assert jobs.get_run(failed.run_id).state == "running"


def test_a_job_deleted_by_hand_is_created_again_by_the_next_try(cluster: KubernetesServer, make_home: MakeHome) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    del cluster.jobs[name_of(home)]
    event = fired(trigger)
    with pytest.raises(TransientError, match="was deleted while it trained"):
        operator(home).collect(given, event)
    deferred(operator(home), given)
    assert len(cluster.created) == 2


def test_the_trigger_survives_a_server_restart_and_gives_up_on_a_refusal(
    cluster: KubernetesServer, make_home: MakeHome, tmp_path: Path
) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    again = KubernetesServer()
    again.jobs, again.fail_next = cluster.jobs, [500, 503, 429]
    kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9")  # no server listens

    async def through_a_restart() -> Any:
        waits = asyncio.ensure_future(anext(trigger.run()))
        await asyncio.sleep(0.3)
        assert not waits.done()
        with serving(again):
            kubeconfig(tmp_path / "kubeconfig", again.url)
            while again.fail_next and not waits.done():
                await asyncio.sleep(0.02)
            again.end(name_of(home), "Complete")
            return (await asyncio.wait_for(waits, 20)).payload

    assert asyncio.run(through_a_restart()) == ended(trigger.run_id)
    kubeconfig(tmp_path / "kubeconfig", cluster.url)
    cluster.rights = {"somebody else": {"get"}}
    event = fired(trigger)
    with pytest.raises(LongreelError, match=r"401.*is the token right\?"):
        operator(home).collect(given, event)


def test_a_job_beyond_its_timeout_is_deleted_and_fails_the_task(cluster: KubernetesServer, make_home: MakeHome) -> None:
    """Its time counts from its creation, so a restart does not give it more."""
    home, given = make_home(3), context()
    trigger = deferred(operator(home, timeout=timedelta(hours=2)), given)
    cluster.age(name_of(home), hours=3)
    event = fired(trigger)
    with pytest.raises(TransientError, match=r"has not ended 2\.0 h after its creation and was deleted"):
        operator(home, timeout=timedelta(hours=2)).collect(given, event)
    assert "deletionTimestamp" in cluster.jobs[name_of(home)]["metadata"]


def test_a_job_with_stale_inputs_is_replaced(
    cluster: KubernetesServer, make_home: MakeHome, publish: Callable[..., None], register: Callable[..., Any]
) -> None:
    """Samples were corrected between two tries, and while a job trained."""
    home, given = make_home(3), context()
    first = deferred(operator(home), given)
    publish(home, date(2026, 1, 1), seed=5)
    second = deferred(operator(home), given)
    assert second.run_id != first.run_id
    assert "deletionTimestamp" in cluster.jobs[first.run_id.removeprefix("longreel/")]["metadata"]
    cluster.end(name_of(home), "Complete")
    publish(home, date(2026, 1, 1), seed=6)
    trained_by_pods(home, register)
    with pytest.raises(TransientError, match=r"is complete; meanwhile 2026-01-03 needs 2026-01-03-\w+"):
        operator(home).collect(given, fired(second))
    operator(home).execute(given)
    assert "deletionTimestamp" in cluster.jobs[second.run_id.removeprefix("longreel/")]["metadata"]
    assert len(cluster.created) == 2


def test_a_complete_job_without_its_candidate_names_the_likely_cause_and_a_retry_trains_again(
    cluster: KubernetesServer, make_home: MakeHome
) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    cluster.end(name_of(home), "Complete")
    event = fired(trigger)
    with pytest.raises(LongreelError, match="share the home") as error:
        operator(home).collect(given, event)
    assert error.value.exit_code == LongreelError.exit_code  # not tried again by itself
    deferred(operator(home), given)
    assert len(cluster.created) == 2


def test_a_person_who_ends_the_task_ends_the_job(cluster: KubernetesServer, make_home: MakeHome) -> None:
    """Deferred: Airflow calls the trigger's on_kill, which it does not on a restart. In a worker: the operator's."""
    home = make_home(3)
    asyncio.run(deferred(operator(home), context()).on_kill())
    assert "deletionTimestamp" in cluster.jobs[name_of(home)]["metadata"]
    task = operator(home)
    deferred(task, context())
    assert len(cluster.created) == 2  # once the first one had gone
    task.on_kill()
    assert "deletionTimestamp" in cluster.jobs[name_of(home)]["metadata"]
    operator(home).on_kill()  # nothing created, nothing to end


def test_no_job_is_created_where_the_day_cannot_be_trained_for(cluster: KubernetesServer, make_home: MakeHome) -> None:
    with pytest.raises(DataNotReadyError):
        operator(make_home(1)).execute(context())
    assert not cluster.requests


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("kind: Job", "expected in .* a trainer.kubeflow.org/v1alpha1 TrainJob"),
        (MANIFEST.read_text().replace("name: train-1970-01-01", "name: train"), "1970-01-01 in its name"),
        (MANIFEST.read_text().replace('"1970-01-01"', '"2026-01-01"'), "1970-01-01 in its name"),
    ],
)
def test_a_manifest_other_than_one_day_s_train_job_is_rejected(
    cluster: KubernetesServer, make_home: MakeHome, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(LongreelError, match=message):
        operator(make_home(3), manifest=str(tmp_path / "job.yaml")).execute(context())
    assert not cluster.requests


def test_a_cluster_that_cannot_train_says_what_is_missing(
    cluster: KubernetesServer, make_home: MakeHome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = make_home(3)
    cluster.is_installed = False
    with pytest.raises(LongreelError, match=r"404.*is Kubeflow Trainer installed"):
        operator(home).execute(context())
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(LongreelError, match="expected a pod or KUBECONFIG"):
        operator(home).execute(context())


def test_in_a_pod_it_uses_the_cluster_s_api_with_the_mounted_token(
    cluster: KubernetesServer, make_home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found where Kubernetes, and Airflow's values for the triggerer, put them: address, token, authority."""
    (tmp_path / "token").write_text("the account's")
    key, certificate = self_signed(tmp_path)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(certificate))
    cluster.rights = {"the account's": {"create", "get"}}
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    with serving(cluster, tls=tls):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", cluster.url.rpartition(":")[2])
        trigger = deferred(operator(make_home(3)), context())
        assert TrainJobTrigger.server().get_run(trigger.run_id).state == "running"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate of 127.0.0.1 that is its own authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    certificate = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    (folder / "certificate").write_bytes(certificate.public_bytes(pem))
    return folder / "key", folder / "certificate"


def test_the_manifests_grant_what_the_operator_and_its_trigger_need(
    cluster: KubernetesServer, make_home: MakeHome, tmp_path: Path, register: Callable[..., Any]
) -> None:
    """From creation to collection, a failed job and a person's word, by the accounts of Airflow's values."""
    home, given = make_home(3), context()
    cluster.rights = rights("manifests/base")
    assert cluster.rights == {"airflow-task": {"create", "get", "delete"}, "airflow-triggerer": {"get", "delete"}}

    def asks(who: str) -> None:
        kubeconfig(tmp_path / "kubeconfig", cluster.url, who)

    for end in ("on_kill", "Failed", "Complete"):
        asks("airflow-task")
        trigger = deferred(operator(home), given)
        asks("airflow-triggerer")
        if end == "on_kill":
            asyncio.run(trigger.on_kill())
            continue
        if end == "Complete":
            trained_by_pods(home, register)
        cluster.end(name_of(home), end)
        assert fired(trigger) == ended(trigger.run_id)
    asks("airflow-task")
    assert operator(home).collect(given, ended(trigger.run_id))["version"] == 1
    asks("airflow-triggerer")
    with pytest.raises(LongreelError, match=r'403.*"airflow-triggerer" cannot create.*may this account do that\?'):
        TrainJobTrigger.server()._create(cluster.created[0])


def rights(folder: str) -> dict[str, set[str]]:
    """What each account may do with TrainJobs."""
    verbs = {
        role["metadata"]["name"]: {
            verb for rule in role["rules"] if "trainjobs" in rule["resources"] for verb in rule["verbs"]
        }
        for role in of_kind(folder, "Role")
    }
    verbs_by_name: dict[str, set[str]] = {}
    for binding in of_kind(folder, "RoleBinding"):
        for subject in binding["subjects"]:
            verbs_by_name.setdefault(subject["name"], set()).update(verbs[binding["roleRef"]["name"]])
    return {name: allowed for name, allowed in verbs_by_name.items() if allowed}


@pytest.mark.slow
def test_the_next_task_finds_and_evaluates_what_the_job_trained(
    cluster: KubernetesServer, make_home: MakeHome, capfd: pytest.CaptureFixture[str]
) -> None:
    home, given = make_home(3), context()
    trigger = deferred(operator(home), given)
    job = run_by_pods(cluster, home)
    candidate = operator(home).collect(given, fired(trigger))
    summary = retrain(home, date.fromisoformat(DAY), trigger="freshness")
    assert (summary["version"], summary["run_id"]) == (candidate["version"], candidate["run_id"])
    assert summary["outcome"] in ("promote", "hold", "reject")
    client = store.open_store(home)
    assert len(versions.list_versions(client, versions.model_name(home.config))) == 1
    tags = client.get_run(candidate["run_id"]).data.tags
    assert (tags[tracking.CANDIDATE_TAG], tags["trigger"]) == (job.removeprefix("train-"), "freshness")
    assert tags[tracking.AIRFLOW_TAG] == "longreel_train/asset_triggered__1"
    assert "this candidate is trained already" in "".join(capfd.readouterr())


def run_by_pods(cluster: KubernetesServer, home: Home) -> str:
    """Runs a job's command as a process, its volumes being folders of this machine; returns the job's name."""
    job = cluster.created[-1]
    launcher, *words = job["spec"]["trainer"]["command"]
    assert launcher == "torchrun"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
    variables = {entry["name"]: entry["value"] for entry in job["spec"]["trainer"]["env"]}
    variables |= {"LONGREEL_HOME": str(home.path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=os.environ | variables, check=True)
    cluster.end(job["metadata"]["name"], "Complete", "AllJobsCompleted")
    return str(job["metadata"]["name"])
