"""How does Airflow run a retrain on a pipeline server, without holding a worker, and without ever running it twice?

The operator submits and defers; a trigger watches; the operator comes back and collects. The run is found again by the
id in the task's state store, or by its name, which says who asked for what. So whatever is killed, and whenever, the
next try goes on with the run that is there.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from contracts.errors import LongreelError, TryAgainError

if TYPE_CHECKING:
    from components.server import PipelineServer, Run

RUN_KEY = "pipeline_run"  # in the task's state store
ANSWER_TIMEOUT_S = 60


def _server() -> "PipelineServer":
    from components.server import PipelineServer

    server = PipelineServer.configured()
    if server is None:
        raise LongreelError("LONGREEL_KFP_HOST is not set here; every Airflow process needs it, the triggerer too")
    return server


class RetrainOperator(BaseOperator):
    """Train, judge and promote for the run's partition, by the pipeline server that LONGREEL_KFP_HOST names.

    `home` is the pipeline's home folder as this worker sees it; `trigger` is why (a tag of the MLflow run); with
    `promote` false a promotion waits for somebody; `force` is "True" where the day may lie further back
    than the policy allows. The pipeline run is terminated `timeout` after its creation, and when the task is cleared or
    marked by a person. Returns what summary.json holds.
    """

    template_fields = ("day", "home", "trigger", "force")

    def __init__(
        self,
        *,
        home: str,
        day: str = "{{ dag_run.partition_key }}",
        trigger: str = "freshness",
        promote: bool = True,
        force: str = "False",
        timeout: timedelta = timedelta(hours=12),
        poll_every: timedelta = timedelta(seconds=30),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.home, self.day, self.trigger, self.promote = home, day, trigger, promote
        self.force = force
        self.timeout, self.poll_every = timeout, poll_every
        self._run_id = ""

    def execute(self, context: Any) -> None:
        """Submit, or find what an earlier try submitted, and defer.

        Raises:
            LongreelError: the day is not ready, or the server refuses.
        """
        run = self._known(context) or self._submitted(context)
        self._run_id = run.run_id
        context["task_state_store"].set(RUN_KEY, run.run_id)
        self.log.info("pipeline run %s (%s): %s", run.run_id, run.name, run.state)
        watch = PipelineRunTrigger(run.run_id, self.poll_every.total_seconds(), self.timeout.total_seconds())
        self.defer(trigger=watch, method_name="collect")

    def collect(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Called when the run has ended or its time is over.

        Raises:
            TryAgainError: it did not succeed; the message says which step, and why.
            LongreelError: the server refuses.
        """
        from components import retrain, server

        known = _server()
        self._run_id = event["run_id"]
        if event.get("refused"):
            raise LongreelError(event["refused"])
        run = known.see(self._run_id)
        if not run.has_ended:
            known.terminate(run.run_id)
            raise TryAgainError(server.timed_out(run, self.timeout.total_seconds()))
        return retrain.collect(self._home(), self._day(), run)

    def on_kill(self) -> None:
        """A person ended the task while it was not deferred: the pipeline run goes with it."""
        if self._run_id:
            _server().terminate(self._run_id)

    def _known(self, context: Any) -> "Run | None":
        """An earlier try's run, if it goes on, whatever has changed since, or has succeeded with today's inputs."""
        from components.retrain import plan
        from components.server import NotThere

        run_id = context["task_state_store"].get(RUN_KEY)
        if not run_id:
            return None
        try:
            run = _server().see(str(run_id))
        except NotThere:  # somebody deleted it
            return None
        if run.goes_on:
            self.log.info("reconnecting to pipeline run %s", run.run_id)
            return run
        if (
            run.succeeded
            and run.parameters["inputs_digest"] == plan(self._home(), self._day(), force=True).inputs_digest
        ):
            return run
        return None

    def _submitted(self, context: Any) -> "Run":
        from components.retrain import plan, submit

        home, day, by = self._home(), self._day(), f"{context['dag_run'].dag_id} {context['dag_run'].run_id}"
        planned = plan(home, day, force=self.force == "True")
        return submit(_server(), home, day, planned, trigger=self.trigger, promote=self.promote, asked_by=by)

    def _home(self) -> Any:
        from contracts.home import Home

        return Home.locate(self.home)

    def _day(self) -> Any:
        from contracts.dates import parse_day

        return parse_day(self.day)


class PipelineRunTrigger(BaseTrigger):
    """Fires once a pipeline run has ended, or is `timeout_s` old. A server that does not answer is asked again."""

    def __init__(self, run_id: str, poll_s: float, timeout_s: float) -> None:
        super().__init__()
        self.run_id, self.poll_s, self.timeout_s = run_id, poll_s, timeout_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What is stored while the task is deferred: no address and no token, which the environment has."""
        values = {"run_id": self.run_id, "poll_s": self.poll_s, "timeout_s": self.timeout_s}
        return f"{PipelineRunTrigger.__module__}.{PipelineRunTrigger.__qualname__}", values

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll; each question is asked in a thread, since the client blocks."""
        from components.server import ServerError, Unreachable, age_s

        while True:
            try:
                seen = await asyncio.wait_for(asyncio.to_thread(lambda: _server().see(self.run_id)), ANSWER_TIMEOUT_S)
            except ServerError as error:
                yield TriggerEvent({"run_id": self.run_id, "refused": str(error)})
                return
            except (Unreachable, TimeoutError) as error:
                self.log.warning("%s; asking again in %.0f s", error, self.poll_s)
            else:
                if seen.has_ended or age_s(seen) > self.timeout_s:
                    yield TriggerEvent({"run_id": self.run_id})
                    return
            await asyncio.sleep(self.poll_s)

    async def on_kill(self) -> None:
        """A person cleared or marked the deferred task: the pipeline run goes with it. A restart does not come here.

        Nor does a person in the second before a triggerer has taken the trigger up: that pipeline run goes on.
        """
        self.log.info("terminating pipeline run %s", self.run_id)
        await asyncio.to_thread(lambda: _server().terminate(self.run_id))
