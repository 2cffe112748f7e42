"""The order of events, against Python's own sort; equal events only where every bit is equal."""

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from brute_force_samples import order_of
from hypothesis import given, settings
from hypothesis import strategies as st

from longreel.spark_jobs.array_digest import digest_sums
from longreel.spark_jobs.event_order import is_after, is_sorted, sort_rows

NUMBERS = st.sampled_from([0.0, -0.0, float("nan"), float("-inf"), 1.5, -2.0, 1e-45])
ROWS = st.lists(
    st.tuples(
        st.integers(0, 1),  # owner
        st.integers(0, 1),  # time
        st.integers(-1, 0),  # an id
        NUMBERS,
        st.lists(st.integers(-1, 1), min_size=2, max_size=2),  # a multi
        st.lists(NUMBERS, min_size=2, max_size=2),  # a vector
    ),
    max_size=24,
)


def columns_of(rows: list[tuple[Any, ...]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    kinds = {"time_ms": np.int64, "item_id": np.int64, "price": np.float32, "tags": np.int64, "title": np.float32}
    values = list(zip(*rows, strict=True)) or [[]] * 6
    columns = {n: np.array(v, k) for (n, k), v in zip(kinds.items(), values[1:], strict=True)}
    for name in ("tags", "title"):
        columns[name] = columns[name].reshape(len(rows), 2)
    return np.array(values[0], np.int64), columns


@settings(deadline=None, derandomize=True, max_examples=400)
@given(rows=ROWS)
def test_rows_are_sorted_as_python_sorts_them(rows: list[tuple[Any, ...]]) -> None:
    owner, columns = columns_of(rows)
    keys = [tuple(order_of(value) for value in row) for row in rows]
    order = sort_rows(owner, columns, np.arange(len(rows)))
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert [keys[place] for place in order] == sorted(keys)
    assert is_sorted(owner, columns) == (keys == sorted(keys))
    left, right = np.arange(max(len(rows) - 1, 0)), np.arange(1, max(len(rows), 1))
    expected = [a[1:] > b[1:] for a, b in itertools.pairwise(keys)]
    assert is_after(columns, left, right).tolist() == expected


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32()])
def test_the_digest_tells_elements_of_an_event_from_those_of_the_next(kind: pa.DataType) -> None:
    """Of multi and vector columns every element counts, and its place in the event."""

    def digest(times: list[int], values: list[float]) -> dict[str, int]:
        columns = {"history_time_ms": [times], "history_x": pa.array([values], pa.list_(kind))}
        return digest_sums(pa.table({"user_id": [1], **columns}))

    base = digest([5, 5], [1, 2, 3, 4])
    assert digest([5, 5], [1, 2, 3, 4]) == base
    for other in ([2, 1, 3, 4], [1, 3, 2, 4], [3, 4, 1, 2], [1, 2, 3, 5]):
        assert digest([5, 5], [float(value) for value in other]) != base
    assert digest([5], [1, 2, 3, 4]) != digest([5], [4, 3, 2, 1])
    assert digest_sums(pa.table({"user_id": [1], "user_x": [[1, 2]]})) != digest_sums(
        pa.table({"user_id": [1], "user_x": [[2, 1]]})
    )
