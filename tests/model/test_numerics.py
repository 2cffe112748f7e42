"""A model says what its bits depend on, and a training that is resumed sets it again."""

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from longreel.contracts.config import Config
from longreel.lake.table import Lake
from longreel.model.training.checkpoint import load_model
from longreel.model.training.numerics import Numerics, intra_op_threads
from longreel.model.training.train import train

HERE = Numerics.of_process(torch.device("cpu"), 1)


@pytest.fixture
def wide(config: Config) -> Config:
    """Tensors that two threads share."""
    settings = replace(config.training, batch_tokens=4_000, window_max=512, window_mean=200, epochs=1)
    return replace(
        config,
        model=replace(config.model, width=64, embedding_width=32),
        training=replace(settings, checkpoint_every=2),
    )


@pytest.fixture
def long_lake(own_lake: Lake, days: list[date], publish_rows: Callable[..., None], rows: Callable[..., Any]) -> Lake:
    publish_rows(own_lake, days[0], rows(0, users=60, longest=400))
    return own_lake


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder)[0].state_dict()


def are_equal(one: Path, two: Path) -> bool:
    before, after = weights_of(one), weights_of(two)
    return all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_number_of_threads_decides_the_bits_is_recorded_and_set_again(
    wide: Config, long_lake: Lake, days: list[date], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class StoppedError(Exception):
        pass

    def stop(stats: Any) -> None:
        if stats.step == 3:
            raise StoppedError

    for threads in (1, 2):
        with intra_op_threads(threads):
            train(wide, long_lake, days[:1], tmp_path / f"work{threads}", tmp_path / f"model{threads}")
    (recorded,) = load_model(tmp_path / "model2")[1]["numerics"]
    assert Numerics(**recorded) == replace(HERE, threads=2)
    assert not are_equal(tmp_path / "model1", tmp_path / "model2")

    with intra_op_threads(2), pytest.raises(StoppedError):
        train(wide, long_lake, days[:1], tmp_path / "work", tmp_path / "model", on_step=stop)
    train(wide, long_lake, days[:1], tmp_path / "work", tmp_path / "model")  # in a process with one thread
    assert torch.get_num_threads() == 1  # as before
    assert are_equal(tmp_path / "model", tmp_path / "model2")
    assert "numerics" not in caplog.text


def test_a_training_resumed_elsewhere_says_so_and_records_both(
    config: Config, lake: Lake, days: list[date], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    def stop(stats: Any) -> None:
        if stats.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, lake, days, tmp_path / "work", tmp_path / "model", on_step=stop)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    train(config, lake, days, tmp_path / "work", tmp_path / "model")
    assert "resumed with other numerics" in caplog.text
    assert "variables: none then, MKL_CBWR=COMPATIBLE now" in caplog.text
    recorded = load_model(tmp_path / "model")[1]["numerics"]
    assert [values["variables"] for values in recorded] == [{}, {"MKL_CBWR": "COMPATIBLE"}]


def test_on_cuda_only_what_its_bits_depend_on_counts() -> None:
    cuda = replace(HERE, device="NVIDIA H200")
    assert cuda.changes(replace(cuda, threads=7, cpu="other", cpu_capability="AVX2")) == []
    assert cuda.changes(replace(cuda, ranks=2)) == ["ranks: 1 then, 2 now"]
    assert HERE.changes(replace(HERE, threads=HERE.threads + 1, torch_version="9.9")) == [
        f"torch version: {HERE.torch_version} then, 9.9 now",
        f"threads: {HERE.threads} then, {HERE.threads + 1} now",
    ]
    assert asdict(HERE)["cpu"]
