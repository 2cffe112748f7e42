"""Hashing of ids to table rows: the same row on every machine, device and day."""

import torch
from torch import Tensor

from longreel.contracts.log_schema import UNKNOWN

# SplitMix64's constants as signed 64-bit integers, since torch has no unsigned arithmetic; products wrap alike.
_ADD, _MUL_1, _MUL_2 = (
    c - 2**64 if c >= 2**63 else c for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def mix64(ids: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 ids, equal to model.windows.splitmix64 bit for bit."""
    mixed = ids.to(torch.int64) + _ADD
    for shift, factor in ((30, _MUL_1), (27, _MUL_2)):
        mixed = (mixed ^ _logical_shift(mixed, shift)) * factor
    return mixed ^ _logical_shift(mixed, 31)


def _logical_shift(values: Tensor, by: int) -> Tensor:
    return (values >> by) & ((1 << (64 - by)) - 1)


def bucket(ids: Tensor, buckets: int | Tensor) -> Tensor:
    """Ids of any integer type -> rows in [0, buckets): row 0 for an unknown id, a hash for the others.

    `buckets` may be a tensor that broadcasts with the ids.
    """
    rows = 1 + (mix64(ids) & 0x7FFFFFFFFFFFFFFF) % (buckets - 1)
    return rows.masked_fill_(ids == UNKNOWN, 0)
