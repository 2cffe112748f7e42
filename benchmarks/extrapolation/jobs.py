"""Several cells at a time within a time limit: the most important first, none that would not end.

A worker is a process that reads cells, a line of JSON each, and answers each with its line of results. It keeps decoded
sets and compiled code between cells. The parent alone writes the results file.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import IO, Any

import torch

from benchmarks.extrapolation.plan import Planned

WORKER = "benchmarks.extrapolation.worker"
TERMINATED = 143  # 128 + SIGTERM
PIPE = "CUDA_MPS_PIPE_DIRECTORY"


class Queue:
    """Cells that wait, in their order; a deadline by which what is begun should be over."""

    def __init__(self, todo: list[Planned], seconds: Callable[[Planned], float], deadline: float | None) -> None:
        self.waiting, self._seconds, self._deadline = list(todo), seconds, deadline

    def take(self) -> Planned | None:
        """The first cell whose estimate ends before the deadline; None where there is none."""
        left = float("inf") if self._deadline is None else self._deadline - time.monotonic()
        planned = next((planned for planned in self.waiting if self._seconds(planned) <= left), None)
        if planned is not None:
            self.waiting.remove(planned)
        return planned


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block with SystemExit."""

    def stop(_: int, __: FrameType | None) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def on_card(card: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a process finds one card of several.

    NVIDIA's multi-process service hangs where one daemon has several cards; with one daemon a card, each under a folder
    with its number in the place of `{card}`, that card is the only one, and so the first, that a process sees there.
    """
    pipe = environment.get(PIPE, "")
    if "{card}" in pipe:
        return {PIPE: pipe.format(card=card), "CUDA_VISIBLE_DEVICES": "0"}
    return {"CUDA_VISIBLE_DEVICES": str(card)}


class Worker:
    """One process, on one of the cards where there are several, and the cell that it has."""

    def __init__(self, arguments: list[str], threads: int, card: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"OMP_NUM_THREADS": str(threads)} | os.environ | ({} if card is None else on_card(card, os.environ)),
        )
        self.has: Planned | None = None

    @property
    def answers(self) -> IO[bytes]:
        """Where its lines come from."""
        assert self.process.stdout is not None
        return self.process.stdout

    def give(self, planned: Planned | None) -> None:
        """Let it run a cell, or end where there is none."""
        self.has = planned
        assert self.process.stdin is not None
        if planned is None:
            self.process.stdin.close()
        else:
            self.process.stdin.write(json.dumps(asdict(planned.cell)).encode() + b"\n")
            self.process.stdin.flush()


def run_in_workers(
    queue: Queue,
    jobs: int,
    arguments: list[str],
    started: Callable[[Planned], None],
    finished: Callable[[Planned, dict[str, Any]], None],
) -> list[Planned]:
    """Run what the queue gives in `jobs` processes, dealt to the cards there are; returns the cells that were lost.

    `finished` is called with a cell and its line of results, here, as they come. SIGTERM goes on to the workers, which
    save what they train.
    """
    threads, cards = max(1, (os.cpu_count() or 1) // jobs), torch.cuda.device_count()
    lost: list[Planned] = []
    workers: list[Worker] = []

    def feed(worker: Worker) -> None:
        planned = queue.take()
        if planned is not None:
            started(planned)
        worker.give(planned)

    with _terminable(), selectors.DefaultSelector() as ready:
        try:
            for number in range(min(jobs, len(queue.waiting))):
                workers.append(Worker(arguments, threads, number % cards if cards > 1 else None))
                ready.register(workers[-1].answers, selectors.EVENT_READ, workers[-1])
                feed(workers[-1])
            while ready.get_map():
                for key, _ in ready.select():
                    worker, line = key.data, key.data.answers.readline()
                    if line.endswith(b"\n"):
                        finished(worker.has, json.loads(line))
                        feed(worker)
                        continue
                    ready.unregister(worker.answers)
                    lost += [worker.has] if worker.has is not None else []
        finally:
            for worker in workers:
                if worker.has is not None:
                    worker.process.terminate()
            for worker in workers:
                worker.process.wait()
    return lost
