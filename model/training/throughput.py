"""Throughput meter: rates over the newest training steps."""

import time
from collections import deque
from typing import NamedTuple

from longreel.model.training.step import StepResult

RECENT = 50  # steps


class Rates(NamedTuple):
    """Rates over the last RECENT steps of this process, for all ranks together."""

    targets_per_s: float
    tokens_per_s: float  # history events plus targets
    flop_utilisation: float | None  # model FLOPs over the devices' peak; None where the peak is unknown
    data_wait_share: float  # of the time; on CUDA an upper bound, as the host runs ahead of the device


class Throughput:
    """Turns the work of steps into rates."""

    def __init__(self, peak: float | None) -> None:
        self._peak = peak  # FLOP/s of all ranks' devices
        self._total = [0.0, 0.0, 0.0, 0.0]
        self._marks: deque[tuple[float, list[float]]] = deque([(time.monotonic(), [0.0] * 4)], maxlen=RECENT + 1)

    def add(self, result: StepResult, waited_s: float) -> None:
        """Count a step that was given to the device; `waited_s`: seconds that the host waited for its batch."""
        batch = result.rank_batch
        work = (batch.num_targets, batch.num_targets + batch.num_events, result.flops, waited_s)
        self._total = [a + b for a, b in zip(self._total, work, strict=True)]
        self._marks.append((time.monotonic(), self._total))

    def rates(self) -> Rates:
        """Over the last RECENT steps."""
        (began, before), (now, total) = self._marks[0], self._marks[-1]
        targets, tokens, flops, waited = ((b - a) / max(now - began, 1e-9) for a, b in zip(before, total, strict=True))
        return Rates(targets, tokens, None if self._peak is None else flops / self._peak, min(1.0, waited))
