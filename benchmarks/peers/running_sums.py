"""Sums over the rows of a value within a range: of time, or of places in a history."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class RunningSums:
    """Sums of `values` [n, k] over rows that have a code [n] and a place [n], which is never negative."""

    def __init__(self, code: Ints, place: Ints, values: Floats) -> None:
        self.span = int(place.max(initial=0)) + 1
        key = code * self.span + place
        order = np.argsort(key, kind="stable")
        self.keys = key[order]
        self.sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values[order], axis=0)])

    def between(self, code: Ints, start: Ints, stop: Ints) -> Floats:
        """Sums over the rows of each code [m] whose place is start .. stop - 1: [m, k]."""
        first, end = (
            np.searchsorted(self.keys, code * self.span + np.clip(place, 0, self.span)) for place in (start, stop)
        )
        return np.asarray(self.sums[np.maximum(end, first)] - self.sums[first])


def codes(ours: Sequence[Ints], theirs: Sequence[Ints]) -> tuple[Ints, Ints]:
    """A number for each combination of values, the same in both tables: columns of each -> [n] and [m]."""
    columns = np.stack([np.concatenate(pair) for pair in zip(ours, theirs, strict=True)], axis=1)
    _, code = np.unique(columns, axis=0, return_inverse=True)
    code = np.asarray(code, np.int64).reshape(-1)
    return code[: len(ours[0])], code[len(ours[0]) :]
