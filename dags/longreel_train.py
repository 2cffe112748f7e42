"""Training DAG: one run for each published samples day; trains if the freshness policy asks for it."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import BaseOperator, Param, PartitionedAssetTimetable, chain, dag

from longreel.dags.notify import notifiers
from longreel.dags.settings import APPROVAL, HOME, KFP_HOST, SAMPLES, TRAIN_JOB, TRAIN_POOL, run_date
from longreel.dags.steps import DEFAULT_ARGS, shell_safe, step
from longreel.operators.retrain import RetrainOperator
from longreel.operators.train import TrainOperator

DOC = """
### longreel_train: a new candidate, if the freshness policy asks for one

1. `should_retrain` evaluates the freshness policy (`[retrain]` in `longreel.toml`) for the day whose samples were just
   published. If the policy says no, the run is skipped. Events of a backfill or a correction always skip it.
2. `retrain` runs the KFP pipeline train, evaluate, decide, promote for that day and logs it to MLflow.

With `LONGREEL_KFP_HOST` the pipeline runs on that server and the task is deferred. A retry continues with the run that
an earlier try started. Clearing or marking the deferred task terminates the run.

With `LONGREEL_TRAIN_JOB` the task `train` first trains the candidate on several nodes with a TrainJob, also deferred.
`retrain` then uses that candidate.

With `LONGREEL_APPROVAL=1` a candidate that passed the gates needs approval. `proposal` shows the decision. `approve`
asks a person under Required Actions; no answer within three days counts as a rejection. `promote` moves the champion
alias or keeps the champion, and records the answer and its reason in the ledger.

With `LONGREEL_NOTIFY_CONN` a webhook receives every decision and failure.

**Train a day by hand:** Trigger, with the day to evaluate on, and *force* if the policy would say no. The pool
`longreel_train` allows one training at a time.

