"""How does a candidate train on several nodes: by a TrainJob (Kubeflow Trainer), one however often it is asked for.

A TrainJob's name is its candidate's. So whoever asks again finds the job that is there; and whether it has done its
work is seen where everybody looks, in the home and the registry, not by the job alone.

Talks to the Kubernetes API with the service account of the pod it runs in; outside of a cluster as $KUBECONFIG says.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from longreel.components.kfp_server import TIMEOUT_S, NotThere, asking
from longreel.components.train import Candidate, recipe_of, trained
from longreel.contracts.errors import LongreelError, TransientError, require
from longreel.lake.home import Home

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
PLACEHOLDER = "1970-01-01"  # stands for the day in manifests/day
UNDER_WAY, COMPLETE, FAILED, LEAVING, GONE = "under way", "Complete", "Failed", "being deleted", "gone"
LOOK_EVERY_S = 2.0
GONE_WITHIN_S = 600  # pods have two minutes to write a checkpoint
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A job as the cluster sees it."""

    run_id: str  # namespace/name
    state: str
    created_at: datetime
    uid: str = ""
    said: str = ""

    @property
    def has_ended(self) -> bool:
        """Nothing of it works any more."""
        return self.state in (COMPLETE, FAILED, GONE)


def manifest(file: Path, day: date, candidate: str, trigger: str, environment: dict[str, str]) -> dict[str, Any]:
    """The TrainJob of a candidate, after the file that stands for every day's.

    Raises:
        LongreelError: the file is missing, or is not a TrainJob of one day.
    """
    import yaml

    require(file.is_file(), f"LONGREEL_TRAIN_JOB names {file}, and no such file is there; mount longreel-train-job")
    body = yaml.safe_load(file.read_text().replace(PLACEHOLDER, str(day)))
    try:
        kind, about, trainer = (body["apiVersion"], body["kind"]), body["metadata"], body["spec"]["trainer"]
        fits = kind == (f"{GROUP}/{VERSION}", "TrainJob") and str(day) in about["name"] and about["namespace"]
        fits = fits and str(day) in trainer["command"]
    except (TypeError, KeyError):
        fits = False
    wanted = f"a {GROUP}/{VERSION} TrainJob with a namespace, and {PLACEHOLDER} in its name and its trainer's command"
    require(fits, f"LONGREEL_TRAIN_JOB: expected in {file} {wanted}; take what `make train-job-yaml` writes")
    about["name"] = about["name"].replace(str(day), candidate)
    trainer["command"] += ["--trigger", trigger]  # the last one counts
    trainer["env"] = trainer.get("env", []) + [{"name": name, "value": value} for name, value in environment.items()]
    return body


