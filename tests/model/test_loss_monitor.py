"""Step results are checked in order, a little late where the host runs ahead, and a bad one names its own batch."""

from datetime import date
from pathlib import Path

import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.lake.table import Lake
from longreel.model.data.reader import RankBatch, TrainingReader
from longreel.model.training.loss_monitor import LAG, LossMonitor
from longreel.model.training.step import StepResult

CPU = torch.device("cpu")


@pytest.fixture
def batches(lake: Lake, days: list[date], config: Config) -> list[RankBatch]:
    manifests = [lake.require("samples", day) for day in days]
    return list(TrainingReader(lake, manifests, ("click",), config.training).batches())[:5]


@pytest.fixture(autouse=True)
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAG, "cpu", 2)  # as on CUDA


def put(monitor: LossMonitor, batches: list[RankBatch], losses: list[float], norms: list[float]) -> None:
    for number, (batch, loss, norm) in enumerate(zip(batches, losses, norms, strict=True)):
        monitor.add(
            StepResult.of(
                step=number + 1,
                rank_batch=batch,
                flops=0.0,
                stop_requested=False,
                save_requested=False,
                loss=torch.tensor(loss),
                gradient_norm=torch.tensor(norm),
            )
        )


def test_late_reading_gives_every_result_once_and_in_order(batches: list[RankBatch]) -> None:
    monitor = LossMonitor(CPU, 5, Path("work"))
    put(monitor, batches, [0.5, 0.4, 0.3, 0.2, 0.1], [1.0] * 5)
    assert [result.step for result in monitor.checked()] == [1, 2, 3]
    rest = list(monitor.checked(drain=True))
    assert [(result.step, round(result.loss, 6)) for result in rest] == [(4, 0.2), (5, 0.1)]
    assert list(monitor.checked(drain=True)) == []


@pytest.mark.parametrize(
    ("loss", "norm", "message"),
    [(float("nan"), 1.0, "the loss became nan"), (0.5, float("inf"), "the gradient's norm became inf")],
)
def test_a_bad_result_read_late_names_its_own_batch(
    batches: list[RankBatch], loss: float, norm: float, message: str
) -> None:
    monitor = LossMonitor(CPU, 5, Path("work"))
    put(monitor, batches, [0.5, loss, 0.3, 0.2, 0.1], [1.0, norm, 1.0, 1.0, 1.0])
    index = batches[1].batch.request_index
    with pytest.raises(
        LongreelError, match=f"{message} at step 2 of 5, in a batch of requests {index.min()} .. {index.max()} "
    ):
        list(monitor.checked(drain=True))