**A bad model went live:** `longreel model rollback`.
"""
SHOULD_RETRAIN = """
Its log gives the reason. Exit 99 (skipped): the policy says no. By hand: `longreel ops should-retrain --date DAY`.
"""
TRAIN = """
Trains the candidate with a TrainJob, which the log names. Failed: the message says how to read the pods' logs; the job
stays until the next try deletes it. Clear this task to continue from the last checkpoint. Clearing or marking the
deferred task deletes the job. "... do its pods and this process share the home": compare the volumes and
MLFLOW_TRACKING_URI of both.
"""
RETRAIN = """
Train, evaluate, decide, promote. Failed: clear it to continue from the last checkpoint. "... lies N days back": the
data are too old to train on; publish newer days, or trigger again with *force*. `reports/<day>/` holds the decision and
the run card.
"""
PROPOSAL = "Shows the decision. Skipped: the candidate did not pass the gates, so there is nothing to approve."
APPROVE = "Answer under Required Actions. After a rejection, or three days without an answer, the champion stays."
PROMOTE = """
Moves the alias `champion` or keeps it, and records the answer in the ledger. Failed: the champion changed in the
meantime; evaluate the candidate again.
"""

DAY = shell_safe('(dag_run.partition_key or params.date or "")')
PARAMS = {
    "date": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Day",
        description="Evaluate the candidate on this day, train it on the days before. Empty: the run's partition key, "
        "which a run that you trigger lacks unless you enter one.",
    ),
    "force": Param(
        False,
        type="boolean",
        title="Force",
        description="Train even if the policy says no or the data are older than it allows.",
    ),
}


def trigger_of(dag_run: Any, triggering_asset_events: Any) -> str:
    """Why the run exists: "manual", "freshness", or "backfill" or "correction", which start no training."""
    if dag_run.run_type.value == "manual":
        return "manual"
    run_types = {str((event.extra or {}).get("run_type")) for event in triggering_asset_events.get(SAMPLES, ())}
    if run_types and run_types <= {"backfill", "correction"}:
        return min(run_types)
    return "freshness"


TRIGGER = "{{ trigger_of(dag_run, triggering_asset_events) }}"
FORCE = "{{ ' --force' if params.force else '' }}"

# The person's answer, passed in the environment so that no shell ever parses it.
APPROVAL_XCOM = "ti.xcom_pull(task_ids='approve')"
ANSWER = {
    "LONGREEL_ACTOR": "{{ (" + APPROVAL_XCOM + "['responded_by_user'] or {'name': 'no answer in time'})['name'] }}",
    "LONGREEL_ANSWER": "{{ " + APPROVAL_XCOM + "['chosen_options'][0] }}",
    "LONGREEL_REASON": "{{ " + APPROVAL_XCOM + "['params_input'].get('reason') or '' }}",
}


def _train() -> BaseOperator:
    """The task that trains the candidate on several nodes."""
    return TrainOperator(
        task_id="train",
        manifest=TRAIN_JOB,
        home=HOME,
        day=DAY,
        trigger=TRIGGER,
        force="{{ params.force }}",
        timeout=timedelta(hours=13),  # the job stops itself after 12 h of training, after any wait for nodes
        execution_timeout=timedelta(hours=14),
        pool=TRAIN_POOL,
        doc_md=TRAIN,
    )


def _retrain() -> BaseOperator:
    """The task that runs the pipeline: on the configured server, else in the task itself."""
    options: dict[str, Any] = {"pool": TRAIN_POOL, "doc_md": RETRAIN}
    options |= {"on_success_callback": notifiers(f"longreel_train {DAY}: evaluated")}
    if KFP_HOST:
        return RetrainOperator(
            task_id="retrain",
            home=HOME,
            day=DAY,
            trigger=TRIGGER,
            promote=not APPROVAL,
            force="{{ params.force }}",
            timeout=timedelta(hours=12),
            execution_timeout=timedelta(hours=13),
            **options,
        )
    return BashOperator(
        task_id="retrain",
        bash_command=step("ops retrain", f"--trigger {TRIGGER}{FORCE}" + " --no-promote" * APPROVAL, DAY),
        execution_timeout=timedelta(hours=12),
        **options,
    )


def _approval() -> BashOperator:
    """The tasks that ask a person about a candidate that passed the gates, and then promote it."""
    proposal = BashOperator(
        task_id="proposal",
        bash_command=step("model promote", "--dry-run", DAY),  # the person reads its last line
        skip_on_exit_code=99,
        execution_timeout=timedelta(minutes=5),
        doc_md=PROPOSAL,
    )
    approve = HITLOperator(
        task_id="approve",
        subject=f"Promote the candidate evaluated on {DAY}?",
        body="{{ ti.xcom_pull(task_ids='proposal') }}",
        options=["Approve", "Reject"],
        defaults="Reject",
        params={"reason": Param(None, type=["null", "string"], description="recorded in the promotion ledger")},
        response_timeout=timedelta(days=3),
        execution_timeout=timedelta(days=4),
        notifiers=notifiers(f"longreel_train {DAY}: a candidate waits for approval"),
        doc_md=APPROVE,
    )
    promote = BashOperator(
        task_id="promote",
        bash_command=step("model promote", '--answer="$LONGREEL_ANSWER" --reason="$LONGREEL_REASON"', DAY),
        env=ANSWER,
        append_env=True,
        execution_timeout=timedelta(minutes=15),
        doc_md=PROMOTE,
    )
    proposal >> approve >> promote
    return proposal


@dag(
    schedule=PartitionedAssetTimetable(assets=SAMPLES),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    catchup=False,
    max_active_runs=1,  # never two trainings at once; the pool also keeps out other DAGs
    default_args=DEFAULT_ARGS,  # a scheduler that takes over from a dead one uses up a try
    params=PARAMS,
    user_defined_macros={"trigger_of": trigger_of},
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_train() -> None:
    should_retrain = BashOperator(
        task_id="should_retrain",
        bash_command=step("ops should-retrain", f"--trigger {TRIGGER}{FORCE}", DAY),
        skip_on_exit_code=99,
        execution_timeout=timedelta(minutes=5),
        doc_md=SHOULD_RETRAIN,
    )
    retrain = _retrain()
    chain(should_retrain, *([_train()] if TRAIN_JOB else []), retrain)
    if APPROVAL:
        retrain >> _approval()


longreel_train()
