"""Client of a Kubeflow Pipelines server: submits a run at most once, follows it and terminates it.

Configured by environment variables, which hold no secret:
LONGREEL_KFP_HOST        URL of the API, e.g. http://ml-pipeline.kubeflow:8888; unset: pipelines run on this machine
LONGREEL_KFP_NAMESPACE   the namespace of runs, where the server has several users
LONGREEL_KFP_TOKEN_FILE  file with a bearer token, read for each request (a projected service account token)
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
from longreel.contracts.web import require_no_user

EXPERIMENT = "longreel"
RUNNING_STATES = ("RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "PAUSED")
FINAL_STATES = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
REFUSAL_CODES = (400, 401, 403, 404, 422)  # a retry gets the same answer
PAGE = 100
TIMEOUT_S = (10.0, 60.0)  # to connect, and between two parts of an answer; kfp.Client alone waits for ever
log = logging.getLogger(__name__)


class ServerError(LongreelError):
    """The server refused a request, or gave an answer that cannot be right."""


class NotFoundError(ServerError):
    """The server has nothing by that name."""


class ServerUnavailableError(TransientError):
    """The server did not answer. The run continues unwatched, and a later request may succeed."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A pipeline run as the server reports it."""

    run_id: str
    name: str
    state: str
    created_at: datetime
    parameters: Mapping[str, Any]
    error: str = ""

    @property
    def is_running(self) -> bool:
        """Whether it has neither ended nor been asked to."""
        return self.state in RUNNING_STATES

    @property
    def has_ended(self) -> bool:
        """Whether its state is final."""
        return self.state in FINAL_STATES

    @property
    def succeeded(self) -> bool:
        """Whether every step succeeded."""
        return self.state == "SUCCEEDED"


class PipelineServer:
    """A KFP API server, through kfp.Client."""

    def __init__(self, host: str, *, namespace: str = "", token_file: str = "", ca_file: str = "") -> None:
        from kfp.client import Client, ServiceAccountTokenVolumeCredentials
        from kfp_server_api import V2beta1GetHealthzResponse

        class SingleUserClient(Client):  # type: ignore[misc]
            """Skips the health check, which retries five times within half a minute if the server is away."""

            def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
                return V2beta1GetHealthzResponse(multi_user=False)

        if token_file and not Path(token_file).is_file():
            raise ServerError(f"LONGREEL_KFP_TOKEN_FILE names {token_file}, which does not exist; mount the token")
        if ca_file and not Path(ca_file).is_file():
            raise ServerError(f"LONGREEL_KFP_CA_FILE names {ca_file}, which does not exist; mount the authority")
        self.host, self._namespace = host, namespace
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # "only works with v2.0.0-beta.2 and later"
            self._client = SingleUserClient(
                host=host,
                namespace=namespace or "kubeflow",
                credentials=ServiceAccountTokenVolumeCredentials(token_file) if token_file else None,
                ssl_ca_cert=ca_file or None,
            )
        rest = self._client._run_api.api_client.rest_client  # shared by all its interfaces
        rest.request = _with_timeout(rest.request)

    @staticmethod
    def configured() -> "PipelineServer | None":
        """The server that the environment names; None if pipelines run on this machine.

        Raises:
            ServerError: the token file or the authority file is missing.
            LongreelError: the address has a user or a password.
        """
        host = os.environ.get("LONGREEL_KFP_HOST")
        if not host:
            return None
        require_no_user(host, "LONGREEL_KFP_HOST", "a file that LONGREEL_KFP_TOKEN_FILE names")
        return PipelineServer(
            host,
            namespace=os.environ.get("LONGREEL_KFP_NAMESPACE", ""),
            token_file=os.environ.get("LONGREEL_KFP_TOKEN_FILE", ""),
            ca_file=os.environ.get("LONGREEL_KFP_CA_FILE", ""),
        )

    def submit(self, name: str, package: Path, parameters: Mapping[str, Any], *, root: str | None = None) -> Run:
        """The run of this name that is running or has succeeded, or a new one.

        Two requests of one name are the same request. If two callers submit at once, the earlier run stays and the
        other is terminated, so both get the same run.
        """
        if (existing := self._usable_run(name)) is not None:
            log.info("run %s (%s) exists already: %s", existing.run_id, name, existing.state)
            return existing
        with self._translating("submit to"):
            submitted = self._client.run_pipeline(
                self._experiment(), name, str(package), params=dict(parameters), pipeline_root=root
            )
        first = self._usable_run(name)
        if first is None or first.run_id == submitted.run_id:
            return self.get_run(submitted.run_id)
        log.warning("run %s of %s was submitted at the same time; ending %s", first.run_id, name, submitted.run_id)
        self.terminate(submitted.run_id)
        return first

    def find_runs(self, name: str) -> list[Run]:
        """Every run of a name, oldest first."""
        where = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
        runs, token = [], ""
        while True:
            with self._translating("list runs of"):
                page = self._client.list_runs(
                    page_token=token, page_size=PAGE, experiment_id=self._experiment(), filter=where
                )
            runs += [_parse_run(run) for run in page.runs or ()]
            token = page.next_page_token or ""
            if not token:
                same = [run for run in runs if run.name == name]  # some servers ignore the filter
                return sorted(same, key=lambda run: (run.created_at, run.run_id))

    def get_run(self, run_id: str) -> Run:
        """A run's present state.

        Raises:
            ServerError: the run does not exist, or the server refuses.
            ServerUnavailableError: the server does not answer.
        """
        with self._translating(f"get run {run_id} from"):
            return _parse_run(self._client.get_run(run_id))

    def terminate(self, run_id: str) -> None:
        """Ask the server to end a run; it has ended once its pods have stopped. An ended run stays as it is."""
        if not self.get_run(run_id).has_ended:
            with self._translating(f"terminate run {run_id} at"):
                self._client.terminate_run(run_id)

    def wait(self, run_id: str, *, poll_s: float = 30, timeout_s: float = 12 * 3600) -> Run:
        """The run once it has ended, polled every `poll_s` seconds, also while the server does not answer.

        Raises:
            TransientError: it has not ended `timeout_s` after its creation; it is terminated.
        """
        while True:
            try:
                run = self.get_run(run_id)
            except ServerUnavailableError as error:
                log.warning("%s; trying again", error)
            else:
                if run.has_ended:
                    return run
                if age_s(run.created_at) > timeout_s:
                    self.terminate(run_id)
                    raise TransientError(self.timeout_message(run, timeout_s))
            time.sleep(poll_s)

    def timeout_message(self, run: Run, timeout_s: float) -> str:
        """The error text for a run that took too long."""
        return (
            f"pipeline run {run.run_id} ({run.name}) has not ended {timeout_s / 3600:.1f} h after its creation and was "
            "terminated; see its steps in the Kubeflow UI. A retry continues training from its last checkpoint"
        )

    def _translating(self, request: str) -> "ErrorTranslation":
        from kfp_server_api.exceptions import ApiException

        return ErrorTranslation(f"{request} {self.host}", ApiException, missing="is it the right server?")

    def _usable_run(self, name: str) -> Run | None:
        return next((run for run in self.find_runs(name) if run.is_running or run.succeeded), None)

    def _experiment(self) -> str:
        """The experiment's id; the experiment is created on first use."""
        if not hasattr(self, "_experiment_id"):
            with self._translating("find the experiment at"):
                experiment = self._client.create_experiment(EXPERIMENT, namespace=self._namespace or None)
            self._experiment_id = str(experiment.experiment_id)
        return self._experiment_id


