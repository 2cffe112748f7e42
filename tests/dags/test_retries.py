"""Retries and failures at once: the DAGs' operators run a step that ends with a code, and Airflow's code decides."""

import json
import os
import sys
from pathlib import Path

import pytest

from longreel.contracts.errors import DataNotReadyError, LongreelError, QualityError, TransientError
from tests.airflow_process import AirflowProcess

ROOT = Path(__file__).resolve().parents[2]
FAILED, AGAIN = "failed", "up_for_retry"
LOCAL, SPARK, LOOK = ("longreel_train", "retrain"), ("longreel_daily", "ingest"), ("longreel_daily", "check_arrival")
CASES = [  # a task, the command that its step is, what becomes of the task
    (*LOCAL, f"exit {LongreelError.exit_code}", FAILED),
    (*LOCAL, f"exit {QualityError.exit_code}", FAILED),
    (*LOCAL, f"exit {DataNotReadyError.exit_code}", AGAIN),
    (*LOCAL, f"exit {TransientError.exit_code}", AGAIN),
    (*LOCAL, "exit 1", AGAIN),
    (*LOCAL, "kill -9 $$", AGAIN),
    (*SPARK, f"exit {QualityError.exit_code}", FAILED),
    (*SPARK, "exit 1", AGAIN),
    (*LOOK, f"exit {LongreelError.exit_code}", "AirflowFailException"),  # about which no policy is asked
    (*LOOK, "exit 1", AGAIN),
]
DECIDE = """
import json, sys
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.task_runner import _handle_current_task_failed

folder, script, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
bag, states = DagBag(folder), []
for dag_id, task_id, command, _ in cases:
    task = bag.dags[dag_id].get_task(task_id)
    task.bash_command, task.application, task.application_args = command, script, [command.split()[-1]]
    task._hook = None  # keeps the arguments of the case before
    server = SimpleNamespace(max_tries=task.retries, should_retry=True)
    ti = SimpleNamespace(task=task, try_number=1, _ti_context_from_server=server, rendered_map_index=None,
                         _failure_metrics_emitted=True)
    log = SimpleNamespace(info=lambda *_, **__: None, exception=lambda *_: None)
    try:
        task.execute({"ti": SimpleNamespace(get_first_reschedule_date=lambda context: None)})
    except AirflowFailException:
        states.append("AirflowFailException")
    except Exception as error:
        states.append(_handle_current_task_failed(ti, error, log)[1].value)
print("STATES" + json.dumps(states))
"""


@pytest.fixture(scope="module")
def states(airflow_process: AirflowProcess, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What Airflow makes of each case, all in one process."""
    folder = tmp_path_factory.mktemp("retries")
    script = folder / "step.py"
    script.write_text("import sys\nsys.exit(int(sys.argv[1]))\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LONGREEL_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # spark-submit
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[1]"}),
        "LONGREEL_FIRST_DAY": "2026-01-05",
        "PYSPARK_PYTHON": sys.executable,
    }
    arguments = (str(ROOT / "dags"), str(script), json.dumps(CASES))
    done = airflow_process.run(DECIDE, *arguments, environment=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("STATES")]
    assert lines, done.stdout[-2_000:] + done.stderr[-2_000:]
    return json.loads(lines[0].removeprefix("STATES"))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{task}, {command}" for _, task, command, _ in CASES])
def test_a_step_is_retried_unless_the_user_has_to_act(states: list[str], number: int) -> None:
    assert states[number] == CASES[number][-1]
