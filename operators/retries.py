"""Retry policy of the DAGs: a task whose step reports a user error fails at once, any other failure is retried."""

import re

from airflow.sdk import Context, RetryDecision, RetryPolicy

from longreel.contracts.errors import LongreelError, QualityError

FINAL = {
    LongreelError.exit_code: "a user error; the step's last line says what to fix",
    QualityError.exit_code: "a checkpoint stopped the day; its reasons are above and in reports/<day>",
}
# How Airflow's operators report a command's exit code: BashOperator, SparkSubmitOperator, BashSensor.
_EXIT_CODE = re.compile(r"(?:non-zero exit code|Error code is:|return code) (\d+)")


def exit_code_of(error: BaseException) -> int | None:
    """The exit code of the step that an operator ran, or of the error that it raised; None if it has none."""
    if isinstance(error, LongreelError):
        return error.exit_code
    match = _EXIT_CODE.search(str(error))
    return int(match[1]) if match else None


class FailFastOnUserError(RetryPolicy):
    """Fails a task at once if a retry would end the same way: a user error (exit 2) or a stopped day (exit 4).

    Every other failure, a killed process included, keeps the task's retries.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """The decision about one failed try; Airflow calls this in the worker.

        :param exception: what the operator raised
        """
        code = exit_code_of(exception)
        if code in FINAL:
            return RetryDecision.fail(f"exit {code}: {FINAL[code]}. Fix it, then clear this task")
        return RetryDecision.default()
