"""Is something for somebody to act on? A day that never came makes no run that could fail, so this looks for it."""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronTriggerTimetable, dag

from longreel.dags.settings import TIMEZONE, WATCH_CRON, run_date
from longreel.dags.steps import DEFAULT_ARGS, step

DOC = """
### longreel_watch: is something for somebody to act on?

`look` prints `longreel status` and fails where a line of it is red: the newest samples are older than `[retrain]
max_data_age_days`, a day between others is missing, samples are stale, a checkpoint stopped a day, a request to forget
users is unfinished. With `LONGREEL_NOTIFY_CONN` its failure is told. A log that has ended is not watched.
"""


@dag(
    # A log that has ended (LONGREEL_LAST_DAY) gets older every day, and nobody is to act on that.
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
        task_id="look",
        bash_command=step("status", "--check", day=""),
        execution_timeout=timedelta(minutes=15),
        doc_md="Failed: act on the red lines at the end of the log; docs/airflow.md says how for each.",
    )


longreel_watch()
