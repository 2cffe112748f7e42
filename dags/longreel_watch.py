"""Monitoring DAG: fails if the pipeline needs attention, including a day that never arrived and so made no run."""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronTriggerTimetable, dag

from longreel.dags.settings import TIMEZONE, WATCH_CRON, run_date
from longreel.dags.steps import DEFAULT_ARGS, step

DOC = """
### longreel_watch: does the pipeline need attention?

`check_status` runs `longreel ops status --check` and fails if a line is red:

- the newest samples are older than `[retrain] max_data_age_days`,
- a day between published days is missing,
- the last ingest or build of a day failed,
- a raw day arrived two hours ago or more, nothing was published since, and it was not ingested,
- the raw log of a published day changed,
- events or samples are stale,
- a checkpoint stopped a day,
- an erasure request is unfinished,
- the alias `champion` was moved in MLflow, or the champion, a version or a ledger entry there cannot be read.

With `LONGREEL_NOTIFY_CONN` a webhook receives the failure. A log that has ended is not watched.
"""


@dag(
    # A log that has ended (LONGREEL_LAST_DAY) gets older every day, which needs no action.
    schedule=None if run_date("LONGREEL_LAST_DAY") else CronTriggerTimetable(WATCH_CRON, timezone=TIMEZONE),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"retries": 1},
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_watch() -> None:
    BashOperator(
        task_id="check_status",
        bash_command=step("ops status", "--check", day=""),
        execution_timeout=timedelta(minutes=15),
        doc_md="Failed: act on the red lines at the end of the log; docs/airflow.md explains each.",
    )


longreel_watch()
