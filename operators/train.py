"""Operator that trains a candidate on several nodes with a TrainJob.

The job has the name of its candidate, by which a retry finds it. The task ends once the candidate is in the home, where
the next task, `retrain`, uses it.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from longreel.operators.remote import RUN_KEY, RemoteOperator, RunCompletionTrigger

if TYPE_CHECKING:
    from longreel.components.train_job import TrainJobs


class TrainJobTrigger(RunCompletionTrigger):
    """Watches a TrainJob."""

    @staticmethod
    def server() -> "TrainJobs":
        """The cluster of this pod."""
        from longreel.components.train_job import TrainJobs

        return TrainJobs()


class TrainOperator(RemoteOperator):
    """Trains the candidate of the run's partition with a TrainJob.

    Returns the content of the candidate's done.json; None if the champion has the same inputs.

    :param manifest: file of the TrainJob that serves as template
    """

    trigger_class = TrainJobTrigger

    def __init__(self, *, manifest: str, **options: Any) -> None:
        super().__init__(**options)
        self.manifest = manifest

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Create the job, or find the one of an earlier try, and defer; return at once if the candidate exists.

        Raises:
            DataNotReadyError: there are too few days of samples.
            LongreelError: the day cannot be trained for, the manifest is wrong, or the cluster refuses.
            TransientError: the cluster does not answer.
        """
        from longreel.components import train_job
        from longreel.components.registry import tracking
        from longreel.components.retrain import plan
        from longreel.components.training.folder import find_completed
        from longreel.components.training.spec import training_spec

        home, day = self.home_and_day()
        champion = plan(home, day, force=self.force == "True").done
        if champion:
            self.log.info("version %d has these inputs and is the champion already", champion)
            return None
        spec, dag_run = training_spec(home, day), context["dag_run"]
        requester = dict(zip(tracking.AIRFLOW_NAMES, (dag_run.dag_id, dag_run.run_id), strict=True))
        body = train_job.manifest(Path(self.manifest), day, spec.name, self.trigger, requester)
        self._end_stale_job(context, train_job.run_id_of(body))
        self._run_id = train_job.run_id_of(body)
        result = TrainJobTrigger.server().submit(body, lambda: find_completed(home, spec))
        if isinstance(result, train_job.TrainJob):
            self.wait_for(context, result.run_id)
        return asdict(result)

    def collect(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the candidate and delete the job.

        :param event: see `RunCompletionTrigger.run`

        Raises:
            TransientError: the job failed, was deleted, or trained a stale candidate.
            LongreelError: the candidate is not in the home or the registry, or the cluster refuses.
        """
        return asdict(TrainJobTrigger.server().collect(*self.home_and_day(), self.finished_run(event)))

    def _end_stale_job(self, context: Context, run_id: str) -> None:
        """Delete an earlier try's job if its candidate is stale, say after a correction, to free its nodes."""
        earlier = context["task_state_store"].get(RUN_KEY)
        if earlier and earlier != run_id:
            self.log.info("%s is stale; deleting it", earlier)
            TrainJobTrigger.server().terminate(str(earlier))
