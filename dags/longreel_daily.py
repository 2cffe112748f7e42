"""One run a log day: raw rows -> events -> samples, then an asset event that says the day's samples are there."""

from datetime import timedelta
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import CronPartitionTimetable, dag, task

from dags.settings import CRON, DEFAULT_ARGS, HOME, REPOSITORY, SAMPLES, TIMEZONE, run_date

DOC = """
### longreel_daily: one log day

`ingest` reads the raw day, validates it (Great Expectations; Data Docs under `reports/<day>/`) and publishes the
events, users and quarantine partitions. `build_samples` merges the day with each active user's history into
request-level samples. `announce` emits the asset event `longreel_samples` for the day, which wakes `longreel_train`.

**A task failed.** Every step is idempotent: clear it and it runs again. Exit 3: the raw day or an earlier day's events
are not there yet; wait, or run the missing day. Exit 4: the quality checkpoint stopped the day; read
`reports/<day>/quality-*.json`, mend the raw day, clear the task. Where the day is unlike the days before it and yet
right, run the step by hand with `--accept-drift`, then clear the task. Nothing half-written is ever visible.

**One day again:** `airflow dags clear longreel_daily --partition-key 2026-01-05 -y`. **Many days:**
`airflow backfill create --dag-id longreel_daily --from-date A --to-date B` (both inclusive).
"""


def spark_step(name: str, minutes: int) -> SparkSubmitOperator:
    """A Spark step of the run's log day, submitted through the connection `spark_default`."""
    return SparkSubmitOperator(
        task_id=name.replace("-", "_"),
        name=f"longreel {name}",
        application=str(REPOSITORY / "longreel" / "__main__.py"),
        application_args=[name, "--home", HOME, "--date", "{{ dag_run.partition_key }}"],
        execution_timeout=timedelta(minutes=minutes),
    )


@dag(
    schedule=CronPartitionTimetable(CRON, timezone=TIMEZONE, run_offset=-1, key_format="%Y-%m-%d"),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    end_date=run_date("LONGREEL_LAST_DAY"),
    catchup=True,
    max_active_runs=1,  # a day's history is the days before it
    default_args=DEFAULT_ARGS,
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_daily() -> None:
    @task(outlets=[SAMPLES], execution_timeout=timedelta(minutes=5))
    def announce(*, partition_key: Any = None, outlet_events: Any = None, dag_run: Any = None) -> dict[str, Any]:
        from datetime import date

        from contracts.home import Home

        manifest = Home.locate(HOME).lake.require("samples", date.fromisoformat(partition_key))
        facts = {"digest": manifest.digest, "rows": manifest.rows, "counts": manifest.counts}
        facts["warnings"] = manifest.details.get("warnings", [])
        outlet_events[SAMPLES].extra = facts | {"run_type": dag_run.run_type.value}
        return facts

    spark_step("ingest", 120) >> spark_step("build-samples", 240) >> announce()


longreel_daily()
