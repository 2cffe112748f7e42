"""How does a pipeline run on a Kubeflow Pipelines server: submitted once however often it is asked for, seen, ended.

Configured by environment variables, which hold no secret:
LONGREEL_KFP_HOST        URL of the API, e.g. http://ml-pipeline.kubeflow:8888; unset: pipelines run on this machine
LONGREEL_KFP_NAMESPACE   the namespace of runs, where the server has several users
LONGREEL_KFP_TOKEN_FILE  file with a bearer token, read anew for each request (a projected service account token)
LONGREEL_KFP_CA_FILE     file with the authority that signed the server's certificate
"""

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longreel.contracts.errors import LongreelError, TransientError

EXPERIMENT = "longreel"
GOING_ON = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "PAUSED")
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
REFUSED = (400, 401, 403, 404, 422)  # asking again gives the same answer
PAGE = 100
TIMEOUT_S = (10.0, 60.0)  # to connect, and between two parts of an answer; kfp.Client by itself waits for ever
log = logging.getLogger(__name__)


class ServerError(LongreelError):
    """The server refused a request, or gave an answer that cannot be right."""


class NotThere(ServerError):  # noqa: N818  # read as "the run is"
    """The server knows nothing by that name."""


class Unreachable(TransientError):  # noqa: N818  # read as "the server is"
    """No answer; the run goes on without being watched, and asking again may succeed."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A pipeline run as the server sees it."""

    run_id: str
    name: str
    state: str
    created_at: datetime
    parameters: Mapping[str, Any]
    error: str = ""

    @property
    def goes_on(self) -> bool:
        """It has not ended, nor been asked to."""
        return self.state in GOING_ON

    @property
    def has_ended(self) -> bool:
        """Its state will not change any more."""
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        """Every step that was to run has succeeded."""
        return self.state == "SUCCEEDED"


class PipelineServer:
    """A KFP API server, spoken to by kfp.Client."""

    def __init__(self, host: str, *, namespace: str = "", token_file: str = "", ca_file: str = "") -> None:
        from kfp.client import Client, ServiceAccountTokenVolumeCredentials
        from kfp_server_api import V2beta1GetHealthzResponse

        class ToldItsNamespace(Client):  # type: ignore[misc]
            """Does not ask the server whether it has several users, five times in half a minute where it is away."""

            def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
                return V2beta1GetHealthzResponse(multi_user=False)

        if token_file and not Path(token_file).is_file():
            raise ServerError(f"LONGREEL_KFP_TOKEN_FILE names {token_file}, and no such file is there; mount the token")
        if ca_file and not Path(ca_file).is_file():
            raise ServerError(f"LONGREEL_KFP_CA_FILE names {ca_file}, and no such file is there; mount the authority")
        self.host, self._namespace = host, namespace
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # "only works with v2.0.0-beta.2 and later"
            self._client = ToldItsNamespace(
                host=host,
                namespace=namespace or "kubeflow",
                credentials=ServiceAccountTokenVolumeCredentials(token_file) if token_file else None,
                ssl_ca_cert=ca_file or None,
            )
        rest = self._client._run_api.api_client.rest_client  # that of all its interfaces
        rest.request = _in_time(rest.request)

    @staticmethod
    def configured() -> "PipelineServer | None":
        """The server that the environment names; None where pipelines run on this machine.

        Raises:
            ServerError: the file of its token or authority is missing.
        """
        host = os.environ.get("LONGREEL_KFP_HOST")
        if not host:
            return None
        return PipelineServer(
            host,
            namespace=os.environ.get("LONGREEL_KFP_NAMESPACE", ""),
            token_file=os.environ.get("LONGREEL_KFP_TOKEN_FILE", ""),
            ca_file=os.environ.get("LONGREEL_KFP_CA_FILE", ""),
        )

    def submit(self, name: str, package: Path, parameters: Mapping[str, Any], *, root: str | None = None) -> Run:
        """The run of this name that goes on or has succeeded; a new one where there is none.

        A name is what makes two requests the same. Of two submissions at one moment the earlier run stays and the other
        is terminated, so both callers end with one run.
        """
        if (known := self._usable(name)) is not None:
            log.info("run %s (%s) is there already: %s", known.run_id, name, known.state)
            return known
        with self._asking("submit to"):
            made = self._client.run_pipeline(
                self._experiment(), name, str(package), params=dict(parameters), pipeline_root=root
            )
        first = self._usable(name)
        if first is None or first.run_id == made.run_id:
            return self.see(made.run_id)
        log.warning("run %s of %s was submitted at the same time; ending %s", first.run_id, name, made.run_id)
        self.terminate(made.run_id)
        return first

    def find(self, name: str) -> list[Run]:
        """Every run of a name, oldest first."""
        where = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
        found, token = [], ""
        while True:
            with self._asking("list runs of"):
                page = self._client.list_runs(
                    page_token=token, page_size=PAGE, experiment_id=self._experiment(), filter=where
                )
            found += [_read(run) for run in page.runs or ()]
            token = page.next_page_token or ""
            if not token:
                same = [run for run in found if run.name == name]  # whatever a server makes of the filter
                return sorted(same, key=lambda run: (run.created_at, run.run_id))

    def see(self, run_id: str) -> Run:
        """A run's present state.

        Raises:
            ServerError: there is no such run, or the server refuses.
            Unreachable: the server does not answer.
        """
        with self._asking(f"ask for run {run_id} at"):
            return _read(self._client.get_run(run_id))

    def terminate(self, run_id: str) -> None:
        """Ask the server to end a run; it does so when its pods have stopped. One that has ended stays as it is."""
        if not self.see(run_id).has_ended:
            with self._asking(f"terminate run {run_id} at"):
                self._client.terminate_run(run_id)

    def wait(self, run_id: str, *, poll_s: float = 30, timeout_s: float = 12 * 3600) -> Run:
        """The run once it has ended, seen every `poll_s` seconds; a server that does not answer is asked again.

        Raises:
            TransientError: it has not ended `timeout_s` after its creation; it is terminated.
        """
        while True:
            try:
                run = self.see(run_id)
            except Unreachable as error:
                log.warning("%s; asking again", error)
            else:
                if run.has_ended:
                    return run
                if age_s(run.created_at) > timeout_s:
                    self.terminate(run_id)
                    raise TransientError(self.timed_out(run, timeout_s))
            time.sleep(poll_s)

    def timed_out(self, run: Run, timeout_s: float) -> str:
        """What is said of a run that took too long."""
        return (
            f"pipeline run {run.run_id} ({run.name}) has not ended {timeout_s / 3600:.1f} h after its creation and was "
            "terminated; see its steps in the Kubeflow UI. Asked again, training goes on from its last checkpoint"
        )

    def _asking(self, what: str) -> "asking":
        from kfp_server_api.exceptions import ApiException

        return asking(f"{what} {self.host}", ApiException, missing="is it the right server?")

    def _usable(self, name: str) -> Run | None:
        return next((run for run in self.find(name) if run.goes_on or run.succeeded), None)

    def _experiment(self) -> str:
        """The experiment's id, made on first use."""
        if not hasattr(self, "_experiment_id"):
            with self._asking("find the experiment at"):
                made = self._client.create_experiment(EXPERIMENT, namespace=self._namespace or None)
            self._experiment_id = str(made.experiment_id)
        return self._experiment_id


