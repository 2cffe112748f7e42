"""Deferrable operator and trigger for runs elsewhere, each of which is started at most once.

The operator starts a run, or finds the one that an earlier try started, and defers. A trigger watches the run. Then the
operator resumes and collects the result. So a retry after any crash continues with the existing run.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from airflow.sdk import BaseOperator, Context
from airflow.triggers.base import BaseTrigger, TriggerEvent

from longreel.contracts.errors import LongreelError, TransientError

if TYPE_CHECKING:
    from longreel.lake.home import Home

RUN_KEY = "run"  # in the task's state store
ANSWER_TIMEOUT_S = 60


class Server(Protocol):
    """A server of runs, which have `has_ended` and `created_at`. It raises the errors of components/kfp_server.py."""

    def get_run(self, run_id: str) -> Any: ...

    def terminate(self, run_id: str) -> None: ...

    def timeout_message(self, run: Any, timeout_s: float) -> str: ...


class RunCompletionTrigger(BaseTrigger):
    """Fires once a run has ended or is older than its timeout; polls on while the server does not answer.

    :param run_id: the run
    :param poll_s: seconds between two polls
    :param timeout_s: the greatest age of the run in seconds, counted from its creation
    """

    def __init__(self, run_id: str, poll_s: float, timeout_s: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_id, self.poll_s, self.timeout_s = run_id, poll_s, timeout_s

    @staticmethod
    def server() -> Server:
        """The server that the environment names."""
        raise NotImplementedError

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The stored state of the deferred task; address and token stay in the environment."""
        values = {"run_id": self.run_id, "poll_s": self.poll_s, "timeout_s": self.timeout_s}
        return f"{type(self).__module__}.{type(self).__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll in a thread, because the clients block.

        The event is {"run_id": ..., "status": "ended" | "timeout" | "error", "message": ...}.
        """
        from longreel.components.kfp_server import ServerUnavailableError, age_s

        while True:
            try:
                run = await asyncio.wait_for(
                    asyncio.to_thread(lambda: self.server().get_run(self.run_id)), ANSWER_TIMEOUT_S
                )
            except (ServerUnavailableError, TimeoutError) as error:
                self.log.warning("%s; trying again in %.0f s", error, self.poll_s)
            except LongreelError as error:
                yield self._event("error", str(error))
                return
            else:
                if run.has_ended or age_s(run.created_at) > self.timeout_s:
                    yield self._event("ended" if run.has_ended else "timeout")
                    return
            await asyncio.sleep(self.poll_s)

    def _event(self, status: str, message: str = "") -> TriggerEvent:
        return TriggerEvent({"run_id": self.run_id, "status": status, "message": message})

    async def on_kill(self) -> None:
        """Terminate the run: a person cleared or marked the deferred task. Airflow does not call this on a restart.

        Nor does it in the second before a triggerer has picked the trigger up; then the run continues.
        """
        self.log.info("terminating %s", self.run_id)
        await asyncio.to_thread(lambda: self.server().terminate(self.run_id))


class RemoteOperator(BaseOperator):
    """Base of the operators that wait for a run elsewhere.

    :param home: the pipeline's home folder as this worker sees it
    :param day: the log day, a template; by default the run's partition key
    :param trigger: why the run exists; a tag of the MLflow run
    :param force: "True" to accept a day that is older than the freshness policy allows
    :param timeout: the run is terminated this long after its creation
    :param poll_interval: time between two polls of the server
    """

    template_fields = ("day", "home", "trigger", "force")
    trigger_class: ClassVar[type[RunCompletionTrigger]]

    def __init__(
        self,
        *,
        home: str,
        day: str = "{{ dag_run.partition_key }}",
        trigger: str = "freshness",
        force: str = "False",
        timeout: timedelta = timedelta(hours=12),
        poll_interval: timedelta = timedelta(seconds=30),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.home, self.day, self.trigger, self.force = home, day, trigger, force
        self.timeout, self.poll_interval = timeout, poll_interval
        self._run_id = ""

    def wait_for(self, context: Context, run_id: str) -> None:
        """Defer until the run has ended; then Airflow calls `collect`."""
        self._run_id = run_id
        context["task_state_store"].set(RUN_KEY, run_id)
        trigger = self.trigger_class(run_id, self.poll_interval.total_seconds(), self.timeout.total_seconds())
        self.defer(trigger=trigger, method_name="collect")

    def finished_run(self, event: dict[str, Any]) -> Any:
        """The run of a trigger's event.

        Raises:
            TransientError: the run timed out; it is terminated here.
            LongreelError: the server refuses.
        """
        self._run_id = event["run_id"]
        if event["status"] == "error":
            raise LongreelError(event["message"])
        server = self.trigger_class.server()
        run = server.get_run(self._run_id)
        if not run.has_ended:
            server.terminate(self._run_id)
            raise TransientError(server.timeout_message(run, self.timeout.total_seconds()))
        return run

    def on_kill(self) -> None:
        """Terminate the run: a person ended the task while it was not deferred."""
        if self._run_id:
            self.trigger_class.server().terminate(self._run_id)

    def home_and_day(self) -> "tuple[Home, date]":
        """The home and the day, after templating."""
        from longreel.contracts.dates import parse_day
        from longreel.lake.home import Home

        return Home.locate(self.home), parse_day(self.day)
