"""Verification DAG: reads a part of the lake to its end every day, so that all of it is read once in four weeks."""

from airflow.sdk import CronTriggerTimetable, dag

from longreel.dags.settings import TIMEZONE, run_date
from longreel.dags.steps import DEFAULT_ARGS, spark_step

CRON = "0 4 * * *"
DAYS = "28"  # in which every partition is verified once
DOC = """
### longreel_verify: is the lake what was published?

`verify` runs `longreel data verify --part-of 28`: it reads the partitions whose turn it is today, checks each page
against its checksum, and compares the content digests with the manifests. It changes nothing.

It fails if a partition is damaged. The end of the log names each one and says what to do.
"""


@dag(
    schedule=None if run_date("LONGREEL_LAST_DAY") else CronTriggerTimetable(CRON, timezone=TIMEZONE),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_verify() -> None:
    doc = "Failed: the end of the log names what is damaged, and what to do."
    spark_step("data verify", 600, doc, days=("--part-of", DAYS))


longreel_verify()
