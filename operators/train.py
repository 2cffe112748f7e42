"""How does Airflow train a candidate on several nodes?

By a TrainJob, which is found again by its name: its candidate's. The task ends when the candidate is in the home, where
the next one, `retrain`, finds it trained.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreel.operators.remote import RUN_KEY, EndTrigger, RemoteOperator

if TYPE_CHECKING:
    from longreel.components.train_job import TrainJobs


class TrainJobTrigger(EndTrigger):
    """Watches a TrainJob."""

    @staticmethod
    def server() -> "TrainJobs":
        """The cluster that this pod is in."""
        from longreel.components.train_job import TrainJobs

        return TrainJobs()


class TrainOperator(RemoteOperator):
    """Train the candidate for the run's partition by a TrainJob like that of the file `manifest`.

    Returns what done.json of the candidate holds; None where the champion is made of the very same inputs.
    """

    watch = TrainJobTrigger

    def __init__(self, *, manifest: str, **options: Any) -> None:
        super().__init__(**options)
        self.manifest = manifest

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Create the job, or find what an earlier try created, and defer; nothing of it where the candidate is there.

        Raises:
            DataNotReadyError: there are too few days of samples.
            LongreelError: the day cannot be trained for, the manifest is wrong, or the cluster refuses.
            TransientError: the cluster gives no answer.
        """
        from longreel.components import train, train_job
        from longreel.components.registry import tracking
        from longreel.components.retrain import plan

        home, day = self.parsed()
        done = plan(home, day, force=self.force == "True").done
        if done:
            self.log.info("version %d is made of these inputs and is the champion already", done)
            return None
        recipe, who = train.recipe_of(home, day), context["dag_run"]
        asked_by = dict(zip(tracking.AIRFLOW_NAMES, (who.dag_id, who.run_id), strict=True))
        body = train_job.manifest(Path(self.manifest), day, recipe.name, self.trigger, asked_by)
        self._end_another(context, train_job.run_id_of(body))
        self._run_id = train_job.run_id_of(body)
        found = TrainJobTrigger.server().submit(body, lambda: train.trained(home, recipe))
        if isinstance(found, train_job.TrainJob):
            self.wait_for(context, found.run_id)
        return asdict(found)

    def collect(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Called when the job has ended or its time is over.

        Raises:
            TransientError: it failed, was deleted, or trained what is not wanted any more.
            LongreelError: its candidate is not where this process looks, or the cluster refuses.
        """
        return asdict(TrainJobTrigger.server().collect(*self.parsed(), self.ended(event)))

    def _end_another(self, context: Any, run_id: str) -> None:
        """An earlier try's job whose candidate is not wanted any more, say since samples were corrected, leaves its
        nodes to this one's."""
        before = context["task_state_store"].get(RUN_KEY)
        if before and before != run_id:
            self.log.info("%s is not what the day asks for any more", before)
            TrainJobTrigger.server().terminate(str(before))
