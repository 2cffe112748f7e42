"""One run a published samples partition: ask the freshness policy and, where it says so, train, judge and promote."""

from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import PartitionedAssetTimetable, dag

from dags.settings import DEFAULT_ARGS, SAMPLES, run_date, step

DOC = """
### longreel_train: is a training due, and if so, a new champion?

`due` asks the freshness policy (`[retrain]` in `longreel.toml`) about the day whose samples have just landed; "no"
skips the run. `retrain` runs the KFP pipeline train -> evaluate -> decide -> promote for that day, logged to MLflow.

**`retrain` failed.** Clear it: training goes on from its last checkpoint. **Train a day by hand:**
`longreel retrain --date 2026-01-09 --trigger manual`, or a manual run with that partition key through the REST API.
**A bad model went live:** `longreel rollback`.
"""


@dag(
    schedule=PartitionedAssetTimetable(assets=SAMPLES),
    start_date=run_date("LONGREEL_FIRST_DAY"),
    catchup=False,
    max_active_runs=1,  # never two trainings at once
    default_args=DEFAULT_ARGS | {"retries": 1},
    tags=["longreel"],
    doc_md=DOC,
)
def longreel_train() -> None:
    due = BashOperator(
        task_id="due",
        bash_command=step("due", ""),
        skip_on_exit_code=99,
        execution_timeout=timedelta(minutes=5),
    )
    retrain = BashOperator(
        task_id="retrain",
        bash_command=step("retrain", "--trigger freshness"),
        execution_timeout=timedelta(hours=12),
    )
    due >> retrain


longreel_train()
