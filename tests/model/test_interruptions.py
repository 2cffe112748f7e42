"""A training ends soon after SIGTERM however long a step is, and saves often enough to lose one step at most."""

import signal
import time
from dataclasses import replace
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from longreel.contracts.config import Config
from longreel.lake.table import Lake
from longreel.model.nn.ranker import Ranker
from longreel.model.training import interruptions
from longreel.model.training.interruptions import CheckpointClock
from longreel.model.training.train import train
from tests.model.processes import CONTEXT

LIMIT_S = 1.0


class SlowRanker(Ranker):
    """Takes longer than LIMIT_S in every step, and for ever in its third, in a call that no Python handler ends."""

    steps = 0

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.training:
            SlowRanker.steps += 1
            time.sleep(600 if SlowRanker.steps == 3 else 1.2 * LIMIT_S)
        return super().forward(*args, **kwargs)


def train_slowly(config: Config, root: str, days: list[date], folder: Path, steps: Connection) -> None:
    interruptions.STOP_WITHIN_S = LIMIT_S
    torch.set_num_threads(1)
    lake = Lake(root, config.log_schema)
    on_step = lambda stats: steps.send(stats.step)  # noqa: E731
    train(config, lake, days, folder / "work", folder / "model", on_step=on_step, make_ranker=SlowRanker)


def test_sigterm_during_an_endless_step_ends_the_process_and_loses_that_step_alone(
    config: Config, lake: Lake, days: list[date], tmp_path: Path
) -> None:
    never = replace(config, training=replace(config.training, checkpoint_every=1_000))
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=train_slowly, args=(never, lake.root, days, tmp_path, theirs), daemon=True)
    process.start()
    while True:
        assert ours.poll(60)
        if ours.recv() == 2:
            break
    time.sleep(0.5)  # it is in its third step, or saves the second
    began = time.monotonic()
    process.terminate()
    process.join(30)
    assert process.exitcode == interruptions.TERMINATED
    assert time.monotonic() - began < 3 * LIMIT_S
    assert sorted(path.name for path in (tmp_path / "work").glob("step-*")) == ["step-00000001", "step-00000002"]
    resumed = train(never, lake, days, tmp_path / "work", tmp_path / "model")
    whole = train(never, lake, days, tmp_path / "work-whole", tmp_path / "model-whole")
    assert (resumed.model_digest, resumed.curve) == (whole.model_digest, whole.curve)


def test_a_checkpoint_is_due_before_five_minutes_have_passed_and_after_every_long_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(interruptions.time, "monotonic", lambda: now[0])
    for step_s, expected in ((0.5, 300), (10, 300), (14, 294), (20, 20), (400, 400)):
        clock, saves = CheckpointClock(), []
        clock.saved()
        began = now[0]
        while len(saves) < 3:
            clock.begin_step()
            now[0] += step_s
            if clock.is_due():
                saves.append(now[0] - began)
                clock.saved()
        assert saves == [expected, 2 * expected, 3 * expected]


def test_the_handlers_of_before_are_restored(config: Config, lake: Lake, days: list[date], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(config, lake, days[:1], tmp_path / "work", tmp_path / "model")
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