def _in_time(request: Callable[..., Any]) -> Callable[..., Any]:
    """The client's own request, which gives up after TIMEOUT_S where its caller names no limit."""

    def limited(*args: Any, **options: Any) -> Any:
        return request(*args, **options | {"_request_timeout": options.get("_request_timeout") or TIMEOUT_S})

    return limited


def age_s(created_at: datetime) -> float:
    """Seconds since something was created."""
    return time.time() - created_at.timestamp()


def failed(run: Run) -> str:
    """What is said of a run that did not succeed."""
    return (
        f"pipeline run {run.run_id} ({run.name}) ended as {run.state}: {run.error or 'the server gives no reason'}; "
        "its steps' logs are in the Kubeflow UI"
    )


def _read(run: Any) -> Run:
    """A run from the API's answer, with the errors of its steps."""
    details = run.run_details.task_details if run.run_details and run.run_details.task_details else ()
    steps = [f"step {t.display_name!r}: {t.error.message}" for t in details if t.error and t.error.message]
    whole = [run.error.message] if run.error and run.error.message else []
    parameters = run.runtime_config.parameters if run.runtime_config else None
    return Run(
        run_id=run.run_id,
        name=run.display_name,
        state=run.state or "RUNTIME_STATE_UNSPECIFIED",
        created_at=run.created_at or datetime.now(UTC),
        parameters=parameters or {},
        error="; ".join(whole + steps),
    )


class asking:  # noqa: N801  # used as a word
    """Turns what a generated REST client raises into errors that say which server, what was asked and what to do.

    `refusal` is the client's own ApiException; `missing` says what to look at where a name is not known there.
    """

    def __init__(self, what: str, refusal: type[Any], *, missing: str) -> None:
        self._what, self._refusal = what, refusal
        self._hints = {401: "is the token right?", 403: "may this account do that?", 404: missing}

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        from urllib3.exceptions import HTTPError

        if isinstance(error, self._refusal) and error.status in REFUSED:
            hint = self._hints.get(error.status, "see the server's log")
            said = f"{error.status} {error.reason}: {_message(error)}"
            kind_ = NotThere if error.status == 404 else ServerError
            raise kind_(f"cannot {self._what}: {said}; {hint}") from error
        if isinstance(error, self._refusal | HTTPError | OSError | TimeoutError):
            said = f"{type(error).__name__} {_message(error)}"
            raise Unreachable(f"cannot {self._what}: {said}; is the address right, and does it answer here?") from error


def _message(error: Any) -> str:
    """The server's own words where it gave some, cut to a line."""
    text = getattr(error, "body", None) or str(error)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    return " ".join(str(text).split())[:300]
