"""Deployment settings of the DAGs: environment variables, read once at parse time.

LONGREEL_HOME            home folder of the pipeline (the Airflow workers see the same one)
LONGREEL_FIRST_DAY       first log day to process, YYYY-MM-DD; the scheduler catches up from there
LONGREEL_LAST_DAY        last log day, for a log that has ended; unset for a live one
LONGREEL_CRON            when a log day is complete, in the zone's standard time; default midnight
LONGREEL_TIMEZONE        time zone of the log's days and of the schedules; default UTC
LONGREEL_ARRIVAL_HOURS   how long a run waits for its raw day before it fails; default 24
LONGREEL_ARRIVAL_POLL_S  seconds between two checks for the raw log; default 300
LONGREEL_DEADLINE_HOURS  a run this much longer than the average run is reported as late; default 12
LONGREEL_REBUILD_CRON    when to check for corrected raw days; unset: longreel_rebuild runs only when triggered
LONGREEL_WATCH_CRON      when to check whether the pipeline needs attention; default every six hours
LONGREEL_APPROVAL        1: a promotion needs a person's approval; unset: it does not
LONGREEL_TRAIN_JOB       file with the TrainJob that trains a day on several nodes; unset: `retrain` trains
LONGREEL_KFP_HOST        the Kubeflow Pipelines API that runs retrains (more settings: components/kfp_server.py);
                         unset: they run in the task itself
LONGREEL_NOTIFY_CONN     see notify.py
"""

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from airflow.sdk import Asset
from pendulum import FixedTimezone

T = TypeVar("T")


def read(variable: str, kind: Callable[[str], T], expected: str, default: str = "") -> T | None:
    """The value of a variable, or of `default`; None if both are empty.

    Raises:
        ValueError: `kind` cannot parse it; Airflow shows the message as the DAG's import error.
    """
    text = os.environ.get(variable) or default
    try:
        return kind(text) if text else None
    except (ValueError, KeyError):
        raise ValueError(f"{variable} is {text!r}; expected {expected}") from None


def hours(variable: str, default: str) -> timedelta:
    """A number of hours."""
    return timedelta(hours=read(variable, float, "a number of hours", default) or 0)


def standard_time(zone: ZoneInfo) -> FixedTimezone:
    """A zone's clock without summer time: its least offset from UTC in this year and the next.

    A time that the clock of a zone skips makes Airflow's partitioned cron skip a day's key and repeat the next one's.
    By this clock each day has every time, and each log day has ended by its midnight or the hour before.
    """
    first = datetime(datetime.now(UTC).year, 1, 1, tzinfo=UTC)
    offsets = [(first + timedelta(days=number)).astimezone(zone).utcoffset() or timedelta() for number in range(731)]
    return FixedTimezone(int(min(offsets).total_seconds()))


HOME = os.environ.get("LONGREEL_HOME", ".longreel/simulated")
CRON = os.environ.get("LONGREEL_CRON", "0 0 * * *")
ZONE = read("LONGREEL_TIMEZONE", ZoneInfo, "a time zone such as Asia/Shanghai", "UTC") or ZoneInfo("UTC")
TIMEZONE = str(ZONE)  # of schedules without a log day
STANDARD_TIME = standard_time(ZONE)  # of the daily schedule, and of its first and last day
ARRIVAL = hours("LONGREEL_ARRIVAL_HOURS", "24")
ARRIVAL_POLL = timedelta(seconds=read("LONGREEL_ARRIVAL_POLL_S", float, "a number of seconds", "300") or 0)
DEADLINE = hours("LONGREEL_DEADLINE_HOURS", "12")
REBUILD_CRON = os.environ.get("LONGREEL_REBUILD_CRON", "")
WATCH_CRON = os.environ.get("LONGREEL_WATCH_CRON", "0 */6 * * *")
APPROVAL = os.environ.get("LONGREEL_APPROVAL") == "1"
TRAIN_JOB = os.environ.get("LONGREEL_TRAIN_JOB", "")
KFP_HOST = os.environ.get("LONGREEL_KFP_HOST", "")

# From pools.json, which `airflow pools import` and the embedded Airflow read. A task without its pool never starts.
SPARK_POOL = "longreel_spark"
TRAIN_POOL = "longreel_train"

# One event for each published samples partition, keyed by its day.
SAMPLES = Asset("longreel_samples", uri="longreel://samples")


def run_date(variable: str, *, last: bool = False) -> datetime | None:
    """The earliest start of the run of the log day in `variable`, or with `last` the latest; None if it is unset.

    The run starts on the day after the log day, at the time LONGREEL_CRON says in STANDARD_TIME.
    """
    day = read(variable, date.fromisoformat, "a day, YYYY-MM-DD")
    if day is None:
        return None
    next_day = day + timedelta(days=2 if last else 1)
    midnight = datetime(next_day.year, next_day.month, next_day.day, tzinfo=STANDARD_TIME).astimezone(UTC)
    return midnight - timedelta(seconds=1) if last else midnight