def run_id_of(body: dict[str, Any]) -> str:
    """What a job goes by here: namespace/name."""
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

    def submit(self, body: dict[str, Any], made: Callable[[], Candidate | None]) -> TrainJob | Candidate:
        """The job of this name that is under way, or its candidate where that is made, or a new job.

        One that has ended is deleted; where it has left no candidate, the next one is created when its last pod has
        stopped.

        Raises:
            ServerError: the cluster refuses.
            TransientError: it gives no answer, or the old job's pods do not stop.
        """
        run_id = run_id_of(body)
        give_up = time.monotonic() + GONE_WITHIN_S
        while time.monotonic() < give_up:
            job = self.see(run_id)
            if job.state == UNDER_WAY:
                log.info("TrainJob %s is there already", run_id)
                return job
            candidate = made()  # asked after the look: a job that has ended had left its candidate before
            if job.state in (COMPLETE, FAILED):
                log.info("TrainJob %s is %s (%s); deleting it", run_id, job.state, job.said)
                self._delete(job)
            if candidate is not None:
                return candidate
            if job.state == GONE and (created := self._create(body)) is not None:
                return created
            time.sleep(LOOK_EVERY_S)
        raise TransientError(
            f"TrainJob {run_id} is still {job.state} after {GONE_WITHIN_S / 60:.0f} min; see what holds its pods "
            f"(`kubectl -n {run_id.partition('/')[0]} get pods`)"
        )

    def see(self, run_id: str) -> TrainJob:
        """A job's present state.

        Raises:
            ServerError: the cluster refuses to say.
            Unreachable: it gives no answer.
        """
        try:
            with self._asking(f"look at TrainJob {run_id}"):
                return _read(self._api.get_namespaced_custom_object(*_place(run_id), _request_timeout=TIMEOUT_S))
        except NotThere:
            return TrainJob(run_id=run_id, state=GONE, created_at=datetime.now(UTC))

    def terminate(self, run_id: str) -> None:
        """Delete a job, where it is there; pods that train write a checkpoint and stop."""
        job = self.see(run_id)
        if job.state != GONE:
            self._delete(job)

    def collect(self, home: Home, day: date, job: TrainJob) -> Candidate:
        """The candidate that an ended job has left; the job is deleted then, with its pods.

        Raises:
            TransientError: the job failed, was deleted, or trained what is not wanted any more.
            LongreelError: it is complete, and its candidate is not where this process looks.
        """
        if job.state != COMPLETE:
            raise TransientError(_without_end(job))
        recipe = recipe_of(home, day)
        if not job.run_id.endswith(recipe.name):
            raise TransientError(f"TrainJob {job.run_id} is complete; meanwhile {recipe.name} is what {day} asks for")
        made = trained(home, recipe)
        if made is None:
            raise LongreelError(
                f"TrainJob {job.run_id} is complete, and candidate {recipe.name} is not there; do its pods and this "
                f"process share the home ({home.path}) and MLflow ({home.tracking_uri})?"
            )
        self._delete(job)
        return made

    def timed_out(self, job: TrainJob, timeout_s: float) -> str:
        """What is said of a job that took too long."""
        return (
            f"TrainJob {job.run_id} has not ended {timeout_s / 3600:.1f} h after its creation and was deleted; did its "
            "pods get their nodes? Asked again, training goes on from its last checkpoint"
        )

    def _create(self, body: dict[str, Any]) -> TrainJob | None:
        """The new job; None where somebody was faster."""
        from kubernetes.client import ApiException

        about = body["metadata"]
        place = (GROUP, VERSION, about["namespace"], PLURAL)
        with self._asking(f"create TrainJob {about['name']}"):
            try:
                return _read(self._api.create_namespaced_custom_object(*place, body, _request_timeout=TIMEOUT_S))
            except ApiException as error:
                if error.status != 409:
                    raise
                return None

    def _delete(self, job: TrainJob) -> None:
        """Delete this very job, not one that has taken its name meanwhile. It goes when all that it owns has gone."""
        from kubernetes import client

        options = client.V1DeleteOptions(
            propagation_policy="Foreground", preconditions=client.V1Preconditions(uid=job.uid)
        )
        with self._asking(f"delete TrainJob {job.run_id}"):
            try:
                self._api.delete_namespaced_custom_object(*_place(job.run_id), body=options, _request_timeout=TIMEOUT_S)
            except client.ApiException as error:
                if error.status not in (404, 409):
                    raise

    def _asking(self, what: str) -> asking:
        from kubernetes.client import ApiException

        where = f"at {self._api.api_client.configuration.host}"
        return asking(
            f"{what} {where}", ApiException, missing="is Kubeflow Trainer installed, and the namespace there?"
        )


def _place(run_id: str) -> tuple[str, str, str, str, str]:
    """Where the API has a job."""
    namespace, _, name = run_id.partition("/")
    return GROUP, VERSION, namespace, PLURAL, name


def _read(answer: dict[str, Any]) -> TrainJob:
    """A job from the API's answer."""
    about, conditions = answer["metadata"], answer.get("status", {}).get("conditions", ())
    ended = [each for each in conditions if each["type"] in (COMPLETE, FAILED) and each["status"] == "True"]
    state = LEAVING if "deletionTimestamp" in about else ended[-1]["type"] if ended else UNDER_WAY
    return TrainJob(
        run_id=run_id_of(answer),
        state=state,
        created_at=datetime.fromisoformat(about["creationTimestamp"]),
        uid=about["uid"],
        said=f"{ended[-1].get('reason', '')}: {ended[-1].get('message', '')}".strip(": ") if ended else "",
    )


def _without_end(job: TrainJob) -> str:
    """What is said of a job that left nothing."""
    if job.state == GONE:
        return f"TrainJob {job.run_id} was deleted while it trained. The next try creates it anew and goes on"
    namespace, _, name = job.run_id.partition("/")
    logs = f"`kubectl -n {namespace} logs -l jobset.sigs.k8s.io/jobset-name={name}`"
    return (
        f"TrainJob {job.run_id} failed ({job.said}); its pods say why: {logs}. The next try goes on from the checkpoint"
    )
