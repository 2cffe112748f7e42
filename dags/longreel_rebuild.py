"""Rebuild DAG: brings corrected, late or missing days up to date, one Spark job for each step."""

import json
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronTriggerTimetable, Param, PartitionedAtRuntime, dag, task

from longreel.dags.settings import HOME, REBUILD_CRON, SAMPLES, TIMEZONE, run_date
from longreel.dags.steps import DEFAULT_ARGS, asset_extra, spark_step, step

DOC = """
### longreel_rebuild: corrected, late or missing days

Trigger it with the first day to check and, if needed, the last.

1. `stale` compares raw days with the inputs of their events, and samples with theirs.
2. `ingest` and `build_samples` update every day from the first stale one to the last published one, each in one Spark
   job. Unchanged days stay as they are.
3. `announce` emits an asset event for each day whose samples changed.

**A correction starts no training.** The freshness policy is evaluated once, for the newest day that was not published
before. If all days were published before, it is evaluated for the next new day as usual. A rebuild that
`longreel_daily` starts does not evaluate it.

Without a first day it checks the newest seven days, and skips if nothing is stale. `LONGREEL_REBUILD_CRON` runs it on a
schedule.

**A task failed:** clear it instead of triggering a new run. Then days rebuilt before the failure are announced too.

**Rebuild or backfill?** This DAG is cheaper for many days. `airflow backfill create --dag-id longreel_daily` gives each
day its own run, in either order, and can repeat only failed days.
"""
STALE = """
Its log lists the stale days and the reasons. Skipped: nothing is stale. Exit 3: a day of the range has no raw log.
"""
INGEST = "As in longreel_daily, for the range. Exit 4: fix the raw day, or trigger again with *accept drift*."
BUILD_SAMPLES = (
    "As in longreel_daily, for the range: one Spark job for up to 64 days. Days built before a failure stay."
)
CHANGED_DAYS = "Lists the days whose samples have a new digest, and the day for which the policy is evaluated."
ANNOUNCE = """
One task and one asset event for each changed day. Kinds of event: `rebuild` is the newest day that was not published
before, for which the policy is evaluated unless `longreel_daily` started this run. `backfill` is another new day.
`correction` is a day that was published before. The latter two start no training.
"""

RANGE = "{{ ti.xcom_pull(task_ids='stale')['%s'] }}"
DRIFT = "{{ '--accept-drift' if params.accept_drift else '--no-accept-drift' }}"
DAYS = ("--start", RANGE % "start", "--end", RANGE % "end", DRIFT)
PARAMS = {
    "start": Param(
        None,
        type=["null", "string"],
        format="date",
        title="First day",
        description="The corrected, late or missing day, or the first of several. Empty: check the newest days.",
    ),
    "end": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Last day",
        description="The last day to check; days after it are rebuilt if they depend on a changed day. "
        "Empty: the last published day.",
    ),
    "accept_drift": Param(
        False,
        type="boolean",
        title="Accept drift",
        description="Publish days that are unlike the days before them, with a warning.",
    ),
}


def event_kinds(before: dict[str, str], after: dict[str, str], ask_policy: bool) -> list[dict[str, str]]:
    """The days whose samples digest changed, oldest first, each with the `run_type` of its asset event.

    :param before: samples digest by day, before the rebuild
    :param after: the same, after it
    :param ask_policy: whether the newest new day may start a training
    """
    newest = max(after.keys() - before.keys(), default="") if ask_policy else ""

    def kind(day: str) -> str:
        return "correction" if day in before else "rebuild" if day == newest else "backfill"

    return [{"day": day, "run_type": kind(day)} for day in sorted(after) if after[day] != before.get(day)]


@dag(
    schedule=CronTriggerTimetable(REBUILD_CRON, timezone=TIMEZONE) if REBUILD_CRON else PartitionedAtRuntime(),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_rebuild() -> None:
    options = "--start '{{ params.start or '' }}' --end '{{ params.end or '' }}'"
    stale = BashOperator(
        task_id="stale",
        bash_command=step("data stale", options, day=""),
        output_processor=json.loads,  # of the last line of output
        skip_on_exit_code=99,
        execution_timeout=timedelta(hours=1),
        doc_md=STALE,
    )

    @task(execution_timeout=timedelta(minutes=5), doc_md=CHANGED_DAYS)
    def changed_days(*, ti: Any = None, dag_run: Any = None) -> list[dict[str, str]]:
        from datetime import date

        from longreel.lake.home import Home

        plan = ti.xcom_pull(task_ids="stale")
        lake, start, end = Home.locate(HOME).lake, date.fromisoformat(plan["start"]), date.fromisoformat(plan["end"])
        digests = {str(day): lake.require("samples", day).digest for day in lake.days("samples") if start <= day <= end}
        # A run that longreel_daily started never evaluates the policy: each new day has its own daily run, which does.
        return event_kinds(plan["digests"], digests, ask_policy=dag_run.run_type.value != "operator_triggered")

    @task(outlets=[SAMPLES], execution_timeout=timedelta(minutes=5), doc_md=ANNOUNCE)
    def announce(day: str, run_type: str, *, outlet_events: Any = None) -> dict[str, Any]:
        outlet_events[SAMPLES].add_partitions(day)
        outlet_events[SAMPLES].extra = extra = asset_extra(day, run_type)
        return extra

    days = changed_days()
    ingested = stale >> spark_step("data ingest", 600, INGEST, DAYS)
    ingested >> spark_step("data build-samples", 600, BUILD_SAMPLES, (*DAYS, "--ingest-missing")) >> days
    announce.expand_kwargs(days)


longreel_rebuild()
