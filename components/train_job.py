"""TrainJobs of Kubeflow Trainer: train a candidate on several nodes, with at most one job for each candidate.

A TrainJob has the name of its candidate, so a second request finds the existing job. Whether the training is done is
decided by the home and the registry, not by the job alone.

Uses the Kubernetes API with the service account of its pod; outside a cluster, with $KUBECONFIG.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from longreel.components.kfp_server import TIMEOUT_S, ErrorTranslation, NotFoundError
from longreel.components.training.spec import Candidate, training_spec
from longreel.contracts.errors import LongreelError, TransientError, require
from longreel.contracts.passwords import without_password
from longreel.lake.home import Home

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PLACEHOLDER = "1970-01-01"  # stands for the day in manifests/day
RUNNING, COMPLETE, FAILED, DELETING, DELETED = "running", "Complete", "Failed", "being deleted", "deleted"
POLL_S = 2.0
DELETION_TIMEOUT_S = 600  # pods have two minutes to write a checkpoint
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A job as the cluster reports it."""

    run_id: str  # namespace/name
    state: str
    created_at: datetime
    uid: str = ""
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether none of its pods runs any more."""
        return self.state in (COMPLETE, FAILED, DELETED)


def manifest(file: Path, day: date, candidate: str, trigger: str, environment: dict[str, str]) -> dict[str, Any]:
    """The TrainJob of a candidate, from the file that serves as template for every day.

    Raises:
        LongreelError: the file is missing, or is not a TrainJob of one day.
    """
    import yaml

    require(file.is_file(), f"LONGREEL_TRAIN_JOB names {file}, which does not exist; mount longreel-train-job")
    body: dict[str, Any] = yaml.safe_load(file.read_text().replace(PLACEHOLDER, str(day)))
    try:
        kind, metadata, trainer = (body["apiVersion"], body["kind"]), body["metadata"], body["spec"]["trainer"]
        fits = kind == (f"{GROUP}/{VERSION}", "TrainJob") and str(day) in metadata["name"] and metadata["namespace"]
        fits = fits and str(day) in trainer["command"]
    except (TypeError, KeyError):
        fits = False
    expected = f"a {GROUP}/{VERSION} TrainJob with a namespace, and {PLACEHOLDER} in its name and its trainer's command"
    require(fits, f"LONGREEL_TRAIN_JOB: expected in {file} {expected}; use the file that `make train-job-yaml` writes")
    metadata["name"] = metadata["name"].replace(str(day), candidate)
    trainer["command"] += ["--trigger", trigger]  # argparse uses the last one
    trainer["env"] = trainer.get("env", []) + [{"name": name, "value": value} for name, value in environment.items()]
    return body


def run_id_of(body: dict[str, Any]) -> str:
    """The id of a job: namespace/name."""
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"


class TrainJobs:
    """The TrainJobs of a cluster."""

    def __init__(self) -> None:
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            try:
                config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
            except config.ConfigException as error:
                raise LongreelError(
                    f"TrainJobs need a Kubernetes API: expected a pod or KUBECONFIG; {error}"
                ) from error
        self._api = client.CustomObjectsApi(client.ApiClient(settings))

    def submit(self, body: dict[str, Any], find_candidate: Callable[[], Candidate | None]) -> TrainJob | Candidate:
        """The running job of this name, or its candidate if that exists, or a new job.

        An ended job is deleted. If it left no candidate, a new job is created once its last pod has stopped.

        Raises:
            ServerError: the cluster refuses.
            TransientError: it gives no answer, or the old job's pods do not stop.
        """
        run_id = run_id_of(body)
        deadline = time.monotonic() + DELETION_TIMEOUT_S
        while time.monotonic() < deadline:
            job = self.get_run(run_id)
            if job.state == RUNNING:
                log.info("TrainJob %s exists already", run_id)
                return job
            candidate = find_candidate()  # after get_run: an ended job had left its candidate before
            if job.state in (COMPLETE, FAILED):
                log.info("TrainJob %s is %s (%s); deleting it", run_id, job.state, job.reason)
                self._delete(job)
            if candidate is not None:
                return candidate
            if job.state == DELETED and (created := self._create(body)) is not None:
                return created
            time.sleep(POLL_S)
        raise TransientError(
            f"TrainJob {run_id} is still {job.state} after {DELETION_TIMEOUT_S / 60:.0f} min; see what holds its pods "
            f"(`kubectl -n {run_id.partition('/')[0]} get pods`)"
        )

    def get_run(self, run_id: str) -> TrainJob:
        """A job's present state.

        Raises:
            ServerError: the cluster refuses.
            ServerUnavailableError: it gives no answer.
        """
        try:
            with self._translating(f"get TrainJob {run_id}"):
                return _parse_job(
                    self._api.get_namespaced_custom_object(*_api_path(run_id), _request_timeout=TIMEOUT_S)
                )
        except NotFoundError:
            return TrainJob(run_id=run_id, state=DELETED, created_at=datetime.now(UTC))

    def terminate(self, run_id: str) -> None:
        """Delete a job, if it exists; its pods write a checkpoint and stop."""
        job = self.get_run(run_id)
        if job.state != DELETED:
            self._delete(job)

    def collect(self, home: Home, day: date, job: TrainJob) -> Candidate:
        """The candidate of an ended job, which is then deleted with its pods.

        Raises:
            TransientError: the job failed, was deleted, or trained a stale candidate.
            LongreelError: the job is complete, but its candidate is not in the home or the registry.
        """
        if job.state != COMPLETE:
            raise TransientError(_failure_message(job))
        from longreel.components.training.folder import find_completed

        spec = training_spec(home, day)
        if not job.run_id.endswith(spec.name):
            raise TransientError(f"TrainJob {job.run_id} is complete; meanwhile {day} needs {spec.name}")
        candidate = find_completed(home, spec)
        if candidate is None:
            raise LongreelError(
                f"TrainJob {job.run_id} is complete, but candidate {spec.name} is missing; do its pods and this "
                f"process share the home ({home.path}) and MLflow ({without_password(home.tracking_uri)})?"
            )
        self._delete(job)
        return candidate

    def timeout_message(self, job: TrainJob, timeout_s: float) -> str:
        """The error text for a job that took too long."""
        return (
            f"TrainJob {job.run_id} has not ended {timeout_s / 3600:.1f} h after its creation and was deleted; did its "
            "pods get their nodes? A retry continues training from its last checkpoint"
        )

    def _create(self, body: dict[str, Any]) -> TrainJob | None:
        """The new job; None if another caller created one first."""
        from kubernetes.client import ApiException

        metadata = body["metadata"]
        place = (GROUP, VERSION, metadata["namespace"], PLURAL)
        with self._translating(f"create TrainJob {metadata['name']}"):
            try:
                return _parse_job(self._api.create_namespaced_custom_object(*place, body, _request_timeout=TIMEOUT_S))
            except ApiException as error:
                if error.status != 409:
                    raise
                return None

    def _delete(self, job: TrainJob) -> None:
        """Delete this job, not a newer one of the same name. It disappears once everything it owns has."""
        from kubernetes import client

        options = client.V1DeleteOptions(
            propagation_policy="Foreground", preconditions=client.V1Preconditions(uid=job.uid)
        )
        with self._translating(f"delete TrainJob {job.run_id}"):
            try:
                self._api.delete_namespaced_custom_object(
                    *_api_path(job.run_id), body=options, _request_timeout=TIMEOUT_S
                )
            except client.ApiException as error:
                if error.status not in (404, 409):
                    raise

    def _translating(self, request: str) -> ErrorTranslation:
        from kubernetes.client import ApiException

        where = f"at {self._api.api_client.configuration.host}"
        return ErrorTranslation(
            f"{request} {where}", ApiException, missing="is Kubeflow Trainer installed, and the namespace there?"
        )


def _api_path(run_id: str) -> tuple[str, str, str, str, str]:
    """The arguments that name a job to the API."""
    namespace, _, name = run_id.partition("/")
    return GROUP, VERSION, namespace, PLURAL, name


def _parse_job(answer: dict[str, Any]) -> TrainJob:
    """A job from the API's answer."""
    metadata, conditions = answer["metadata"], answer.get("status", {}).get("conditions", ())
    final = [c for c in conditions if c["type"] in (COMPLETE, FAILED) and c["status"] == "True"]
    state = DELETING if "deletionTimestamp" in metadata else final[-1]["type"] if final else RUNNING
    return TrainJob(
        run_id=run_id_of(answer),
        state=state,
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        uid=metadata["uid"],
        reason=f"{final[-1].get('reason', '')}: {final[-1].get('message', '')}".strip(": ") if final else "",
    )


def _failure_message(job: TrainJob) -> str:
    """The error text for a job that left no candidate."""
    if job.state == DELETED:
        return f"TrainJob {job.run_id} was deleted while it trained. A retry creates it again and continues"
    namespace, _, name = job.run_id.partition("/")
    logs = f"`kubectl -n {namespace} logs -l jobset.sigs.k8s.io/jobset-name={name}`"
    return (
        f"TrainJob {job.run_id} failed ({job.reason}); its pods say why: {logs}. A retry continues from the checkpoint"
    )
