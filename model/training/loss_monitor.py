"""What was the loss, without the device being waited for? Read a few steps later, and never saved past a bad one.

On CUDA the host runs a few steps ahead; reading a loss at once would make it wait at every step. So losses and gradient
norms are copied on the side and looked at LAG steps later, with what their batch was. Draining before anything is
written keeps the promise: a loss that is not finite names its batch, and no checkpoint is written after it.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from longreel.contracts.errors import LongreelError
from longreel.model.data.reader import Share

LAG = {"cuda": 2, "cpu": 0}  # steps; more would let the host run ahead for nothing


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A step whose outcome is known."""

    step: int
    loss: float
    gradient_norm: float  # before clipping
    share: Share


class Guard:
    """Holds the outcomes of steps until they can be read for free."""

    def __init__(self, device: torch.device, total_steps: int, work_dir: Path) -> None:
        self._lag = LAG[device.type]
        self._total, self._work_dir = total_steps, work_dir
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None, Share]] = deque()

    def add(self, step: int, loss: Tensor, gradient_norm: Tensor, share: Share) -> None:
        """Take the outcome of a step, on the device."""
        outcome = torch.stack([loss.detach().float(), gradient_norm.detach().float()])
        event = None
        if outcome.is_cuda:
            outcome = torch.empty(2, pin_memory=True).copy_(outcome, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append((step, outcome, event, share))

    def known(self, everything: bool = False) -> Iterator[Taken]:
        """Outcomes in order, older than the lag or all of them.

        Raises:
            LongreelError: a loss or a gradient is not finite; the message names the batch.
        """
        while self._pending and (everything or len(self._pending) > self._lag):
            step, outcome, event, share = self._pending.popleft()
            if event is not None:
                event.synchronize()
            loss, norm = outcome.tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise LongreelError(self._said(step, loss, norm, share))
            yield Taken(step=step, loss=loss, gradient_norm=norm, share=share)

    def _said(self, step: int, loss: float, norm: float, share: Share) -> str:
        batch, index = share.batch, share.batch.request_index
        named = f"requests {int(index.min())} .. {int(index.max())}" if len(index) else "no requests on this rank"
        what = f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient's norm became {norm}"
        return (
            f"{what} at step {step} of {self._total}, in a batch of {named} of users {batch.user_id[:5].tolist()} ... "
            f"({batch.num_requests} requests, {batch.num_targets} targets); the checkpoint before it is kept in "
            f"{self._work_dir}: lower learning_rate or clip_norm, or look at those rows"
        )
