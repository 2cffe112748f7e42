"""Command `ui`: Airflow and MLflow of a home on 127.0.0.1, until Ctrl-C."""

import argparse
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

from longreel.airflow_settings import published_days
from longreel.contracts.errors import LongreelError
from longreel.embedded_airflow import EmbeddedAirflow, end_session, interruptible
from longreel.lake.home import CONFIG_FILE, Home, private_file, private_folder
from longreel.mlflow_auth import USER, admin_password, auth_environment
from longreel.ports import MLFLOW_PORT, PORT, Port
from longreel.process import Terminated
from longreel.watch import console, print_address

MLFLOW_STARTUP_S = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel ui`."""
    parser.add_argument("--mlflow-only", action="store_true", help="leave Airflow off")
    parser.add_argument("--mlflow-auth", action="store_true", help="MLflow asks for a user and a password")
    parser.add_argument("--mlflow-port", type=PORT, help="MLflow's port (default: 8181, or the next free one)")
    parser.add_argument("--airflow-port", type=PORT, help="Airflow's port (default: 8180, or the next free one)")


def run(args: argparse.Namespace, home: Home) -> int:
    """Start both servers, print their addresses, and stop them on Ctrl-C."""
    from longreel.components.registry.location import require_location
    from longreel.components.registry.store import runs_page

    if not (home.path / CONFIG_FILE).exists():
        raise LongreelError(f"no home at {home.path}; `make run` creates one, --home names another")
    require_location(home)
    screen, port = console(), Port("MLflow", MLFLOW_PORT, args.mlflow_port)
    interruptible()
    mlflow = start_mlflow(home, port.number, with_auth=args.mlflow_auth)
    try:
        wait_for(f"{port.url}/health", mlflow)
        print_address(screen, "MLflow:  ", f"{port.url}/{runs_page(home)}", port.notice)
        if args.mlflow_auth:
            screen.print(f"         user {USER}  password {admin_password(home)}", highlight=False)
        if args.mlflow_only:
            return mlflow.wait()
        with EmbeddedAirflow(home, published_days(home), args.airflow_port) as airflow:
            print_address(screen, "Airflow: ", airflow.sign_in, airflow.notice)
            screen.print("Ctrl-C stops both")
            while airflow.is_running() and mlflow.poll() is None:
                time.sleep(1)
        return 1
    except Terminated:
        raise
    except KeyboardInterrupt:
        screen.print("\nstopping ...")
        return 0
    finally:
        end_session(mlflow.pid)


def start_mlflow(home: Home, port: int, *, with_auth: bool = False) -> subprocess.Popen[bytes]:
    """MLflow's server over the home's store, logging to `mlflow/server.log`, in its own session."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--default-artifact-root", str(home.artifacts)]
    private_folder(home.mlflow)
    private_file(home.mlflow / "server.log")
    # The store's URI may have a password: by the environment, which others cannot read, and not as an argument.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": home.tracking_uri}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if with_auth:
        store += ["--app-name", "basic-auth"]
        environment |= auth_environment(home)
    with (home.mlflow / "server.log").open("ab") as log:
        return subprocess.Popen(
            command + store,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once a server answers.

    Raises:
        LongreelError: its process has ended, or it does not answer in time.
    """
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
