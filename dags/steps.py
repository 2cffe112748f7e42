"""Tasks that run commands, as processes or submitted to Spark; their defaults, and the data of asset events."""

import sys
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

import longreel
from longreel.dags.notify import notifiers
from longreel.dags.settings import HOME, SPARK_POOL
from longreel.operators.retries import FailFastOnUserError


def shell_safe(expression: str) -> str:
    """A template whose value cannot end the single quotes of a command line, whatever key a run was triggered with."""
    return f"""{{{{ {expression} | replace("'", "") }}}}"""


DAY = shell_safe("(dag_run.partition_key or '')")  # the command rejects anything but a day

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "longreel",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": FailFastOnUserError(),
    "on_failure_callback": notifiers("{{ dag.dag_id }} {{ dag_run.partition_key }}: {{ ti.task_id }} failed"),
}


def step(command: str, options: str = "", day: str = DAY) -> str:
    """The shell command of a task.

    :param command: group and command, such as "data ingest"
    :param options: further options
    :param day: the log day, a template; empty for a command without one
    """
    date = f"--date '{day}' " if day else ""
    return f"{quote(sys.executable)} -m longreel {command} --home {quote(HOME)} {date}{options}".rstrip()


def spark_step(command: str, minutes: int, doc: str, days: tuple[str, ...] = ("--date", DAY)) -> SparkSubmitOperator:
    """A task that submits a command through the connection `spark_default`.

    :param command: group and command, such as "data ingest"
    :param minutes: execution timeout
    :param doc: the task's notes in Airflow
    :param days: options that name the days; by default the run's log day
    """
    return SparkSubmitOperator(
        task_id=command.rpartition(" ")[2].replace("-", "_"),
        name=f"longreel {command}",
        application=str(Path(longreel.__file__).with_name("__main__.py")),
        application_args=[*command.split(), "--home", HOME, *days],
        execution_timeout=timedelta(minutes=minutes),
        pool=SPARK_POOL,
        doc_md=doc,
    )


def first_stale() -> str | None:
    """The first day whose samples a rebuild would make of other inputs or definitions; None if there is none."""
    from longreel.lake.home import Home
    from longreel.lake.lineage import stale_partitions

    home = Home.locate(HOME)
    return min((str(one.day) for one in stale_partitions(home.lake, home.config, ("samples",))), default=None)


def asset_extra(day: str, run_type: str) -> dict[str, Any]:
    """The `extra` of the asset event of a published samples day."""
    from datetime import date

    from longreel.lake.home import Home

    manifest = Home.locate(HOME).lake.require("samples", date.fromisoformat(day))
    extra: dict[str, Any] = {"digest": manifest.digest, "watermark": manifest.date, "rows": manifest.rows}
    extra |= {name: count for name, count in manifest.counts.items() if name in ("users", "requests", "targets")}
    return extra | {"warnings": manifest.details.get("warnings", []), "run_type": run_type}
