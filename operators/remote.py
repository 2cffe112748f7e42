"""How does a task wait for what runs elsewhere, without holding a worker, and without ever running it twice?

The operator begins it, or finds what an earlier try began, and defers; a trigger watches; the operator comes back and
collects. So whatever is killed, and whenever, the next try goes on with what is there.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from longreel.contracts.errors import LongreelError, TransientError

if TYPE_CHECKING:
    from longreel.lake.home import Home

RUN_KEY = "run"  # in the task's state store
ANSWER_TIMEOUT_S = 60


class Server(Protocol):
    """Where it runs. What is seen of a run says `has_ended` and `created_at`; errors are components/kfp_server.py's."""

    def see(self, run_id: str) -> Any: ...

    def terminate(self, run_id: str) -> None: ...

    def timed_out(self, run: Any, timeout_s: float) -> str: ...


class EndTrigger(BaseTrigger):
    """Fires once a run has ended, or is `timeout_s` old. A server that does not answer is asked again."""

    def __init__(self, run_id: str, poll_s: float, timeout_s: float) -> None:
        super().__init__()
        self.run_id, self.poll_s, self.timeout_s = run_id, poll_s, timeout_s

    @staticmethod
    def server() -> Server:
        """Whom to ask: as the environment says."""
        raise NotImplementedError

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What is stored while the task is deferred: no address and no token, which the environment has."""
        values = {"run_id": self.run_id, "poll_s": self.poll_s, "timeout_s": self.timeout_s}
        return f"{type(self).__module__}.{type(self).__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll; each question is asked in a thread, since the clients block."""
        from longreel.components.kfp_server import Unreachable, age_s

        while True:
            try:
                seen = await asyncio.wait_for(
                    asyncio.to_thread(lambda: self.server().see(self.run_id)), ANSWER_TIMEOUT_S
                )
            except (Unreachable, TimeoutError) as error:
                self.log.warning("%s; asking again in %.0f s", error, self.poll_s)
            except LongreelError as error:
                yield TriggerEvent({"run_id": self.run_id, "refused": str(error)})
                return
            else:
                if seen.has_ended or age_s(seen.created_at) > self.timeout_s:
                    yield TriggerEvent({"run_id": self.run_id})
                    return
            await asyncio.sleep(self.poll_s)

    async def on_kill(self) -> None:
        """A person cleared or marked the deferred task: the run goes with it. A restart does not come here.

        Nor does a person in the second before a triggerer has taken the trigger up: that run goes on.
        """
        self.log.info("terminating %s", self.run_id)
        await asyncio.to_thread(lambda: self.server().terminate(self.run_id))


class RemoteOperator(BaseOperator):
    """What tasks for the run's partition that run elsewhere have in common.

    `home` is the pipeline's home folder as this worker sees it; `trigger` is why (a tag of the MLflow run); `force` is
    "True" where the day may lie further back than the policy allows. What runs is ended `timeout` after its creation,
    and when the task is cleared or marked by a person.
    """

    template_fields = ("day", "home", "trigger", "force")
    watch: ClassVar[type[EndTrigger]]

    def __init__(
        self,
        *,
        home: str,
        day: str = "{{ dag_run.partition_key }}",
        trigger: str = "freshness",
        force: str = "False",
        timeout: timedelta = timedelta(hours=12),
        poll_every: timedelta = timedelta(seconds=30),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.home, self.day, self.trigger, self.force = home, day, trigger, force
        self.timeout, self.poll_every = timeout, poll_every
        self._run_id = ""

    def wait_for(self, context: Any, run_id: str) -> None:
        """Defer until the run has ended; `collect` is called then."""
        self._run_id = run_id
        context["task_state_store"].set(RUN_KEY, run_id)
        watch = self.watch(run_id, self.poll_every.total_seconds(), self.timeout.total_seconds())
        self.defer(trigger=watch, method_name="collect")

    def ended(self, event: dict[str, Any]) -> Any:
        """The run that a trigger's event tells of.

        Raises:
            TransientError: its time is over; it is ended here.
            LongreelError: the server refuses.
        """
        self._run_id = event["run_id"]
        if event.get("refused"):
            raise LongreelError(event["refused"])
        server = self.watch.server()
        run = server.see(self._run_id)
        if not run.has_ended:
            server.terminate(self._run_id)
            raise TransientError(server.timed_out(run, self.timeout.total_seconds()))
        return run

    def on_kill(self) -> None:
        """A person ended the task while it was not deferred: the run goes with it."""
        if self._run_id:
            self.watch.server().terminate(self._run_id)

    def parsed(self) -> "tuple[Home, date]":
        """The home and the day, once their templates are filled in."""
        from longreel.contracts.dates import parse_day
        from longreel.lake.home import Home

        return Home.locate(self.home), parse_day(self.day)
