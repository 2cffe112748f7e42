"""Sensor of a raw day: it checks, releases the worker, and gives up with a message that says what to do."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSensorTimeout

from longreel.operators.arrival import RawDaySensor


def looked(exit_code: int, waited: timedelta) -> Any:
    """One look, by a task that first looked some time ago."""
    sensor = RawDaySensor(task_id="check_arrival", bash_command=f"exit {exit_code}", timeout=timedelta(hours=2))
    first = datetime.now(UTC) - waited
    task = SimpleNamespace(get_first_reschedule_date=lambda context: first)
    return sensor.execute({"ti": task, "dag_run": SimpleNamespace(partition_key="2026-01-05")})


def test_a_day_that_has_arrived_lets_the_run_continue() -> None:
    looked(0, timedelta(hours=3))


def test_a_missing_day_is_checked_again_without_a_worker() -> None:
    with pytest.raises(AirflowRescheduleException):
        looked(3, timedelta(hours=1))


def test_a_day_that_does_not_arrive_in_time_fails_once_and_says_what_to_do() -> None:
    with pytest.raises(AirflowSensorTimeout, match=r"2026-01-05 has not arrived within 2 h\..*clear this task"):
        looked(3, timedelta(hours=2, seconds=1))


def test_a_wrong_configuration_fails_at_once() -> None:
    with pytest.raises(AirflowFailException, match="return code 2"):
        looked(2, timedelta())
