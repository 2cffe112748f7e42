"""A local server with the part of the Kubernetes API that TrainJobs need, and levers for tests.

It keeps objects in memory and runs nothing by itself: a test plays Kubeflow Trainer's controller. Of the API server it
has what clients stumble over: names that are taken, deletion in the foreground, preconditions, rights by verb.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kfp_server import Answer, serving

API = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/longreel/trainjobs"
VERBS = {"GET": "get", "POST": "create", "DELETE": "delete"}


class KubernetesServer:
    """The server's memory, the requests that it got, and what a test has it do."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []  # every TrainJob there ever was, in order
        self.requests: list[str] = []  # "verb name" of every request, in order
        self.rights: dict[str, set[str]] | None = None  # verbs by token; None: everybody may everything
        self.fail_next: list[int] = []  # status codes of the next answers
        self.lose_next: list[str] = []  # verbs of requests whose next answer is lost
        self.lingers = 0  # looks at an object that is being deleted until its pods have stopped
        self.before_create: Any = None  # called once, before the next creation
        self.is_installed = True  # Kubeflow Trainer
        self.url = ""

    def end(self, name: str, condition: str, reason: str = "", message: str = "") -> None:
        """What the controller writes when a job's last pod has ended."""
        ended = {"type": condition, "status": "True", "reason": reason, "message": message}
        ended["lastTransitionTime"] = _stamp(datetime.now(UTC))
        self.jobs[name]["status"] = {"conditions": [{**ended, "type": "Suspended", "status": "False"}, ended]}

    def age(self, name: str, hours: float) -> None:
        """Make a job older."""
        self.jobs[name]["metadata"]["creationTimestamp"] = _stamp(datetime.now(UTC) - timedelta(hours=hours))

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, token: str | None) -> Answer | None:
        verb, name = VERBS[method], path.removeprefix(API).strip("/") or body["metadata"]["name"]
        self.requests.append(f"{verb} {name}")
        if self.fail_next:
            return _status(self.fail_next.pop(0), "InternalError", "etcdserver: leader changed")
        if self.rights is not None:
            scheme, _, who = (token or "").partition(" ")
            if scheme.lower() != "bearer" or who not in self.rights:
                return _status(401, "Unauthorized", "Unauthorized")
            if verb not in self.rights[who]:
                return _status(403, "Forbidden", f'trainjobs is forbidden: User "{who}" cannot {verb} it')
        if not self.is_installed or not path.startswith(API):
            return _status(404, "NotFound", "the server could not find the requested resource")
        answer = getattr(self, f"_{verb}")(name, body)
        if verb in self.lose_next:
            self.lose_next.remove(verb)
            return None
        return answer

    def _create(self, name: str, body: Any) -> Answer:
        from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

        then, self.before_create = self.before_create, None
        if then is not None:
            then()
        if TrainerV1alpha1TrainJob.from_dict(json.loads(json.dumps(body))).to_dict() != body:
            return _status(422, "Invalid", f"TrainJob {name} has a field that is not known")
        if name in self.jobs:
            return _status(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        metadata = {**body["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": _stamp(datetime.now(UTC))}
        self.jobs[name] = body | {"metadata": metadata}
        self.created.append(self.jobs[name])
        return 201, self.jobs[name]

    def _get(self, name: str, body: Any) -> Answer:
        job = self.jobs.get(name)
        if job is None:
            return _status(404, "NotFound", f'trainjobs.trainer.kubeflow.org "{name}" not found')
        if "deletionTimestamp" in job["metadata"]:
            self.lingers -= 1
            if self.lingers < 0:
                del self.jobs[name]
                return self._get(name, body)
        return 200, job

    def _delete(self, name: str, body: Any) -> Answer:
        status, job = self._get(name, None)
        if status != 200:
            return status, job
        if (body or {}).get("preconditions", {}).get("uid", job["metadata"]["uid"]) != job["metadata"]["uid"]:
            return _status(409, "Conflict", "the UID in the precondition does not match")
        if (body or {}).get("propagationPolicy") == "Foreground":
            job["metadata"] |= {"deletionTimestamp": _stamp(datetime.now(UTC)), "finalizers": ["foregroundDeletion"]}
        else:
            del self.jobs[name]
        return 200, job


def _status(code: int, reason: str, message: str) -> Answer:
    """An error, as the API server words it."""
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def _stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def kubeconfig(file: Path, url: str, token: str = "anonymous") -> None:
    """What says where the API is, and who asks; in one step, for a trigger may be reading it."""
    entries = {"cluster": {"server": url}, "user": {"token": token}, "context": {"cluster": "here", "user": "here"}}
    lists = {f"{kind}s": [{"name": "here", kind: value}] for kind, value in entries.items()}
    draft = file.with_suffix(".draft")
    draft.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "here", **lists}))
    draft.replace(file)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KubernetesServer]:
    """A cluster, which the environment names; conftest files hand it on."""
    server = KubernetesServer()
    with serving(server):
        kubeconfig(tmp_path / "kubeconfig", server.url)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr("longreel.components.train_job.POLL_S", 0.01)
        yield server
