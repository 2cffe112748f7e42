"""Training commands in separate processes, which are killed.

The processes are forked from a server that has imported PyTorch and MLflow once.
"""

import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mlflow

import longreel.components.registry.registration
import longreel.components.training.folder
import longreel.components.training.logged_training  # noqa: F401  # for the server of processes
from longreel.cli import main

ROOT = Path(__file__).resolve().parents[2]
OWNERS = {"mlflow": mlflow, "MlflowClient": mlflow.MlflowClient}


def start_training(home: Path, day: str, dies_after: tuple[str, str] | None = None) -> BaseProcess:
    """Start `longreel model train`. `dies_after`: owner and name of a function of MLflow, after whose first call the
    process kills itself."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_train, args=(str(home), day, dies_after))
    process.start()
    return process


def _train(home: str, day: str, dies_after: tuple[str, str] | None) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "LONGREEL_LAKE", "LONGREEL_HOME"):
        os.environ.pop(variable, None)
    if dies_after is not None:
        owner, name = OWNERS[dies_after[0]], dies_after[1]
        function = getattr(owner, name)

        def dies(*arguments: Any, **options: Any) -> None:
            function(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, dies)
    raise SystemExit(main(["model", "train", "--home", home, "--date", day]))
