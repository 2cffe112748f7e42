"""Sample rows whose targets are put together into one request a row."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from longreel.model.data.samples import SampleRows


def test_one_request_a_row_has_all_targets_and_the_first_requests_history(
    sample_rows: Callable[..., SampleRows],
) -> None:
    rows = sample_rows(3)
    merged = rows.one_request_a_row()
    assert merged.num_requests == len(np.unique(rows.request_row)) < rows.num_requests
    assert merged.target_offsets[-1] == rows.target_offsets[-1]
    assert merged.target is rows.target
    for number, row in enumerate(merged.request_row):
        of_row = np.flatnonzero(rows.request_row == row)
        assert merged.target_counts[number] == rows.target_counts[of_row].sum()
        assert merged.history_stop[number] == rows.history_stop[of_row].min()
        assert merged.request_time_ms[number] == rows.request_time_ms[of_row].min()


def test_rows_without_requests_stay_without(sample_rows: Callable[..., SampleRows]) -> None:
    rows = sample_rows(3)
    none = replace(
        rows,
        request_row=rows.request_row[:0],
        request_time_ms=rows.request_time_ms[:0],
        history_start=rows.history_start[:0],
        history_stop=rows.history_stop[:0],
        target_offsets=rows.target_offsets[:1],
    )
    assert none.one_request_a_row().num_requests == 0
