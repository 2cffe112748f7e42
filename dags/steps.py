"""How does a task run a step of the command line? As a process, or submitted to Spark; with which defaults; and how is
its day announced, and what has it made outdated?
"""

import sys
from datetime import timedelta
from shlex import quote
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

from longreel.dags.notify import notifiers
from longreel.dags.settings import HOME, REPOSITORY, SPARK_POOL
from longreel.operators.retries import UntilSomebodyMends


def one_word(expression: str) -> str:
    """A template that cannot end the quotes of a command line, whatever key a run was triggered with."""
    return f"""{{{{ {expression} | replace("'", "") }}}}"""


DAY = one_word("dag_run.partition_key")  # the step refuses what is no day

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "longreel",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": UntilSomebodyMends(),  # tried again is what may succeed
    "on_failure_callback": notifiers("{{ dag.dag_id }} {{ dag_run.partition_key }}: {{ ti.task_id }} failed"),
}


def step(name: str, options: str = "", day: str = DAY) -> str:
    """The command line of a step for a day, or of one without a day where that is empty."""
    date = f"--date '{day}' " if day else ""
    return f"{quote(sys.executable)} -m longreel {name} --home {quote(HOME)} {date}{options}".rstrip()


def spark_step(name: str, minutes: int, doc: str, days: tuple[str, ...] = ("--date", DAY)) -> SparkSubmitOperator:
    """A Spark step for the run's log day, or for `days`, submitted through the connection `spark_default`."""
    return SparkSubmitOperator(
        task_id=name.replace("-", "_"),
        name=f"longreel {name}",
        application=str(REPOSITORY / "longreel" / "__main__.py"),
        application_args=[name, "--home", HOME, *days],
        execution_timeout=timedelta(minutes=minutes),
        pool=SPARK_POOL,
        doc_md=doc,
    )


def first_stale() -> str | None:
    """The first day whose samples were built from other events than are published now; None where there is none."""
    from longreel.lake.home import Home
    from longreel.lake.lineage import stale_partitions

    return min((str(one.day) for one in stale_partitions(Home.locate(HOME).lake, ("samples",))), default=None)


def facts_of(day: str, run_type: str) -> dict[str, Any]:
    """What the asset event of a published samples day says."""
    from datetime import date

    from longreel.lake.home import Home

    manifest = Home.locate(HOME).lake.require("samples", date.fromisoformat(day))
    counted = {name: manifest.counts[name] for name in ("users", "requests", "targets") if name in manifest.counts}
    about = {"digest": manifest.digest, "watermark": manifest.date, "rows": manifest.rows, **counted}
    return about | {"warnings": manifest.details.get("warnings", []), "run_type": run_type}
