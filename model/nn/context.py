"""The sum of an event's small features: rows of one small table, and the columns of its action bits.

Millions of events read a few hundred rows. The forward pass gathers, which costs next to nothing; its gradient would be
as many additions into the same few rows, so on CUDA it is one matrix product with the events' multi-hot rows instead.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from longreel.contracts.actions import ACTIONS

BITS = tuple(ACTIONS.values())  # 1, 2, 4, ..
PATTERNS = 2 * max(BITS)  # one row for every combination of action bits, made from the bits' columns


def context_sum(
    table: Tensor, rows: Tensor, action_weight: Tensor | None = None, actions: Tensor | None = None
) -> Tensor:
    """Sum of table rows, and of a weight column per action bit.

    Args:
        table: [R, D]. rows: [E, F] int32. action_weight: [D, bits], as nn.Linear keeps it. actions: [E] int32 bitmask.

    Returns:
        [E, D], in the table's type; bf16 under CUDA's autocast.
    """
    if table.is_cuda:
        if torch.is_autocast_enabled("cuda"):
            kind = torch.get_autocast_dtype("cuda")
            table, action_weight = table.to(kind), None if action_weight is None else action_weight.to(kind)
        out: Tensor = _ContextSum.apply(table, rows, action_weight, actions)
        return out
    if action_weight is not None and actions is not None:
        pattern = actions & (PATTERNS - 1)
        rows = torch.cat([rows, (table.shape[0] + pattern)[:, None]], dim=1)
        table = torch.cat([table, _patterns(action_weight)])
    return F.embedding_bag(rows, table, mode="sum")


def _patterns(action_weight: Tensor) -> Tensor:
    """What each combination of action bits adds: [D, bits] -> [PATTERNS, D]."""
    pattern = torch.arange(PATTERNS, device=action_weight.device)
    return bits_of(pattern, action_weight.dtype) @ action_weight.T


def bits_of(actions: Tensor, kind: torch.dtype) -> Tensor:
    """[E] bitmask -> [E, bits] of 0 and 1."""
    return (actions[:, None] >> torch.arange(len(BITS), device=actions.device) & 1).to(kind)


class _Context(Protocol):
    """What `_ContextSum` keeps from its forward pass: rows and actions, and the number of table rows."""

    saved_tensors: tuple[Tensor, Tensor | None]
    num_rows: int

    def save_for_backward(self, rows: Tensor, actions: Tensor | None) -> None: ...


class _ContextSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        table: Tensor,
        rows: Tensor,
        action_weight: Tensor | None,
        actions: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(rows, actions)
        ctx.num_rows = table.shape[0]
        total = F.embedding(rows[:, 0], table)
        for column in range(1, rows.shape[1]):
            total = total + F.embedding(rows[:, column], table)
        if action_weight is not None and actions is not None:
            total = total + F.embedding(actions & (PATTERNS - 1), _patterns(action_weight))
        return total

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rows, actions), num_rows = ctx.saved_tensors, ctx.num_rows
        every = torch.arange(num_rows, device=rows.device, dtype=rows.dtype)
        hot = rows[:, 0:1] == every
        for column in range(1, rows.shape[1]):
            hot = hot | (rows[:, column : column + 1] == every)  # features own rows apart: no event reads one twice
        if actions is None:
            return hot.to(gradient.dtype).T @ gradient, None, None, None
        bits = bits_of(actions, torch.bool)
        both = torch.cat([hot, bits], dim=1).to(gradient.dtype).T @ gradient
        return both[:num_rows], None, both[num_rows:].T, None
