"""Trainings in other processes, forked from a server that has imported torch once."""

import multiprocessing
import os
import socket
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from longreel.contracts.config import Config
from longreel.lake.table import Lake
from longreel.model.training.train import TrainResult, train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["longreel.model.training.train"])
TIMEOUT_S = 120


def _train(
    config: Config, root: str, days: list[date], work: Path, out: Path, environment: dict[str, str], steps: Connection
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    steps.send(
        train(config, Lake(root, config.log_schema), days, work, out, on_step=lambda stats: steps.send(stats.step))
    )


class TrainingProcess:
    """A running training, which sends every step and at its end the result."""

    def __init__(
        self, config: Config, lake: Lake, days: list[date], work: Path, out: Path, environment: dict[str, str]
    ) -> None:
        self._steps, theirs = CONTEXT.Pipe(duplex=False)
        arguments = (config, lake.root, days, work, out, environment, theirs)
        self.process = CONTEXT.Process(target=_train, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def run_until(self, step: int) -> None:
        """Return once the training has taken `step`."""
        while self._receive() != step:
            pass

    def result(self) -> TrainResult:
        """The result, at the end of the training."""
        while not isinstance(received := self._receive(), TrainResult):
            pass
        self.process.join(TIMEOUT_S)
        assert self.process.exitcode == 0
        return received

    def exit_code(self) -> int | None:
        """The exit code, at the end of the process; negative for a signal."""
        self.process.join(TIMEOUT_S)
        return self.process.exitcode

    def _receive(self) -> int | TrainResult:
        assert self._steps.poll(TIMEOUT_S), "no step within the time limit"
        received: int | TrainResult = self._steps.recv()  # EOFError: the process has ended
        return received


def start(config: Config, lake: Lake, days: list[date], work: Path, out: Path) -> TrainingProcess:
    """Start a training in one process."""
    return TrainingProcess(config, lake, days, work, out, {})


def train_on_ranks(ranks: int, config: Config, lake: Lake, days: list[date], folder: Path) -> list[TrainResult]:
    """Train in several processes, with the environment that torchrun sets; the result of each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    processes = [
        TrainingProcess(
            config,
            lake,
            days,
            folder / "work",
            folder / "model",
            address | sizes | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    try:
        return [process.result() for process in processes]
    finally:
        for process in processes:
            process.process.kill()
