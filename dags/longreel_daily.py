"""Daily DAG: one run for each log day, from raw log to samples and an asset event."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronPartitionTimetable, dag, task
from airflow.sdk.definitions.callback import AsyncCallback  # airflow.sdk has these three, but its stub file lacks them
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from longreel.dags.notify import notify_late
from longreel.dags.settings import (
    ARRIVAL,
    ARRIVAL_POLL,
    CRON,
    DEADLINE,
    SAMPLES,
    STANDARD_TIME,
    run_date,
)
from longreel.dags.steps import DAY, DEFAULT_ARGS, asset_extra, first_stale, spark_step, step
from longreel.operators.arrival import RawDaySensor

DOC = """
### longreel_daily: one log day

1. `check_arrival` waits for the raw log day.
2. `ingest` validates the day and publishes its events, users and quarantine partitions.
3. `build_samples` joins the day with each active user's history into request-level samples.
4. `announce` emits the asset event `longreel_samples` for the day, which starts `longreel_train`.
5. `stale` checks whether this run made later days stale, as a corrected day does. If so, `rebuild` starts
   `longreel_rebuild` for them.

Days run in order, one at a time. Every step is idempotent and skips what has not changed: clear a task to run it again.
Readers never see half-written data. Each task's notes explain its failures.

**Many days:** use Trigger or Backfill, or `airflow backfill create --dag-id longreel_daily --from-date A --to-date B`.
The order of the days does not matter. A backfill starts no training.

**A corrected raw day:** run `longreel_rebuild`, because later days depend on it. Clearing the day here does the same.
"""
CHECK_ARRIVAL = """
Waits for the raw log day without holding a worker. Failed: the day did not arrive within `LONGREEL_ARRIVAL_HOURS`;
clear this task once it is there. Exit 2: the raw log or its configuration is wrong; the log gives the details.
"""
INGEST = """
Turns raw rows into events and accounts for every row. Great Expectations writes Data Docs to `reports/<day>/data-docs`.

Exit 4: the quality checkpoint stopped the day. Read `reports/<day>/quality-events.json`, fix the raw day and clear the
task. If the day is right but unlike the days before it, run `longreel_rebuild` from it with *accept drift*, then clear
the task. Exit 3: the raw day is no longer there.
"""
BUILD_SAMPLES = """
Turns events and history into one row for each user and day. It first ingests missing days between the first published
day, or a history snapshot, and this day, so days may run in any order. Exit 3: the raw log of one of them has not
arrived; the log names it. Exit 4: as for `ingest`, with `quality-samples.json`.
"""
ANNOUNCE = """
Emits the asset event of the day with digest, rows, users, watermark and warnings. Clear it to emit the event again, for
example after `longreel_train` was paused (a paused DAG loses events). An unchanged day is never trained on twice.
"""
STALE = "Finds the first day whose samples were built from events that have changed since. Skips `rebuild` if none."
REBUILD = "Starts `longreel_rebuild` from the first stale day and does not wait for it. That DAG must not be paused."


@dag(
    schedule=CronPartitionTimetable(CRON, timezone=STANDARD_TIME, run_offset=-1, key_format="%Y-%m-%d"),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    end_date=run_date("LONGREEL_LAST_DAY", last=True),
    catchup=True,
    max_active_runs=1,  # a day's history consists of the days before it
    default_args=DEFAULT_ARGS,
    deadline=DeadlineAlert(
        # Not DAGRUN_QUEUED_AT: Airflow 3.3.2 cannot clear a run whose deadline has not passed yet (TypeError in
        # _recalculate_dagrun_queued_at_deadlines); nor DAGRUN_LOGICAL_DATE, which a partitioned run lacks.
        reference=DeadlineReference.AVERAGE_RUNTIME(max_runs=10, min_runs=1),
        interval=DEADLINE,
        callback=AsyncCallback(notify_late),
        name="samples of the day",
    ),
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_daily() -> None:
    @task(outlets=[SAMPLES], execution_timeout=timedelta(minutes=5), doc_md=ANNOUNCE)
    def announce(*, partition_key: Any = None, outlet_events: Any = None, dag_run: Any = None) -> dict[str, Any]:
        outlet_events[SAMPLES].extra = extra = asset_extra(partition_key, dag_run.run_type.value)
        return extra

    stale = task.short_circuit(task_id="stale", execution_timeout=timedelta(minutes=5), doc_md=STALE)(first_stale)()
    rebuild = TriggerDagRunOperator(
        task_id="rebuild",
        trigger_dag_id="longreel_rebuild",
        logical_date=None,
        conf={"start": "{{ ti.xcom_pull(task_ids='stale') }}"},
        execution_timeout=timedelta(minutes=5),
        doc_md=REBUILD,
    )
    arrival = RawDaySensor(
        task_id="check_arrival",
        bash_command=step("data check-arrival"),
        poke_interval=ARRIVAL_POLL,
        timeout=ARRIVAL,
        execution_timeout=timedelta(minutes=15),
        doc_md=CHECK_ARRIVAL,
    )
    ingested = arrival >> spark_step("data ingest", 120, INGEST)
    built = ingested >> spark_step("data build-samples", 240, BUILD_SAMPLES, ("--date", DAY, "--ingest-missing"))
    built >> announce() >> stale >> rebuild


longreel_daily()
