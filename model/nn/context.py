"""The sum of an event's small features: rows of one small table, and the columns of its action bits.

Millions of events read a few hundred rows. The forward pass gathers, which costs next to nothing; its gradient would be
as many additions into the same few rows, so on CUDA it is one matrix product with the events' multi-hot rows instead.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 8  # action bits that one gather takes: it has a row for every combination of them


def action_chunks(actions: Tensor, num_actions: int) -> Tensor:
    """A bitmask [E] of up to 60 actions -> [E, chunks] int32, CHUNK bits a column; other bits are dropped."""
    chunks = [actions >> first & ((1 << min(CHUNK, num_actions - first)) - 1) for first in range(0, num_actions, CHUNK)]
    return torch.stack(chunks, dim=1).int() if chunks else actions.new_zeros(len(actions), 0).int()


def context_sum(
    table: Tensor, rows: Tensor, action_weight: Tensor | None = None, actions: Tensor | None = None
) -> Tensor:
    """Sum of table rows, and of a weight column per action bit.

    Args:
        table: [R, D]. rows: [E, F] int32. action_weight: [D, actions], as nn.Linear keeps it.
        actions: [E, chunks] int32, as `action_chunks` gives them.

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
        for chunk, weight in enumerate(action_weight.split(CHUNK, dim=1)):
            rows = torch.cat([rows, (table.shape[0] + actions[:, chunk])[:, None]], dim=1)
            table = torch.cat([table, _patterns(weight)])
    return F.embedding_bag(rows, table, mode="sum")


def _patterns(weight: Tensor) -> Tensor:
    """What each combination of a chunk's bits adds: [D, bits] -> [2 ** bits, D]."""
    patterns = torch.arange(1 << weight.shape[1], device=weight.device)
    return bits_of(patterns[:, None], weight.shape[1], weight.dtype) @ weight.T


def bits_of(chunks: Tensor, num_actions: int, kind: torch.dtype) -> Tensor:
    """[E, chunks] -> [E, actions] of 0 and 1."""
    bits = chunks[:, :, None] >> torch.arange(CHUNK, device=chunks.device) & 1
    return bits.flatten(1)[:, :num_actions].to(kind)


class _Context(Protocol):
    """What `_ContextSum` keeps from its forward pass: rows and actions, and the sizes of both weights."""

    saved_tensors: tuple[Tensor, Tensor | None]
    num_rows: int
    num_actions: int

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
        ctx.num_rows, ctx.num_actions = table.shape[0], 0 if action_weight is None else action_weight.shape[1]
        total = F.embedding(rows[:, 0], table)
        for column in range(1, rows.shape[1]):
            total = total + F.embedding(rows[:, column], table)
        if action_weight is not None and actions is not None:
            for chunk, weight in enumerate(action_weight.split(CHUNK, dim=1)):
                total = total + F.embedding(actions[:, chunk], _patterns(weight))
        return total

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rows, actions), num_rows = ctx.saved_tensors, ctx.num_rows
        every = torch.arange(num_rows, device=rows.device, dtype=rows.dtype)
        hot = rows[:, 0:1] == every
        for column in range(1, rows.shape[1]):
            hot = hot | (rows[:, column : column + 1] == every)  # features own rows apart: no event reads one twice
        if actions is None or not ctx.num_actions:
            return hot.to(gradient.dtype).T @ gradient, None, None, None
        bits = bits_of(actions, ctx.num_actions, torch.bool)
        both = torch.cat([hot, bits], dim=1).to(gradient.dtype).T @ gradient
        return both[:num_rows], None, both[num_rows:].T, None
