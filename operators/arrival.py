"""How does a run wait for its raw log day, without holding a worker, and what does it say when it gives up?"""

from typing import Any

from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout

from longreel.operators.retries import FINAL, exit_code_of

NOT_YET = 3  # exit code of a step whose data are not there yet


class RawDaySensor(BashSensor):
    """Runs the step `arrived` until it says that the day is there; between two looks the task holds nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(retry_exit_code=NOT_YET, mode="reschedule", **options)

    def execute(self, context: Any) -> Any:
        """Look once.

        Raises:
            AirflowSensorTimeout: the day has not come within `timeout`; that is not retried.
            AirflowFailException: the log or its configuration is wrong; that is not retried either.
            AirflowException: the look itself failed.
        """
        try:
            return super().execute(context)
        except AirflowFailException as error:  # of any exit code that is not NOT_YET
            if exit_code_of(error) in FINAL:
                raise
            raise AirflowException(str(error)) from error
        except AirflowSensorTimeout as error:
            raise AirflowSensorTimeout(
                f"the raw log day {context['dag_run'].partition_key} has not arrived within {self.timeout / 3600:g} h. "
                "Once it has, clear this task, and the days behind it follow; if it never will, publish it empty (an "
                "empty folder of the day; build it with --accept-drift). The step's output above says what is there."
            ) from error
