"""How does Airflow run a retrain on a pipeline server?

The run is found again by the id in the task's state store, or by its name, which says who asked for what.
"""

from typing import TYPE_CHECKING, Any

from longreel.contracts.errors import LongreelError
from longreel.operators.remote import RUN_KEY, EndTrigger, RemoteOperator

if TYPE_CHECKING:
    from longreel.components.kfp_server import PipelineServer, Run


class PipelineRunTrigger(EndTrigger):
    """Watches a pipeline run."""

    @staticmethod
    def server() -> "PipelineServer":
        """The server that LONGREEL_KFP_HOST names."""
        from longreel.components.kfp_server import PipelineServer

        server = PipelineServer.configured()
        if server is None:
            raise LongreelError("LONGREEL_KFP_HOST is not set here; every Airflow process needs it, the triggerer too")
        return server


class RetrainOperator(RemoteOperator):
    """Train, judge and promote for the run's partition, by the pipeline server that LONGREEL_KFP_HOST names.

    With `promote` false a promotion waits for somebody. Returns what summary.json holds.
    """

    watch = PipelineRunTrigger

    def __init__(self, *, promote: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.promote = promote

    def execute(self, context: Any) -> None:
        """Submit, or find what an earlier try submitted, and defer.

        Raises:
            LongreelError: the day is not ready, or the server refuses.
        """
        run = self._known(context) or self._submitted(context)
        self.log.info("pipeline run %s (%s): %s", run.run_id, run.name, run.state)
        self.wait_for(context, run.run_id)

    def collect(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Called when the run has ended or its time is over.

        Raises:
            TransientError: it did not succeed; the message says which step, and why.
            LongreelError: the server refuses.
        """
        from longreel.components import retrain

        return retrain.collect(*self.parsed(), self.ended(event))

    def _known(self, context: Any) -> "Run | None":
        """An earlier try's run, if it goes on, whatever has changed since, or has succeeded with today's inputs."""
        from longreel.components.kfp_server import NotThere
        from longreel.components.retrain import plan

        run_id = context["task_state_store"].get(RUN_KEY)
        if not run_id:
            return None
        try:
            run = PipelineRunTrigger.server().see(str(run_id))
        except NotThere:  # somebody deleted it
            return None
        if run.goes_on:
            self.log.info("reconnecting to pipeline run %s", run.run_id)
            return run
        if run.succeeded and run.parameters["inputs_digest"] == plan(*self.parsed(), force=True).inputs_digest:
            return run
        return None

    def _submitted(self, context: Any) -> "Run":
        from longreel.components.retrain import plan, submit

        (home, day), by = self.parsed(), f"{context['dag_run'].dag_id} {context['dag_run'].run_id}"
        planned = plan(home, day, force=self.force == "True")
        server = PipelineRunTrigger.server()
        return submit(server, home, day, planned, trigger=self.trigger, promote=self.promote, asked_by=by)
