"""Do different ways to the same logits agree? Checked every time a model is judged.

Whether two ways are the same arithmetic is seen in float32, where rounding hides next to nothing; whether a device's
half precision is close to that is one check more. How far rounding may move a logit: `rounding`.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longreel.contracts.report import IN_MEMORY, ONE_ROW, PRECISION, ParityCheck
from longreel.model.data.batch import RequestBatch, one_row_per_target
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import score_batch
from longreel.model.nn.ranker import Ranker
from longreel.model.training import golden
from longreel.model.training.golden import float32_logits

REQUESTS = 24  # a sample; the slow twin copies a history for every target
MOST_EVENTS = 2_048  # of a history, for the same reason
MOST_COPIED = 400_000  # events and targets of all copies

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}  # largest relative error of one rounding
TYPICAL = 0.41  # of UNIT: the standard deviation, for numbers whose logarithms are spread evenly
STEPS, STEPS_A_LAYER = 20, 18  # values rounded one after the other on the way to a logit, and in each layer of STCA
SIGMAS = 5.0  # of ten thousand logits the one that is furthest off lies about four standard deviations out


def rounding(ranker: Ranker, logits: NDArray[np.floating[Any]], kind: torch.dtype) -> float:
    """How far a logit may lie from the exact one if everything on its way is rounded to `kind`.

    Roundings are taken for independent. LayerNorm keeps vectors from growing, so n roundings leave one sqrt(n) times as
    far off as one does, relative to itself, and in a direction that means nothing to the head: that moves a logit by
    as much of the head's own norm. Then the logit itself is rounded. Sums are of float32 and have up to MOST_EVENTS
    terms: in half precision that is nothing beside the rest, in float32 it is the rest.

    Seen with bf16 on a CPU: rankers trained on three logs, 64 and 128 wide, are 2 to 6 times closer than that.
    """
    steps = STEPS + STEPS_A_LAYER * ranker.config.layers
    terms = MOST_EVENTS if kind == torch.float32 else 1
    relative = TYPICAL * UNIT[kind] * math.sqrt(steps * terms)
    head = float(ranker.head.weight.detach().float().norm(dim=1).max())
    return SIGMAS * relative * head + UNIT[kind] * float(np.abs(logits).max(initial=0.0))


def check_parity(
    ranker: Ranker, model_dir: Path, rows: SampleRows, window: int, device: torch.device
) -> Iterator[ParityCheck]:
    """The model read from `model_dir` against the one that training had in memory, where it left word of that; targets
    scored together against each alone; and half precision, where the device scores in it, against float32."""
    kept = golden.read(model_dir)
    if kept is not None:
        asked, said = kept
        here = float32_logits(ranker, asked, device)
        yield compared(IN_MEMORY, here, said, 2 * rounding(ranker, said, torch.float32))
    batch = _sample(rows, min(window, MOST_EVENTS))
    together, alone = (float32_logits(ranker, each, device) for each in (batch, one_row_per_target(batch)))
    yield compared(ONE_ROW, together, alone, 2 * rounding(ranker, together, torch.float32))
    if (kind := served_in(device)) != torch.float32:
        yield compared(PRECISION, score_batch(ranker, batch, device), together, rounding(ranker, together, kind))


def served_in(device: torch.device) -> torch.dtype:
    """The precision that `score_batch` computes in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _sample(rows: SampleRows, window: int) -> RequestBatch:
    """The first requests, as many as the copies of their histories allow."""
    requests = np.arange(min(REQUESTS, rows.num_requests))
    counts = rows.target_counts[requests]
    copied = np.cumsum(counts * (1 + np.minimum(rows.history_lengths[requests], window)))
    return rows.pack(requests[: max(1, int((copied <= MOST_COPIED).sum()))], window)


def compared(
    name: str, ours: NDArray[np.floating[Any]], theirs: NDArray[np.floating[Any]], allowed: float
) -> ParityCheck:
    """Two arrays of logits side by side; another shape or a nan is no agreement at all."""
    same = ours.shape == theirs.shape
    gap = np.abs(ours.astype(np.float64) - theirs) if same else np.array([np.inf])
    return ParityCheck(name=name, logits=ours.size, largest=float(gap.max(initial=0.0)), tolerance=allowed)
