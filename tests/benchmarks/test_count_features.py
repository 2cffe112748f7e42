"""Counts and recencies are those of a plain loop over every target's window."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.extrapolation.count_features import NEVER, count_features, edges_of, feature_names
from longreel.contracts.jagged import offsets_of
from longreel.contracts.log_schema import Column
from longreel.model.data.samples import SampleRows
from tests.short_video import SHORT_VIDEO


def names(columns: tuple[Column, ...]) -> list[str]:
    return [column.name for column in columns]


def some_rows() -> SampleRows:
    rng = np.random.default_rng(0)
    lengths, requests = [0, 40, 7], [1, 3, 2]
    starts = offsets_of(np.array(lengths))
    row = np.repeat(np.arange(3), requests)
    total = int(starts[-1])
    history = {name: rng.integers(-1, 5, total) for name in names(SHORT_VIDEO.event_columns)}
    history["time_ms"] = np.concatenate([np.sort(rng.integers(0, 10**9, n)) for n in lengths])
    counts = np.array([2, 1, 3, 2, 1, 4])
    target = {name: rng.integers(-1, 5, counts.sum()) for name in names(SHORT_VIDEO.item_columns)}
    stop = starts[row] + np.array([0, 12, 33, 40, 3, 7])
    return SampleRows(
        user_id=np.arange(3),
        log_schema=SHORT_VIDEO,
        user={},
        history=history,
        target=target,
        labels=None,
        number_labels={},
        request_row=row,
        request_time_ms=np.full(6, 2 * 10**9),
        history_start=starts[row],
        history_stop=stop,
        target_offsets=offsets_of(counts),
    )


@pytest.mark.parametrize("window", [5, 33, 10_240])
@pytest.mark.parametrize("history", ["click", "true"])
def test_features_are_those_of_a_plain_loop(window: int, history: str) -> None:
    log = replace(SHORT_VIDEO, history=history)
    rows, columns = replace(some_rows(), log_schema=log), feature_names(log, window)
    acted = rows.history["actions"] != 0
    features = count_features(rows, window)
    assert features.shape == (13, len(columns))
    column = {name: features[:, at] for at, name in enumerate(columns)}
    for r in range(rows.num_requests):
        stop = int(rows.history_stop[r])
        visible = list(range(max(int(rows.history_start[r]), stop - window), stop))
        for t in range(rows.target_offsets[r], rows.target_offsets[r + 1]):
            assert column["events"][t] == len(visible)
            for which in ("", " acted on") if history == "true" else ("",):
                counted = [e for e in visible if acted[e] or not which]
                for edge in edges_of(window) if which else ():
                    assert column[f"events{which} in {edge}"][t] == sum(e >= stop - edge for e in counted)
                for field in ("item_id", "author_id", "tag"):
                    value = rows.target[field][t]
                    hits = [e for e in counted if rows.history[field][e] == value and value != -1]
                    for edge in edges_of(window):
                        assert column[f"{field}{which} in {edge}"][t] == sum(e >= stop - edge for e in hits)
                    since = stop - 1 - hits[-1] if hits else NEVER
                    assert column[f"events since {field}{which}"][t] == since
                    age = (rows.request_time_ms[r] - rows.history["time_ms"][hits[-1]]) / 3_600_000 if hits else NEVER
                    assert column[f"hours since {field}{which}"][t] == pytest.approx(age, rel=1e-6)
                    assert column[f"{field}{which} share"][t] == pytest.approx(len(hits) / max(1, len(visible)))
