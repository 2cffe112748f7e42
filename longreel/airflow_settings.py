"""Environment of the embedded Airflow: every path follows from the home, also after the home was moved or copied.

Its database is SQLite in the home, or the one that LONGREEL_AIRFLOW_DB names: `postgresql+psycopg://USER@HOST/DATABASE`.
"""

import json
import os
import sys
from datetime import date
from pathlib import Path

from longreel.lake.home import Home

DAGS = Path(__file__).with_name("dags").resolve()  # a link in a checkout, a folder in an installation
DATABASE = "LONGREEL_AIRFLOW_DB"
SPARK_LOCAL = {"conn_type": "spark", "host": "local[*]"}
CLOSED_PORT = "9"  # no log server runs: the API server reads the files, and asks one in vain while a task runs


def published_days(home: Home) -> dict[str, str]:
    """Variables of the DAGs that end the schedule with the last published day, so that looking starts no new day."""
    days = list(home.lake.days("samples"))
    first, last = (days[0], days[-1]) if days else (date(2000, 1, 1), date(2000, 1, 1))
    return {"LONGREEL_FIRST_DAY": first.isoformat(), "LONGREEL_LAST_DAY": last.isoformat()}


def sqlite_file(home: Home) -> Path:
    """The database of the embedded Airflow where no other is named."""
    return home.airflow / "airflow.db"


def airflow_environment(home: Home, port: int, dag_variables: dict[str, str]) -> dict[str, str]:
    """The environment of the embedded Airflow and of every task under it."""
    url = f"http://127.0.0.1:{port}"
    settings = {
        "CORE__DAGS_FOLDER": str(DAGS),
        "CORE__PLUGINS_FOLDER": str(home.airflow / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "CORE__PARALLELISM": "3",
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": url,
        "API__WORKERS": "1",
        # Airflow writes absolute paths into airflow.cfg; those of a copy or of a moved home lead to the old place.
        "LOGGING__BASE_LOG_FOLDER": str(home.airflow / "logs"),
        "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(home.airflow / "logs" / "dag_processor"),
        "LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
        "LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
        "LOGGING__WORKER_LOG_SERVER_PORT": CLOSED_PORT,
        "LOGGING__TRIGGER_LOG_SERVER_PORT": CLOSED_PORT,
        # Seconds after which a scheduler that starts after a crash takes over its predecessor's tasks.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
        # A scheduler starts tasks before the API server is up; on busy cores a worker would give up, and lose a try.
        "WORKERS__EXECUTION_API_TIMEOUT": "60",
        "WORKERS__EXECUTION_API_RETRIES": "10",
    }
    if database := (os.environ | dag_variables).get(DATABASE):
        # Airflow would derive another driver for its asynchronous connections, which is one more package.
        settings |= {"DATABASE__SQL_ALCHEMY_CONN": database, "DATABASE__SQL_ALCHEMY_CONN_ASYNC": database}
    else:
        file = sqlite_file(home)
        settings["DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{file}"
        settings["DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = f"sqlite+aiosqlite:///{file}"
    return os.environ | {
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
        "AIRFLOW_HOME": str(home.airflow),
        "AIRFLOW_CONFIG": str(home.airflow / "airflow.cfg"),
        "AIRFLOW_CONN_SPARK_DEFAULT": os.environ.get("AIRFLOW_CONN_SPARK_DEFAULT", json.dumps(SPARK_LOCAL)),
        "LONGREEL_HOME": str(home.path),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # spark-submit
        "PYTHONUNBUFFERED": "1",
        # A training and the next day's Spark step share the cores: threads that spin, or that wait for one which Spark
        # keeps off its core, made training several times slower than one thread less.
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1)),
        "SPARK_LOCAL_IP": "127.0.0.1",
        **dag_variables,
    }
