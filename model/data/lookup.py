"""Embedding rows of a batch: looked up ahead of the step, de-duplicated, and gathered with sparse gradients.

Look-ups are integers: ids become rows of hashed tables, small features rows of a context table (field_rows.py). They
run in the thread that reads ahead, on the device that trains; the step itself only gathers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BatchRows:
    """Embedding rows of a batch. With `unique`, `history` and `target` index it; else rows of the whole table.

    A multi has several columns, and a weight in each. None stands for what the log schema does not declare.
    """

    history: Tensor  # [H, columns] int32: ids, then multis
    target: Tensor  # [T, columns] int32
    user: Tensor  # [B, columns] int32: one or more for every field of the user
    history_context: Tensor  # [H, features + ceil(actions / 8)] int32: rows of the context table, then action bits
    target_context: Tensor  # [T, features] int32
    history_weights: Tensor | None = None  # [H, columns of multis] float32
    target_weights: Tensor | None = None  # [T, columns of multis] float32
    user_weights: Tensor | None = None  # [B, columns] float32
    history_vectors: Tensor | None = None  # [H, elements] float32, standardised
    target_vectors: Tensor | None = None  # [T, elements] float32
    user_vectors: Tensor | None = None  # [B, elements] float32
    match_counts: Tensor | None = None  # [T, numbers] float32, for models with match counts (model/nn/match_counts.py)
    unique: Tensor | None = None  # [U] int64, increasing: rows of the id table
    counts: Tensor | None = None  # [U] int64: lookups of each
    user_unique: Tensor | None = None  # [V] int64, increasing: rows of the user table

    @property
    def num_unique(self) -> int:
        """U, or 0 where rows are of the whole table."""
        return 0 if self.unique is None else self.unique.shape[0]

    @property
    def num_user_unique(self) -> int:
        """V, likewise."""
        return 0 if self.user_unique is None else self.user_unique.shape[0]

    def map(self, move: Callable[[Tensor], Tensor]) -> "BatchRows":
        """The same rows, every tensor moved."""
        tensors: dict[str, Tensor | None] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: None if tensor is None else move(tensor) for name, tensor in tensors.items()}
        return replace(self, **moved)

    def resized(self, resize: Callable[[Tensor, int], Tensor], lengths: Mapping[str, int]) -> "BatchRows":
        """`resize` applied to every tensor with its new length: those of `history`, `target`, `user` (of requests),
        `unique` and `user_unique`. Without `counts`."""
        changed: dict[str, Any] = {"counts": None}
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None and field.name != "counts":
                changed[field.name] = resize(tensor, lengths[_AXES.get(field.name, field.name.split("_")[0])])
        return replace(self, **changed)


_AXES = {"match_counts": "target", "user_unique": "user_unique"}  # what else a tensor has a row for, its name says


def row_starts(sizes: Mapping[str, int]) -> dict[str, int]:
    """Where each of several parts of a table begins."""
    ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
    return dict(zip(sizes, ends, strict=False))


class HashedTable(nn.Module):
    """Vectors of several features in one matrix, in which each feature has its own rows."""

    def __init__(self, sizes: dict[str, int], width: int, std: float = 0.1) -> None:
        super().__init__()
        self.sizes, self.starts = sizes, row_starts(sizes)
        self.weight = nn.Parameter(torch.empty(sum(sizes.values()), width).normal_(std=std))

    @property
    def num_rows(self) -> int:
        """Rows of all features."""
        return self.weight.shape[0]

    def gather(self, unique: Tensor | None) -> Tensor:
        """The rows `unique` [U, width], with a gradient of those rows only; None: the whole table."""
        return self.weight if unique is None else gather_rows(self.weight, unique)


class _Context(Protocol):
    """What `_GatherRows` keeps from its forward pass."""

    saved_tensors: tuple[Tensor]
    table_shape: torch.Size

    def save_for_backward(self, unique: Tensor) -> None: ...


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, weight: Tensor, unique: Tensor) -> Tensor:
        ctx.save_for_backward(unique)
        ctx.table_shape = weight.shape
        return weight.index_select(0, unique)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        (unique,) = ctx.saved_tensors
        return row_gradient(unique, gradient, ctx.table_shape), None


def gather_rows(weight: Tensor, unique: Tensor) -> Tensor:
    """weight[unique], with a sparse gradient for `weight`: `unique` [U] must be increasing, without repeats."""
    out: Tensor = _GatherRows.apply(weight, unique)
    return out


def row_gradient(unique: Tensor, values: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """A sparse gradient of a table [rows, width] from distinct increasing rows [U] and their values [U, width]."""
    return torch.sparse_coo_tensor(unique[None], values, shape, is_coalesced=True, check_invariants=False)


class RowDeduplicator:
    """Finds the distinct table rows of lookups without sorting: marks rows, then collects the marks.

    Costs a pass over the lookups and one over a byte per table row. Not thread-safe.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._marked = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._place = torch.zeros(num_rows, dtype=torch.int32, device=device)

    def __call__(self, *lookups: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Rows, each of any shape -> distinct rows [U] int64 in increasing order, and the lookups as places in them.

        Waits for the device, which computes U.
        """
        for lookup in lookups:
            self._marked.index_fill_(0, lookup.flatten().long(), True)
        unique = self._marked.nonzero().squeeze(1)
        self._place.index_copy_(0, unique, torch.arange(len(unique), dtype=torch.int32, device=unique.device))
        self._marked.zero_()
        return unique, [self._place[lookup.flatten()].view(lookup.shape) for lookup in lookups]
