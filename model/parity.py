"""Do different ways to the same logits agree? Checked on the judged day's own rows, every time a model is judged."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.report import ParityCheck
from model.batch import one_row_per_target
from model.checkpoint import load_model, model_digest, save_model
from model.ranker import Ranker
from model.samples import SampleRows
from model.scoring import score_batch

REQUESTS = 24  # a sample; the slow twin copies a history for every target
MOST_EVENTS = 2_048  # of a history, for the same reason

# Other shapes add in another order: rounding of float32 on a CPU, of bf16 on a GPU. Logits are of the order of 1.
SAME_KERNELS = {"cpu": 0.0, "cuda": 0.02}
OTHER_KERNELS = {"cpu": 2e-4, "cuda": 0.1}


def check_parity(
    ranker: Ranker, meta: dict[str, Any], model_dir: Path, rows: SampleRows, window: int, device: torch.device
) -> Iterator[ParityCheck]:
    """The model saved and loaded again equals the one in memory; targets scored together equal each alone."""
    requests = np.arange(min(REQUESTS, rows.num_requests))
    batch = rows.pack(requests, min(window, MOST_EVENTS))
    with torch.inference_mode():
        here = score_batch(ranker, batch, device)
        with tempfile.TemporaryDirectory() as folder:
            saved = save_model(Path(folder) / "model", ranker, meta)
            again, _ = load_model(Path(folder) / "model", device)
        reloaded = score_batch(again, batch, device)
        alone = score_batch(ranker, one_row_per_target(batch), device)
    if saved != model_digest(model_dir):
        reloaded = np.full_like(reloaded, np.nan)  # what is in memory is not what the folder says
    yield compared("saved and loaded again", here, reloaded, SAME_KERNELS[device.type])
    yield compared("one row per target", here, alone, OTHER_KERNELS[device.type])


def compared(
    name: str, ours: NDArray[np.floating[Any]], theirs: NDArray[np.floating[Any]], tolerance: float
) -> ParityCheck:
    """Two arrays of logits side by side; another shape or a nan is no agreement at all."""
    same = ours.shape == theirs.shape
    gap = np.abs(ours.astype(np.float64) - theirs) if same else np.array([np.inf])
    return ParityCheck(name=name, logits=ours.size, largest=float(gap.max(initial=0.0)), tolerance=tolerance)
