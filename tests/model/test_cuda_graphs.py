"""On a GPU, a replayed step gives the bits of the step that launches everything, whatever the shapes' order."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from longreel.contracts.config import Config
from longreel.lake.table import Lake
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.cuda_graphs import GraphedBackward, loss_and_gradients, wants_graphs
from longreel.model.training.device import deterministic
from longreel.model.training.device_loader import RowLookup
from longreel.model.training.padding import pad_to_bucket
from longreel.model.training.train import train
from tests.model.every_kind import EVERY_KIND, make_sample_rows

TASKS = ("click", "like")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_graphs_are_for_cuda_alone(config: Config) -> None:
    training = config.training
    assert wants_graphs(training, torch.device("cuda"))
    assert not wants_graphs(training, torch.device("cpu"))
    assert not wants_graphs(replace(training, activation_checkpointing=True), torch.device("cuda"))
    assert not wants_graphs(replace(training, cuda_graphs=False), torch.device("cuda"))


def short_videos(config: Config, sample_rows: Callable[..., SampleRows], counted: bool) -> tuple[Ranker, SampleRows]:
    """A ranker with dropout, and rows."""
    rows = sample_rows(3)
    encodings = learn_encodings(rows.log_schema, rows)
    return Ranker(replace(config.model, match_counts=counted), TASKS, rows.log_schema, encodings), rows


def every_kind(config: Config) -> tuple[Ranker, SampleRows]:
    """A ranker with dropout whose log has every kind of field, and rows."""
    rows = make_sample_rows(EVERY_KIND, 1, requests=50)
    model = replace(config.model, match_counts=True)
    return Ranker(model, ("click", "spent"), EVERY_KIND, learn_encodings(EVERY_KIND, rows)), rows


@on_a_gpu
@pytest.mark.parametrize("log", ["short videos", "match counts", "every kind"])
def test_replays_give_the_gradients_of_launches(
    config: Config, sample_rows: Callable[..., SampleRows], log: str
) -> None:
    device = torch.device("cuda")
    ranker, rows = (
        every_kind(config) if log == "every kind" else short_videos(config, sample_rows, log != "short videos")
    )
    ranker = ranker.to(device).train()
    parameters, lookup = list(ranker.parameters()), RowLookup(ranker.embeddings, device)
    tables = {id(p) for p in ranker.table_parameters()}
    graphed = GraphedBackward(ranker, [*ranker.table_parameters(), *ranker.dense_parameters()])
    sizes = [(3, 48), (30, 16), (4, 48), (40, 64), (3, 48), (29, 16)]
    with deterministic():
        for seed, (n, window) in enumerate(sizes):
            batch = lookup(rows.pack(np.arange(3, 3 + n), window, ranker.tasks).to(device))
            padded = pad_to_bucket(batch, ranker.log_schema.match_fields, batch.num_targets)
            assert batch.rows is not None
            loss = graphed(padded, batch.rows, seed)
            torch.manual_seed(seed)
            expected, gradients = loss_and_gradients(ranker, parameters, padded)
            assert torch.equal(loss, expected)
            for p, gradient in zip(parameters, gradients, strict=True):
                if id(p) in tables:
                    assert gradient is not None
                    rows_of_batch = p.grad._values().shape[0]
                    assert torch.equal(p.grad._values(), gradient._values()[:rows_of_batch])
                    assert torch.equal(p.grad._indices(), gradient._indices()[:, :rows_of_batch])
                else:
                    assert torch.equal(p.grad, gradient)
    assert 0 < len(graphed._graphs) < len(sizes)


@on_a_gpu
def test_training_with_cuda_graphs_is_deterministic_also_after_a_resume(
    config: Config, lake: Lake, days: list[date], tmp_path: Path
) -> None:
    settings = replace(config, training=replace(config.training, cuda_graphs=True, device="cuda", compile="off"))

    def stop_at(step: int) -> Callable[[object], None]:
        def look(stats: object) -> None:
            if getattr(stats, "step", 0) >= step:
                raise InterruptedError

        return look

    whole = train(settings, lake, days, tmp_path / "a", tmp_path / "a-model")
    with pytest.raises(InterruptedError):
        train(settings, lake, days, tmp_path / "b", tmp_path / "b-model", on_step=stop_at(8))
    resumed = train(settings, lake, days, tmp_path / "b", tmp_path / "b-model")
    eager = replace(settings, training=replace(settings.training, cuda_graphs=False))
    launched = train(eager, lake, days, tmp_path / "c", tmp_path / "c-model")
    assert whole.model_digest == resumed.model_digest
    assert whole.final_loss == pytest.approx(launched.final_loss, rel=0.02)
