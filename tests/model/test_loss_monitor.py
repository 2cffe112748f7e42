"""Outcomes come in order, a little late where the host runs ahead, and a bad one names its own batch."""

from datetime import date
from pathlib import Path

import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.lake.table import Lake
from longreel.model.data.reader import Share, TrainingReader
from longreel.model.training.loss_monitor import LAG, Guard

CPU = torch.device("cpu")


@pytest.fixture
def shares(lake: Lake, days: list[date], config: Config) -> list[Share]:
    manifests = [lake.require("samples", day) for day in days]
    return list(TrainingReader(lake, manifests, ("click",), config.training).shares())[:5]


@pytest.fixture(autouse=True)
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAG, "cpu", 2)  # as on CUDA


def put(guard: Guard, shares: list[Share], losses: list[float], norms: list[float]) -> None:
    for number, (share, loss, norm) in enumerate(zip(shares, losses, norms, strict=True)):
        guard.add(number + 1, torch.tensor(loss), torch.tensor(norm), share)


def test_late_reading_gives_every_outcome_once_and_in_order(shares: list[Share]) -> None:
    guard = Guard(CPU, 5, Path("work"))
    put(guard, shares, [0.5, 0.4, 0.3, 0.2, 0.1], [1.0] * 5)
    assert [taken.step for taken in guard.known()] == [1, 2, 3]
    rest = list(guard.known(everything=True))
    assert [(taken.step, round(taken.loss, 6)) for taken in rest] == [(4, 0.2), (5, 0.1)]
    assert list(guard.known(everything=True)) == []


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [(float("nan"), 1.0, "the loss became nan"), (0.5, float("inf"), "the gradient's norm became inf")],
)
def test_a_bad_outcome_read_late_names_its_own_batch(shares: list[Share], loss: float, norm: float, said: str) -> None:
    guard = Guard(CPU, 5, Path("work"))
    put(guard, shares, [0.5, loss, 0.3, 0.2, 0.1], [1.0, norm, 1.0, 1.0, 1.0])
    index = shares[1].batch.request_index
    with pytest.raises(
        LongreelError, match=f"{said} at step 2 of 5, in a batch of requests {index.min()} .. {index.max()} "
    ):
        list(guard.known(everything=True))
