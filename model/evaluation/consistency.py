"""Consistency checks: different ways to compute the same logits agree, at every evaluation.

Float32 shows whether two ways are the same arithmetic, as rounding hides next to nothing there; a further check
compares a device's half precision with it. `rounding` bounds how far rounding may move a logit.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longreel.contracts.report import IN_MEMORY, ONE_ROW, PRECISION, ConsistencyCheck
from longreel.model.data.batch import RequestBatch, one_row_per_target
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import score_batch
from longreel.model.nn.ranker import Ranker
from longreel.model.training import golden
from longreel.model.training.golden import float32_logits

REQUESTS = 24  # a sample; the reference implementation copies a history for every target
MAX_EVENTS = 2_048  # of a history, for the same reason
MAX_COPIED = 400_000  # events and targets of all copies

UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}  # largest relative error of one rounding
TYPICAL = 0.41  # of UNIT: the standard deviation, for numbers whose logarithms are spread evenly
STEPS, STEPS_PER_LAYER = 20, 18  # values rounded one after the other on the way to a logit, and in each layer of STCA
SIGMAS = 5.0  # of ten thousand logits the one that is furthest off lies about four standard deviations out


def rounding(ranker: Ranker, logits: NDArray[np.floating[Any]], kind: torch.dtype) -> float:
    """A bound on the difference between a logit and its exact value if every intermediate value is rounded to `kind`.

    Roundings are taken as independent. LayerNorm keeps the norm of vectors, so n roundings leave a relative error of
    sqrt(n) times that of one, in a direction independent of the head: it moves a logit by that share of the head's
    norm. Then the logit itself is rounded. Sums are in float32 and have up to MAX_EVENTS terms: negligible in half
    precision, dominant in float32.

    Measured with bf16 on a CPU: rankers trained on three logs, 64 and 128 wide, are 2 to 6 times closer than that.
    """
    steps = STEPS + STEPS_PER_LAYER * ranker.config.layers
    terms = MAX_EVENTS if kind == torch.float32 else 1
    relative = TYPICAL * UNIT[kind] * math.sqrt(steps * terms)
    head = float(ranker.head.weight.detach().float().norm(dim=1).max())
    return SIGMAS * relative * head + UNIT[kind] * float(np.abs(logits).max(initial=0.0))


def check_consistency(
    ranker: Ranker, model_dir: Path, rows: SampleRows, window: int, device: torch.device
) -> Iterator[ConsistencyCheck]:
    """The comparisons of one model, up to three.

    The saved model with the one in memory after training, where the folder has golden logits; targets of a request
    scored together with each scored alone; half precision, where the device scores in it, with float32.
    """
    golden_batch = golden.read(model_dir)
    if golden_batch is not None:
        batch, expected = golden_batch
        logits = float32_logits(ranker, batch, device)
        yield compare(IN_MEMORY, logits, expected, 2 * rounding(ranker, expected, torch.float32))
    batch = _sample(rows, min(window, MAX_EVENTS))
    together, alone = (float32_logits(ranker, b, device) for b in (batch, one_row_per_target(batch)))
    yield compare(ONE_ROW, together, alone, 2 * rounding(ranker, together, torch.float32))
    if (precision := scoring_precision(device)) != torch.float32:
        scored = score_batch(ranker, batch, device)
        yield compare(PRECISION, scored, together, rounding(ranker, together, precision))


def scoring_precision(device: torch.device) -> torch.dtype:
    """The precision that `score_batch` computes in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _sample(rows: SampleRows, window: int) -> RequestBatch:
    """The first requests, as many as the copies of their histories allow."""
    requests = np.arange(min(REQUESTS, rows.num_requests))
    counts = rows.target_counts[requests]
    copied = np.cumsum(counts * (1 + np.minimum(rows.history_lengths[requests], window)))
    return rows.pack(requests[: max(1, int((copied <= MAX_COPIED).sum()))], window)


def compare(
    name: str, actual: NDArray[np.floating[Any]], expected: NDArray[np.floating[Any]], tolerance: float
) -> ConsistencyCheck:
    """Compare two arrays of logits; another shape or a nan fails the check, as the largest finite difference."""
    difference = np.abs(actual.astype(np.float64) - expected) if actual.shape == expected.shape else np.array([np.inf])
    largest = float(np.nan_to_num(difference.max(initial=0.0), nan=np.finfo(np.float64).max))
    return ConsistencyCheck(name=name, logits=actual.size, largest=largest, tolerance=tolerance)