def _with_timeout(request: Callable[..., Any]) -> Callable[..., Any]:
    """The client's request function, with TIMEOUT_S as the default timeout."""

    def limited(*args: Any, **options: Any) -> Any:
        return request(*args, **options | {"_request_timeout": options.get("_request_timeout") or TIMEOUT_S})

    return limited


def age_s(created_at: datetime) -> float:
    """Seconds since something was created."""
    return time.time() - created_at.timestamp()


def failure_message(run: Run) -> str:
    """The error text for a run that did not succeed."""
    return (
        f"pipeline run {run.run_id} ({run.name}) ended as {run.state}: {run.error or 'the server gives no reason'}; "
        "its steps' logs are in the Kubeflow UI"
    )


def _parse_run(run: Any) -> Run:
    """A run from the API's answer, with the errors of its steps."""
    details = run.run_details.task_details if run.run_details and run.run_details.task_details else ()
    steps = [f"step {t.display_name!r}: {t.error.message}" for t in details if t.error and t.error.message]
    errors = [run.error.message] if run.error and run.error.message else []
    parameters = run.runtime_config.parameters if run.runtime_config else None
    return Run(
        run_id=run.run_id,
        name=run.display_name,
        state=run.state or "RUNTIME_STATE_UNSPECIFIED",
        created_at=run.created_at or datetime.now(UTC),
        parameters=parameters or {},
        error="; ".join(errors + steps),
    )


class ErrorTranslation:
    """Context manager that turns errors of a generated REST client into errors that name server, request and remedy.

    :param request: the request and the server, as in "get run 7 from http://host"
    :param refusal: the client's own ApiException
    :param missing: the hint if the server answers 404
    """

    def __init__(self, request: str, refusal: type[Any], *, missing: str) -> None:
        self._request, self._refusal = request, refusal
        self._hints = {401: "is the token right?", 403: "may this account do that?", 404: missing}

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        from urllib3.exceptions import HTTPError

        if isinstance(error, self._refusal) and error.status in REFUSAL_CODES:
            hint = self._hints.get(error.status, "see the server's log")
            cause = f"{error.status} {error.reason}: {_error_text(error)}"
            error_type = NotFoundError if error.status == 404 else ServerError
            raise error_type(f"cannot {self._request}: {cause}; {hint}") from error
        if isinstance(error, self._refusal | HTTPError | OSError | TimeoutError):
            cause = f"{type(error).__name__} {_error_text(error)}"
            raise ServerUnavailableError(
                f"cannot {self._request}: {cause}; is the address right, and does it answer here?"
            ) from error


def _error_text(error: Any) -> str:
    """The server's message, if it sent one, cut to a line."""
    text = getattr(error, "body", None) or str(error)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    return " ".join(str(text).split())[:300]
