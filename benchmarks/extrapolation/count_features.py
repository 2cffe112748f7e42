"""Hand-made features of a history: counts and recency of the target item's ids, beside its numbers and categories.

In a history of impressions, those that led to an action are counted beside all of them.

Every number is read off sorted (id, place) keys by binary search: no loop over events, targets or requests.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import UNKNOWN, LogSchema
from longreel.model.data.samples import SampleRows
from longreel.model.nn.match_counts import counted_fields, counts_actions

EDGES = (32, 128, 512, 2_048, 10_240, 32_768)  # counts are taken in the newest so many events
NEVER = 1e6  # hours since an event that is not there


def edges_of(window: int) -> tuple[int, ...]:
    """The windows within which a model that reads `window` events may count."""
    return (*(edge for edge in EDGES if edge < window), window)


def plain_fields(log: LogSchema) -> list[str]:
    """Numbers and categories of a target."""
    return [field.name for field in log.of_place("item", "request") if field.kind in ("number", "category")]


def feature_names(log: LogSchema, window: int) -> list[str]:
    """Columns of `count_features`."""
    names = ["events", "hours since newest", "hours since oldest", *plain_fields(log)]
    if counts_actions(log):
        names += [f"events acted on in {edge}" for edge in edges_of(window)]
    for which in ("", " acted on") if counts_actions(log) else ("",):
        for field in counted_fields(log):
            names += [f"{field}{which} in {edge}" for edge in edges_of(window)]
            names += [f"hours since {field}{which}", f"events since {field}{which}", f"{field}{which} share"]
    return names


def count_features(rows: SampleRows, window: int) -> NDArray[np.float32]:
    """Features of every target, from the newest `window` events of its request: [targets, features]."""
    request = np.repeat(np.arange(rows.num_requests), rows.target_counts)
    stop = rows.history_stop[request]
    visible = np.minimum(stop - rows.history_start[request], window)
    request_time_ms = rows.request_time_ms[request]
    columns = [
        visible,
        _hours(rows, request_time_ms, stop - 1, visible > 0),
        _hours(rows, request_time_ms, stop - visible, visible > 0),
    ]
    columns += [rows.target[name] for name in plain_fields(rows.log_schema)]
    edges, every = edges_of(window), np.ones(len(rows.history["time_ms"]), bool)
    which = [every]
    if counts_actions(rows.log_schema):
        which.append(rows.history["actions"] != 0)
        before = np.concatenate([[0], np.cumsum(which[1])])
        columns += [before[stop] - before[stop - np.minimum(visible, edge)] for edge in edges]
    for chosen in which:
        for field in counted_fields(rows.log_schema):
            columns += _matches(rows, field, chosen, request, stop, visible, request_time_ms, edges)
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def _hours(rows: SampleRows, request_time_ms: Ints, place: Ints, matched: NDArray[np.bool_]) -> NDArray[np.float64]:
    times = rows.history["time_ms"]
    at = times[np.clip(place, 0, max(len(times) - 1, 0))] if len(times) else np.zeros(len(place), np.int64)
    return np.where(matched, (request_time_ms - at) / 3_600_000, NEVER)


def _matches(
    rows: SampleRows,
    field: str,
    chosen: NDArray[np.bool_],
    request: Ints,
    stop: Ints,
    visible: Ints,
    request_time_ms: Ints,
    edges: Sequence[int],
) -> list[NDArray[np.float64]]:
    """Counts of the chosen events within each edge, hours and events since the newest match, and its share of the
    window."""
    total = len(rows.history[field])
    values = np.concatenate([np.asarray(rows.history[field], np.int64), np.asarray(rows.target[field], np.int64)])
    _, code = np.unique(values, return_inverse=True)
    span = total + 1  # places within one id's run: history rows lie behind one another, so a place names its row too
    keys = np.sort((code[:total] * span + np.arange(total))[chosen])
    run_start = code[total:] * span
    has_value = np.asarray(rows.target[field]) != UNKNOWN
    upto = np.searchsorted(keys, run_start + stop)
    counts = [upto - np.searchsorted(keys, run_start + stop - np.minimum(visible, edge)) for edge in edges]
    newest = np.where(counts[-1] > 0, keys[np.maximum(upto - 1, 0)] - run_start if len(keys) else 0, 0)
    any_match = (counts[-1] > 0) & has_value
    since = np.where(any_match, stop - 1 - newest, NEVER)
    share = np.where(any_match, counts[-1] / np.maximum(visible, 1), 0)
    return [
        *(np.where(has_value, count, 0) for count in counts),
        _hours(rows, request_time_ms, newest, any_match),
        since,
        share,
    ]
