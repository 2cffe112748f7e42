"""Deferred check for non-finite losses: read a few steps late, and before any checkpoint is written.

On CUDA the host runs a few steps ahead; reading a loss at once would make it wait for the device at every step. So the
monitor reads results LAG steps late. Drained before a checkpoint, it guarantees that a loss that is not finite names
its own batch and that no checkpoint is written after it.
"""

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch

from longreel.contracts.errors import LongreelError
from longreel.model.training.step import StepResult

LAG = {"cuda": 2, "cpu": 0}  # steps; more would let the host run ahead for nothing


class LossMonitor:
    """Holds step results until they can be read without waiting."""

    def __init__(self, device: torch.device, total_steps: int, work_dir: Path) -> None:
        self._lag = LAG[device.type]
        self._total_steps, self._work_dir = total_steps, work_dir
        self._pending: deque[StepResult] = deque()

    def add(self, result: StepResult) -> None:
        """Queue a step for its check."""
        self._pending.append(result)

    def checked(self, drain: bool = False) -> Iterator[StepResult]:
        """Results in order: those older than the lag, or all of them.

        Raises:
            LongreelError: a loss or a gradient is not finite; the message names the batch.
        """
        while self._pending and (drain or len(self._pending) > self._lag):
            result = self._pending.popleft()
            if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
                raise LongreelError(self._error(result))
            yield result

    def _error(self, result: StepResult) -> str:
        batch = result.rank_batch.batch
        index = batch.request_index
        requests = f"requests {int(index.min())} .. {int(index.max())}" if len(index) else "no requests on this rank"
        if math.isfinite(result.loss):
            problem = f"the gradient's norm became {result.gradient_norm}"
        else:
            problem = f"the loss became {result.loss}"
        return (
            f"{problem} at step {result.step} of {self._total_steps}, in a batch of {requests} of users "
            f"{batch.user_id[:5].tolist()} ... ({batch.num_requests} requests, {batch.num_targets} targets); the "
            f"checkpoint before it is kept in {self._work_dir}: lower learning_rate or clip_norm, or look at those rows"
        )
