"""One run a log day: its raw log has arrived -> events -> samples, then an asset event that says they are there."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import AsyncCallback, CronPartitionTimetable, DeadlineAlert, DeadlineReference, dag, task

from longreel.dags.notify import late
from longreel.dags.settings import (
    ARRIVAL,
    ARRIVAL_POLL,
    CRON,
    DEADLINE,
    SAMPLES,
    TIMEZONE,
    run_date,
)
from longreel.dags.steps import DAY, DEFAULT_ARGS, facts_of, first_stale, spark_step, step
from longreel.operators.arrival import RawDaySensor

DOC = """
### longreel_daily: one log day

`arrived` waits for the raw day. `ingest` validates it and publishes the events, users and quarantine partitions.
`build_samples` merges the day with each active user's history into request-level samples. `announce` emits the asset
event `longreel_samples` for the day, which wakes `longreel_train`. Days run in order, one at a time. `stale` looks
whether this run has left later days outdated, as a corrected day does that was cleared here, alone or with others in
whatever order; then `rebuild` starts `longreel_rebuild` for them.

Every step is idempotent and leaves what has not changed as it is: clear a task and it runs again. Nothing half-written
is ever visible. Each task's own notes say what its failures mean.

**Many days:** Trigger, Backfill, or `airflow backfill create --dag-id longreel_daily --from-date A --to-date B`, in
either order or side by side. A backfill trains nothing. **A corrected raw day:** `longreel_rebuild`, since days after
it are made from it too; or clear the day here, which comes to the same.
"""
ARRIVED = """
Waits for the raw log day, holding no worker. Failed: it did not come in time (`LONGREEL_ARRIVAL_HOURS`). Once it is
there, clear this task. Exit 2: the raw log or its configuration is wrong; the log says how.
"""
INGEST = """
Raw rows -> events, with every row accounted for; Great Expectations' Data Docs under `reports/<day>/data-docs`.

Exit 4: the quality checkpoint stopped the day; read `reports/<day>/quality-events.json`, mend the raw day, clear the
task. Is the day right though unlike the days before it: run `longreel_rebuild` from it with *accept drift*, then clear
the task. Exit 3: the raw day is gone again.
"""
BUILD = """
Events and history -> one row a user and day. Events that are missing between the first published day, or a history
base, and this one are ingested first, so days may run in any order. Exit 3: the raw log of one of them has not arrived;
the log names it. Exit 4: as for `ingest`, with `quality-samples.json`, or of an earlier day that was ingested here.
"""
ANNOUNCE = """
Emits the asset event of the day: digest, rows, users, watermark, warnings. Clear it to emit the event again, say
because `longreel_train` was paused (a paused DAG loses events). An event of unchanged samples trains nothing twice.
"""
STALE = "The first day whose samples were built from events that have changed since. Skips what follows: there is none."
REBUILD = "Starts `longreel_rebuild` from the first stale day, and does not wait for it. It has to be unpaused."


@dag(
    schedule=CronPartitionTimetable(CRON, timezone=TIMEZONE, run_offset=-1, key_format="%Y-%m-%d"),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    end_date=run_date("LONGREEL_LAST_DAY", last=True),
    catchup=True,
    max_active_runs=1,  # a day's history is the days before it
    default_args=DEFAULT_ARGS,
    deadline=DeadlineAlert(
        # Not DAGRUN_QUEUED_AT: Airflow 3.3.2 cannot clear a run whose deadline by that is still to come (TypeError in
        # _recalculate_dagrun_queued_at_deadlines); nor DAGRUN_LOGICAL_DATE, which a partitioned run has not.
        reference=DeadlineReference.AVERAGE_RUNTIME(max_runs=10, min_runs=1),
        interval=DEADLINE,
        callback=AsyncCallback(late),
        name="samples of the day",
    ),
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_daily() -> None:
    @task(outlets=[SAMPLES], execution_timeout=timedelta(minutes=5), doc_md=ANNOUNCE)
    def announce(*, partition_key: Any = None, outlet_events: Any = None, dag_run: Any = None) -> dict[str, Any]:
        outlet_events[SAMPLES].extra = facts = facts_of(partition_key, dag_run.run_type.value)
        return facts

    stale = task.short_circuit(first_stale, task_id="stale", execution_timeout=timedelta(minutes=5), doc_md=STALE)()
    rebuild = TriggerDagRunOperator(
        task_id="rebuild",
        trigger_dag_id="longreel_rebuild",
        logical_date=None,
        conf={"start": "{{ ti.xcom_pull(task_ids='stale') }}"},
        execution_timeout=timedelta(minutes=5),
        doc_md=REBUILD,
    )
    arrived = RawDaySensor(
        task_id="arrived",
        bash_command=step("arrived"),
        poke_interval=ARRIVAL_POLL,
        timeout=ARRIVAL,
        execution_timeout=timedelta(minutes=15),
        doc_md=ARRIVED,
    )
    ingested = arrived >> spark_step("ingest", 120, INGEST)
    built = ingested >> spark_step("build-samples", 240, BUILD, ("--date", DAY, "--ingest-missing"))
    built >> announce() >> stale >> rebuild


longreel_daily()
