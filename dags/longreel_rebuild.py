"""Corrected, late or missing days: brings a range up to date, one Spark job a step, and leaves unchanged days alone."""

import json
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronTriggerTimetable, Param, PartitionedAtRuntime, dag, task

from longreel.dags.settings import HOME, REBUILD_CRON, SAMPLES, TIMEZONE, run_date
from longreel.dags.steps import DEFAULT_ARGS, facts_of, spark_step, step

DOC = """
### longreel_rebuild: a corrected day, a missing day, a range of days

Trigger it with the first day that is to be looked at, and perhaps the last. `outdated` compares raw days with what
their events were made from, and samples with what they were made from; `ingest` and `build_samples` then bring all of
it up to date from the first outdated day to the last published one, each as one Spark job, and leave unchanged days
as they are. `announce` emits an asset event for every day whose samples are other ones now, and only those.

**A correction trains nothing.** The policy is asked about a training once, for the newest day that was not published
before; where all of them were, nobody is asked, and the next new day is asked about as usual. A rebuild that
`longreel_daily` starts, for what a cleared or backfilled day has made stale, asks about none.

Without a first day it looks at the newest seven days, and skips where nothing is outdated; `LONGREEL_REBUILD_CRON`
makes it do so on a schedule.

**A task failed:** clear it rather than trigger anew, so that what was rebuilt before it failed is announced too.

**Which backfill?** This one is cheaper for many days. `airflow backfill create --dag-id longreel_daily` gives every
day a run of its own, in either order, and can redo only failed ones.
"""
OUTDATED = """
Which days, and why: read its log. Skipped: nothing is outdated. Exit 3: a day of the range has no raw log.
"""
INGEST = "As in longreel_daily, for the range. Exit 4: mend the raw day, or trigger again with *accept drift*."
BUILD = "As in longreel_daily, for the range: one Spark job for up to 64 days. What was built before a failure stays."
CHANGED = "The days whose samples have another digest now than before, and which of them asks for a training."
ANNOUNCE = """
One task and one asset event for each changed day. `rebuild`: the newest that was not published before, about which the
policy is asked unless `longreel_daily` started this; `backfill`: the others that were not; `correction`: those that
were. The latter two train nothing.
"""

RANGE = "{{ ti.xcom_pull(task_ids='outdated')['%s'] }}"
DRIFT = "{{ '--accept-drift' if params.accept_drift else '--no-accept-drift' }}"
DAYS = ("--start", RANGE % "start", "--end", RANGE % "end", DRIFT)
PARAMS = {
    "start": Param(
        None,
        type=["null", "string"],
        format="date",
        title="First day",
        description="The corrected, late or missing day, or the first of many. Empty: what is outdated of the newest.",
    ),
    "end": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Last day",
        description="Days to look at end here; days after it are built anew where they are made from changed ones. "
        "Empty: the last published day.",
    ),
    "accept_drift": Param(
        False,
        type="boolean",
        title="Accept drift",
        description="Publish days that are unlike the days before them; recorded as a warning.",
    ),
}


def kinds_of(was: dict[str, str], now: dict[str, str], asks: bool) -> list[dict[str, str]]:
    """The days of which a digest is another one now, oldest first, and the kind of event that each is told by."""
    newest = max(now.keys() - was.keys(), default="") if asks else ""

    def kind(day: str) -> str:
        return "correction" if day in was else "rebuild" if day == newest else "backfill"

    return [{"day": day, "run_type": kind(day)} for day in sorted(now) if now[day] != was.get(day)]


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
    asked = "--start '{{ params.start or '' }}' --end '{{ params.end or '' }}'"
    outdated = BashOperator(
        task_id="outdated",
        bash_command=step("outdated", asked, day=""),
        output_processor=json.loads,  # its last line
        skip_on_exit_code=99,
        execution_timeout=timedelta(hours=1),
        doc_md=OUTDATED,
    )

    @task(execution_timeout=timedelta(minutes=5), doc_md=CHANGED)
    def changed(*, ti: Any = None, dag_run: Any = None) -> list[dict[str, str]]:
        from datetime import date

        from longreel.lake.home import Home

        was = ti.xcom_pull(task_ids="outdated")
        lake, start, end = Home.locate(HOME).lake, date.fromisoformat(was["start"]), date.fromisoformat(was["end"])
        now = {str(day): lake.require("samples", day).digest for day in lake.days("samples") if start <= day <= end}
        # One that longreel_daily started asks about none: each new day is asked about, or not, by its own daily run.
        return kinds_of(was["digests"], now, asks=dag_run.run_type.value != "operator_triggered")

    @task(outlets=[SAMPLES], execution_timeout=timedelta(minutes=5), doc_md=ANNOUNCE)
    def announce(day: str, run_type: str, *, outlet_events: Any = None) -> dict[str, Any]:
        outlet_events[SAMPLES].add_partitions(day)
        outlet_events[SAMPLES].extra = facts = facts_of(day, run_type)
        return facts

    days = changed()
    ingested = outdated >> spark_step("ingest", 600, INGEST, DAYS)
    ingested >> spark_step("build-samples", 600, BUILD, (*DAYS, "--ingest-missing")) >> days
    announce.expand_kwargs(days)


longreel_rebuild()
