"""One run a published samples partition: ask the freshness policy and, where it says so, train, judge and promote."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import BaseOperator, Param, PartitionedAssetTimetable, dag

from dags.notify import notifiers
from dags.settings import APPROVAL, DEFAULT_ARGS, HOME, KFP_HOST, SAMPLES, run_date, step
from operators.retrain import RetrainOperator

DOC = """
### longreel_train: is a training due, and if so, a new champion?

`due` asks the freshness policy (`[retrain]` in `longreel.toml`) about the day whose samples have just landed; "no"
skips the run. `retrain` runs the KFP pipeline train -> evaluate -> decide -> promote for that day, logged to MLflow.
With `LONGREEL_KFP_HOST` it runs on that server, and the task waits without holding a worker; a new try goes on with the
run that an earlier one began, and clearing or marking the deferred task terminates it.

With `LONGREEL_APPROVAL=1` a candidate that passed the gates waits: `proposal` shows the decision, `approve` asks a
person (Required Actions; no answer within three days is a rejection), `promote` moves the alias or leaves the champion,
and writes in the ledger who answered what, and why.
With `LONGREEL_NOTIFY_CONN` a webhook is told of every decision and failure.

**`retrain` failed.** Clear it: training goes on from its last checkpoint. **Train a day by hand:**
`longreel retrain --date 2026-01-09 --trigger manual`, or a manual run with that partition key through the REST API.
**A bad model went live:** `longreel rollback`.
"""

# What a person answered, as the step's environment: no word of theirs is ever read by a shell.
_SAID = "ti.xcom_pull(task_ids='approve')"
ANSWER = {
    "LONGREEL_ACTOR": "{{ (" + _SAID + "['responded_by_user'] or {'name': 'nobody in time'})['name'] }}",
    "LONGREEL_ANSWER": "{{ " + _SAID + "['chosen_options'][0] }}",
    "LONGREEL_REASON": "{{ " + _SAID + "['params_input'].get('reason') or '' }}",
}


def _retrain() -> BaseOperator:
    """The pipeline for the run's day: on the server that is configured, else in the task itself."""
    told: dict[str, Any] = {"on_success_callback": notifiers("longreel_train {{ dag_run.partition_key }}: judged")}
    if KFP_HOST:
        limits = {"timeout": timedelta(hours=12), "execution_timeout": timedelta(hours=13)}
        return RetrainOperator(task_id="retrain", home=HOME, promote=not APPROVAL, **limits, **told)
    return BashOperator(
        task_id="retrain",
        bash_command=step("retrain", "--trigger freshness" + " --no-promote" * APPROVAL),
        execution_timeout=timedelta(hours=12),
        **told,
    )


def _approved() -> BashOperator:
    """Ask a person about a candidate that passed the gates, then promote it; skipped where it did not pass."""
    proposal = BashOperator(
        task_id="proposal",
        bash_command=step("promote", "--dry-run"),  # its last line is what the person reads
        skip_on_exit_code=99,
        execution_timeout=timedelta(minutes=5),
    )
    approve = HITLOperator(
        task_id="approve",
        subject="Promote the candidate judged on {{ dag_run.partition_key }}?",
        body="{{ ti.xcom_pull(task_ids='proposal') }}",
        options=["Approve", "Reject"],
        defaults="Reject",
        params={"reason": Param(None, type=["null", "string"], description="why; the ledger keeps it")},
        response_timeout=timedelta(days=3),
        execution_timeout=timedelta(days=4),
        notifiers=notifiers("longreel_train {{ dag_run.partition_key }}: a candidate waits for approval"),
    )
    promote = BashOperator(
        task_id="promote",
        bash_command=step("promote", '--answer="$LONGREEL_ANSWER" --reason="$LONGREEL_REASON"'),
        env=ANSWER,
        append_env=True,
        execution_timeout=timedelta(minutes=15),
    )
    proposal >> approve >> promote
    return proposal


@dag(
    schedule=PartitionedAssetTimetable(assets=SAMPLES),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    catchup=False,
    max_active_runs=1,  # never two trainings at once
    default_args=DEFAULT_ARGS | {"retries": 1},
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_train() -> None:
    due = BashOperator(
        task_id="due",
        bash_command=step("due", ""),
        skip_on_exit_code=99,
        execution_timeout=timedelta(minutes=5),
    )
    retrain = _retrain()
    due >> retrain
    if APPROVAL:
        retrain >> _approved()


longreel_train()
