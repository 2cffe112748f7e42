"""Sensor that waits for a raw log day without holding a worker."""

from typing import Any

from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSensorTimeout

from longreel.contracts.errors import DataNotReadyError
from longreel.operators.retries import FINAL, exit_code_of


class RawDaySensor(BashSensor):
    """Runs `data check-arrival` until the day has arrived; between two checks the task holds no worker.

    :param bash_command: the command line of `longreel data check-arrival`
    :param poke_interval: time between two checks
    :param timeout: how long to wait before the task fails
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(retry_exit_code=DataNotReadyError.exit_code, mode="reschedule", **options)

    def execute(self, context: Context) -> Any:
        """Check once.

        Raises:
            AirflowSensorTimeout: the day has not arrived within `timeout`; not retried.
            AirflowFailException: the log or its configuration is wrong; not retried.
            AirflowException: the check itself failed.
        """
        try:
            return super().execute(context)
        except AirflowFailException as error:  # of any exit code but "not ready"
            if exit_code_of(error) in FINAL:
                raise
            raise AirflowException(str(error)) from error
        except AirflowSensorTimeout as error:
            raise AirflowSensorTimeout(
                f"the raw log day {context['dag_run'].partition_key} has not arrived within {self.timeout / 3600:g} h. "
                "Once it has, clear this task, and the following days run. If it never will, publish an empty folder "
                "for the day and build it with --accept-drift. The command's output above lists what is there."
            ) from error
