"""What the DAGs need to know of their deployment: environment variables, read once at parse time.

LONGREEL_HOME            home folder of the pipeline (the Airflow workers see the same one)
LONGREEL_FIRST_DAY       first log day to process, YYYY-MM-DD; the scheduler catches up from there
LONGREEL_LAST_DAY        last log day, for a log that has ended; unset for a live one
LONGREEL_CRON            when a log day is complete; default midnight
LONGREEL_TIMEZONE        the time zone of that, and of the first and the last day; default UTC
LONGREEL_ARRIVAL_HOURS   how long a run waits for its raw day before it fails; default 24
LONGREEL_ARRIVAL_POLL_S  seconds between two looks at the raw log; default 300
LONGREEL_DEADLINE_HOURS  a run that takes so much longer than runs do on average is told of; default 12
LONGREEL_REBUILD_CRON    when to look for corrected raw days; unset: longreel_rebuild runs when a person starts it
LONGREEL_WATCH_CRON      when to look whether something is for somebody to act on; default every six hours
LONGREEL_APPROVAL        1: a candidate that is to be promoted waits for a person's approval; unset: it does not
LONGREEL_TRAIN_JOB       file with the TrainJob that trains a day on several nodes; unset: `retrain` trains
LONGREEL_KFP_HOST        the Kubeflow Pipelines API that runs retrains (more settings: components/kfp_server.py);
                         unset: they run in the task itself
LONGREEL_NOTIFY_CONN     see notify.py
"""

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

from airflow.sdk import Asset

T = TypeVar("T")


def read(variable: str, kind: Callable[[str], T], expected: str, default: str = "") -> T | None:
    """The variable's value, or that of `default`; None without either.

    Raises:
        ValueError: `kind` does not take it; Airflow shows the message as the DAG's import error.
    """
    text = os.environ.get(variable) or default
    try:
        return kind(text) if text else None
    except (ValueError, KeyError):
        raise ValueError(f"{variable} is {text!r}; expected {expected}") from None


def hours(variable: str, default: str) -> timedelta:
    """A number of hours."""
    return timedelta(hours=read(variable, float, "a number of hours", default) or 0)


HOME = os.environ.get("LONGREEL_HOME", ".longreel/simulated")
CRON = os.environ.get("LONGREEL_CRON", "0 0 * * *")
CLOCK = read("LONGREEL_TIMEZONE", ZoneInfo, "a time zone such as Asia/Shanghai", "UTC") or UTC
TIMEZONE = str(CLOCK)
ARRIVAL = hours("LONGREEL_ARRIVAL_HOURS", "24")
ARRIVAL_POLL = timedelta(seconds=read("LONGREEL_ARRIVAL_POLL_S", float, "a number of seconds", "300") or 0)
DEADLINE = hours("LONGREEL_DEADLINE_HOURS", "12")
REBUILD_CRON = os.environ.get("LONGREEL_REBUILD_CRON", "")
WATCH_CRON = os.environ.get("LONGREEL_WATCH_CRON", "0 */6 * * *")
APPROVAL = os.environ.get("LONGREEL_APPROVAL") == "1"
TRAIN_JOB = os.environ.get("LONGREEL_TRAIN_JOB", "")
KFP_HOST = os.environ.get("LONGREEL_KFP_HOST", "")
REPOSITORY = Path(__file__).resolve().parents[1]

# Of pools.json, which `airflow pools import` and the embedded Airflow read. A task whose pool is missing never starts.
SPARK_POOL = "longreel_spark"
TRAIN_POOL = "longreel_train"

# One event a published samples partition, keyed by its day.
SAMPLES = Asset("longreel_samples", uri="longreel://samples")


def run_date(variable: str, *, last: bool = False) -> datetime | None:
    """When the scheduled run of the named log day starts at the earliest, or with `last` at the latest: sometime on the
    day after it, by LONGREEL_CRON on LONGREEL_TIMEZONE's clock. None where the variable is unset."""
    day = read(variable, date.fromisoformat, "a day, YYYY-MM-DD")
    if day is None:
        return None
    begins = day + timedelta(days=2 if last else 1)
    midnight = datetime(begins.year, begins.month, begins.day, tzinfo=CLOCK).astimezone(UTC)
    return midnight - timedelta(seconds=1) if last else midnight
