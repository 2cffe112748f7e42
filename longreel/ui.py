"""Command `ui`: Airflow and MLflow of a home on 127.0.0.1, until Ctrl-C."""

import argparse
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import date

from longreel.contracts.errors import LongreelError
from longreel.embedded_airflow import EmbeddedAirflow, end_session, free_port, interruptible
from longreel.lake.home import CONFIG_FILE, Home
from longreel.watch import console

MLFLOW_STARTUP_S = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel ui`."""
    parser.add_argument("--mlflow-only", action="store_true", help="leave Airflow off")


def run(args: argparse.Namespace, home: Home) -> int:
    """Start both servers, print their addresses, and stop them on Ctrl-C."""
    from longreel.components.registry.store import runs_page

    if not (home.path / CONFIG_FILE).exists():
        raise LongreelError(f"no home at {home.path}; `make run` creates one, --home names another")
    screen, port = console(), free_port()
    interruptible()
    mlflow = start_mlflow(home, port)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", mlflow)
        screen.print(f"MLflow:  http://127.0.0.1:{port}/{runs_page(home)}", highlight=False, soft_wrap=True)
        if args.mlflow_only:
            return mlflow.wait()
        with EmbeddedAirflow(home, _published_days(home)) as airflow:
            screen.print(f"Airflow: {airflow.url}  user admin  password {airflow.password}", highlight=False)
            screen.print("Ctrl-C stops both")
            while airflow.is_running() and mlflow.poll() is None:
                time.sleep(1)
        return 1
    except KeyboardInterrupt:
        screen.print("\nstopping ...")
        return 0
    finally:
        end_session(mlflow.pid)


def _published_days(home: Home) -> dict[str, str]:
    """Airflow variables that end the schedule with the last published day, so that looking starts no new day."""
    days = list(home.lake.days("samples"))
    first, last = (days[0], days[-1]) if days else (date(2000, 1, 1), date(2000, 1, 1))
    return {"LONGREEL_FIRST_DAY": first.isoformat(), "LONGREEL_LAST_DAY": last.isoformat()}


def start_mlflow(home: Home, port: int) -> subprocess.Popen[bytes]:
    """MLflow's server over the home's store, logging to `mlflow/server.log`, in its own session."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--default-artifact-root", str(home.artifacts)]
    (home.path / "mlflow").mkdir(parents=True, exist_ok=True)
    # The store's URI may have a password: by the environment, which others cannot read, and not as an argument.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": home.tracking_uri}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home.path / "mlflow" / "server.log").open("ab") as log:
        return subprocess.Popen(
            command + store,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + MLFLOW_STARTUP_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LongreelError("MLflow stopped while starting; see mlflow/server.log in the home folder")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.5)
    raise LongreelError(f"MLflow was not up after {MLFLOW_STARTUP_S} s; see mlflow/server.log in the home folder")
