"""Operator that runs the retrain pipeline on a pipeline server.

A retry finds the run by the id in the task's state store, or by its name, which encodes the request.
"""

from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from longreel.contracts.errors import LongreelError
from longreel.operators.remote import RUN_KEY, RemoteOperator, RunCompletionTrigger

if TYPE_CHECKING:
    from longreel.components.kfp_server import PipelineServer, Run


class PipelineRunTrigger(RunCompletionTrigger):
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
    """Trains, evaluates and promotes on the pipeline server that LONGREEL_KFP_HOST names.

    Returns the content of summary.json.

    :param promote: False to leave a promotion to a person
    """

    trigger_class = PipelineRunTrigger

    def __init__(self, *, promote: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.promote = promote

    def execute(self, context: Context) -> None:
        """Submit the run, or find the one that an earlier try submitted, and defer.

        Raises:
            LongreelError: the day is not ready, or the server refuses.
        """
        run = self._earlier_run(context) or self._submit(context)
        self.log.info("pipeline run %s (%s): %s", run.run_id, run.name, run.state)
        self.wait_for(context, run.run_id)

    def collect(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Bring the results of the run into the home.

        :param event: see `RunCompletionTrigger.run`

        Raises:
            TransientError: the run did not succeed; the message names the step and the reason.
            LongreelError: the server refuses.
        """
        from longreel.components import retrain

        return retrain.collect(*self.home_and_day(), self.finished_run(event))

    def _earlier_run(self, context: Context) -> "Run | None":
        """The run of an earlier try, if it is still running, or has succeeded with today's inputs."""
        from longreel.components.kfp_server import NotFoundError
        from longreel.components.retrain import plan

        run_id = context["task_state_store"].get(RUN_KEY)
        if not run_id:
            return None
        try:
            run = PipelineRunTrigger.server().get_run(str(run_id))
        except NotFoundError:  # deleted by hand
            return None
        if run.is_running:
            self.log.info("reconnecting to pipeline run %s", run.run_id)
            return run
        if run.succeeded and run.parameters["inputs_digest"] == plan(*self.home_and_day(), force=True).inputs_digest:
            return run
        return None

    def _submit(self, context: Context) -> "Run":
        from longreel.components.retrain import plan, submit

        home, day = self.home_and_day()
        requester = f"{context['dag_run'].dag_id} {context['dag_run'].run_id}"
        planned = plan(home, day, force=self.force == "True")
        server = PipelineRunTrigger.server()
        return submit(server, home, day, planned, trigger=self.trigger, promote=self.promote, requester=requester)
