"""Which failures of a step does Airflow try again? All but those that its exit code says a person has to mend first."""

import re
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy

from longreel.contracts.errors import LongreelError, QualityError

FINAL = {
    LongreelError.exit_code: "a mistake to mend; the step's last line says how",
    QualityError.exit_code: "a checkpoint stopped the day; its reasons are above and in reports/<day>",
}
# How Airflow's operators tell a command's exit code: BashOperator, SparkSubmitOperator, BashSensor.
_TOLD = re.compile(r"(?:non-zero exit code|Error code is:|return code) (\d+)")


def exit_code_of(error: BaseException) -> int | None:
    """The exit code of the step that an operator ran, or would have had; None where none is told."""
    if isinstance(error, LongreelError):
        return error.exit_code
    told = _TOLD.search(str(error))
    return int(told[1]) if told else None


class UntilSomebodyMends(RetryPolicy):
    """Fails a task at once where trying again gives the same: a refusal (exit 2), a stopped day (exit 4). What else may
    happen, a process that was killed among it, keeps the task's retries."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Called in the worker, with what the operator raised."""
        code = exit_code_of(exception)
        if code in FINAL:
            return RetryDecision.fail(f"exit {code}: {FINAL[code]}. Mend it, then clear this task")
        return RetryDecision.default()
