"""The order of events: by owner, then by every column, so that any build of the same events gives the same bits.

The columns count in the order of their dictionary. A multi or vector column [n, size] counts element by element, and a
column is only looked at where all before it are equal, so further columns cost nothing where times and items differ.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints

Values = NDArray[Any]
Columns = Mapping[str, Values]  # all of one length


def comparable(values: Values) -> Values:
    """Integers in the order of the values; floats as IEEE 754 `totalOrder` has them, where NaN equals the same NaN."""
    if values.dtype.kind != "f":
        return values
    bits = values.view(np.int32)
    return np.asarray(bits ^ ((bits >> 31) & 0x7FFFFFFF))


def sort_rows(owner: Ints, columns: Columns, rows: Ints) -> Ints:
    """`rows` [n] of the columns, ordered by `owner` [n], then by the columns."""
    first, *others = columns.values()
    order = np.lexsort((comparable(first[rows]), owner))
    rows, owner = rows[order], owner[order]
    tied, group = _ties(np.arange(len(rows)), owner, comparable(first[rows]))
    for values in others:
        if not len(tied):
            break
        keys = _keys(values[rows[tied]])
        order = np.lexsort((keys, group))
        rows[tied] = rows[tied][order]
        tied, group = _ties(tied, group, keys[order])
    return rows


def _ties(places: Ints, group: Ints, keys: Values) -> tuple[Ints, Ints]:
    """Of ordered places [n], those that share group and key with a neighbour, and their new groups."""
    same = (np.diff(group) == 0) & (np.diff(keys) == 0)
    number = np.cumsum(np.concatenate([np.zeros(min(len(places), 1), bool), ~same]))
    tied = np.concatenate([np.zeros(1, bool), same]) | np.concatenate([same, np.zeros(1, bool)])
    tied = tied[: len(places)]
    return places[tied], number[tied]


def _keys(values: Values) -> Values:
    """A key [n] for each value, or for each row of elements [n, size]: its rank among them."""
    values = comparable(values)
    if values.ndim == 1:
        return values
    return np.asarray(np.unique(values, axis=0, return_inverse=True)[1].reshape(-1))


def is_after(columns: Columns, left: Ints, right: Ints) -> NDArray[np.bool_]:
    """Whether the events at `left` [n] come after those at `right` [n]."""
    after, tied = np.zeros(len(left), bool), np.arange(len(left))
    for values in columns.values():
        if not len(tied):
            break
        a, b = comparable(values[left[tied]]), comparable(values[right[tied]])
        if values.ndim == 2:
            a, b = _first_difference(a, b)
        after[tied[a > b]] = True
        tied = tied[a == b]
    return after


def _first_difference(a: Values, b: Values) -> tuple[Values, Values]:
    """Of each pair of rows [n, size] the first elements that differ, or the first of all."""
    place = (a != b).argmax(axis=1)[:, None]
    return tuple(np.take_along_axis(values, place, axis=1)[:, 0] for values in (a, b))  # type: ignore[return-value]


def is_sorted(owner: Ints, columns: Columns) -> bool:
    """Whether events [n] are ordered by owner, then by the columns."""
    if (owner[1:] < owner[:-1]).any():
        return False
    same = np.flatnonzero(owner[1:] == owner[:-1])
    return not is_after(columns, same, same + 1).any()
