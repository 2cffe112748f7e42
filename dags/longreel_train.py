"""One run a published samples partition: ask the freshness policy and, where it says so, train, judge and promote."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import BaseOperator, Param, PartitionedAssetTimetable, chain, dag

from longreel.dags.notify import notifiers
from longreel.dags.settings import APPROVAL, HOME, KFP_HOST, SAMPLES, TRAIN_JOB, TRAIN_POOL, run_date
from longreel.dags.steps import DEFAULT_ARGS, one_word, step
from longreel.operators.retrain import RetrainOperator
from longreel.operators.train import TrainOperator

DOC = """
### longreel_train: is a training due, and if so, a new champion?

`due` asks the freshness policy (`[retrain]` in `longreel.toml`) about the day whose samples have just landed; "no"
skips the run, and so does an event of a backfill or of a correction. `retrain` runs the KFP pipeline train -> evaluate
-> decide -> promote for that day, logged to MLflow. With `LONGREEL_KFP_HOST` it runs on that server, and the task waits
without holding a worker; a new try goes on with the run that an earlier one began, and clearing or marking the deferred
task terminates it.

With `LONGREEL_TRAIN_JOB` a task before that, `train`, trains the candidate by a TrainJob on several nodes, waited for
in the same way; `retrain` finds it trained.

With `LONGREEL_APPROVAL=1` a candidate that passed the gates waits: `proposal` shows the decision, `approve` asks a
person (Required Actions; no answer within three days is a rejection), `promote` moves the alias or leaves the champion,
and writes in the ledger who answered what, and why.
With `LONGREEL_NOTIFY_CONN` a webhook is told of every decision and failure.

**Train a day by hand:** Trigger, with the day that the candidate is to be judged on, and *force* where the policy would
say no. There is one training at a time, whoever asks (the pool `longreel_train`).

**A bad model went live:** `longreel rollback`.
"""
DUE = "Its log says why, or why not. Exit 99 (skipped): not due. `longreel due --date DAY` answers the same by hand."
TRAIN = """
Trains the candidate by a TrainJob, which its log names. Failed: the message says how to read the pods' logs; the job
stays to be looked at until the next try deletes it. Clear this task, and training goes on from its last checkpoint.
Clearing or marking it while it is deferred deletes the job. "... do its pods and this process share the home": see
the volumes and MLFLOW_TRACKING_URI of both.
"""
RETRAIN = """
Train, evaluate, decide, promote. Failed: clear it, and training goes on from its last checkpoint. "... lies N days
back": no training on old data; publish newer days, or trigger again with *force*. `reports/<day>/` has the decision and
the run card.
"""
PROPOSAL = "Shows the decision. Skipped: the candidate did not pass the gates, so there is nothing to approve."
APPROVE = "Answer under Required Actions. Rejected or not answered within three days: the champion stays."
PROMOTE = """
Moves the alias `champion`, or leaves it, and writes in the ledger who answered what. Failed: somebody changed the
champion; judge again.
"""

DAY = one_word('(dag_run.partition_key or params.date or "")')
PARAMS = {
    "date": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Day",
        description="Judge the candidate on this day, train it on those before. Empty: the run's partition key.",
    ),
    "force": Param(
        False,
        type="boolean",
        title="Force",
        description="Train though the policy does not ask for it, and though the data are older than it allows.",
    ),
}


def trigger_of(dag_run: Any, triggering_asset_events: Any) -> str:
    """What asks: a person, fresh samples, or nothing but events that train nothing, of which there are two kinds."""
    if dag_run.run_type.value == "manual":
        return "manual"
    kinds = {(event.extra or {}).get("run_type") for event in triggering_asset_events.get(SAMPLES, ())}
    return min(kinds) if kinds and kinds <= {"backfill", "correction"} else "freshness"


TRIGGER = "{{ trigger_of(dag_run, triggering_asset_events) }}"
FORCE = "{{ ' --force' if params.force else '' }}"

# What a person answered, as the step's environment: no word of theirs is ever read by a shell.
_SAID = "ti.xcom_pull(task_ids='approve')"
ANSWER = {
    "LONGREEL_ACTOR": "{{ (" + _SAID + "['responded_by_user'] or {'name': 'nobody in time'})['name'] }}",
    "LONGREEL_ANSWER": "{{ " + _SAID + "['chosen_options'][0] }}",
    "LONGREEL_REASON": "{{ " + _SAID + "['params_input'].get('reason') or '' }}",
}


def _train() -> BaseOperator:
    """The candidate for the run's day, on several nodes."""
    return TrainOperator(
        task_id="train",
        manifest=TRAIN_JOB,
        home=HOME,
        day=DAY,
        trigger=TRIGGER,
        force="{{ params.force }}",
        timeout=timedelta(hours=13),  # the job ends itself after 12 h of training, and may have waited for its nodes
        execution_timeout=timedelta(hours=14),
        pool=TRAIN_POOL,
        doc_md=TRAIN,
    )


def _retrain() -> BaseOperator:
    """The pipeline for the run's day: on the server that is configured, else in the task itself."""
    about: dict[str, Any] = {"pool": TRAIN_POOL, "doc_md": RETRAIN}
    about |= {"on_success_callback": notifiers(f"longreel_train {DAY}: judged")}
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
            **about,
        )
    return BashOperator(
        task_id="retrain",
        bash_command=step("retrain", f"--trigger {TRIGGER}{FORCE}" + " --no-promote" * APPROVAL, DAY),
        execution_timeout=timedelta(hours=12),
        **about,
    )


def _approved() -> BashOperator:
    """Ask a person about a candidate that passed the gates, then promote it; skipped where it did not pass."""
    proposal = BashOperator(
        task_id="proposal",
        bash_command=step("promote", "--dry-run", DAY),  # its last line is what the person reads
        skip_on_exit_code=99,
        execution_timeout=timedelta(minutes=5),
        doc_md=PROPOSAL,
    )
    approve = HITLOperator(
        task_id="approve",
        subject=f"Promote the candidate judged on {DAY}?",
        body="{{ ti.xcom_pull(task_ids='proposal') }}",
        options=["Approve", "Reject"],
        defaults="Reject",
        params={"reason": Param(None, type=["null", "string"], description="why; the ledger keeps it")},
        response_timeout=timedelta(days=3),
        execution_timeout=timedelta(days=4),
        notifiers=notifiers(f"longreel_train {DAY}: a candidate waits for approval"),
        doc_md=APPROVE,
    )
    promote = BashOperator(
        task_id="promote",
        bash_command=step("promote", '--answer="$LONGREEL_ANSWER" --reason="$LONGREEL_REASON"', DAY),
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
    max_active_runs=1,  # never two trainings at once; the pool holds it against whatever else may use it
    default_args=DEFAULT_ARGS,  # a scheduler that takes over a dead one's training uses a try up
    params=PARAMS,
    user_defined_macros={"trigger_of": trigger_of},
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_train() -> None:
    due = BashOperator(
        task_id="due",
        bash_command=step("due", f"--trigger {TRIGGER}{FORCE}", DAY),
        skip_on_exit_code=99,
        execution_timeout=timedelta(minutes=5),
        doc_md=DUE,
    )
    retrain = _retrain()
    chain(due, *([_train()] if TRAIN_JOB else []), retrain)
    if APPROVAL:
        retrain >> _approved()


longreel_train()
