"""Requests: which impressions were requested together, by rule, and how large requests are split.

    request_id     the id that the source gives; every row must have one
    delivery_time  rows of one user with the same time_ms
    gap            a new request after a pause of more than gap_ms
    auto           request_id where the row has one, delivery_time for the others

A request's time is that of its first impression. A request without an id is named `<user_id>@<request time>`. One with
more than `max_targets` impressions, less `sampled_negatives`, becomes several with the same id, time and history.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longreel.contracts.config import SamplesConfig
from longreel.contracts.jagged import Ints, offsets_of


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests by user row, time, id and part: R parts of requests over N impressions."""

    row: Ints  # [R] the user's row
    time_ms: Ints  # [R]
    ids: pa.Array  # [R] strings
    targets: Ints  # [N] the impressions, request by request, in the order they were given
    target_counts: Ints  # [R]


def find_requests(user_id: Ints, time_ms: Ints, request_id: pa.Array, row: Ints, settings: SamplesConfig) -> Requests:
    """The requests of impressions [N] ordered by user and time.

    Args:
        request_id: the source's ids, strings or null.
        row: the user's row, 0 for the first user, increasing.
    """
    rule = settings.request_rule
    by_id = rule == "request_id" or (rule == "auto" and request_id.null_count < len(request_id))
    if by_id:
        first, request, ids = _by_id(user_id, time_ms, request_id, row)
    else:
        first, request = _by_time(time_ms, row, settings.gap_ms if rule == "gap" else 0)
        ids = generated_ids(user_id[first], time_ms[first])
    place = np.argsort(request, kind="stable")
    counts = np.bincount(request, minlength=len(first)).astype(np.int64)
    most = settings.max_targets - settings.sampled_negatives
    parts = -(-counts // most)
    of = np.repeat(np.arange(len(first)), parts)  # the request that a part is of
    part = np.arange(len(of)) - offsets_of(parts)[:-1][of]
    return Requests(
        row=row[first][of],
        time_ms=time_ms[first][of],
        ids=ids if len(of) == len(first) else ids.take(pa.array(of)),
        targets=place,
        target_counts=np.minimum(counts[of] - part * most, most),
    )


def generated_ids(user_id: Ints, time_ms: Ints) -> pa.Array:
    """Ids of the requests that have none in the source."""
    return pc.binary_join_element_wise(pa.array(user_id).cast("string"), pa.array(time_ms).cast("string"), "@")


def _by_time(time_ms: Ints, row: Ints, pause_ms: int) -> tuple[Ints, Ints]:
    """The first impression of each request, and the request of each impression."""
    begins = np.ones(len(row), bool)
    begins[1:] = (np.diff(row) != 0) | (np.diff(time_ms) > pause_ms)
    return np.flatnonzero(begins), np.cumsum(begins) - 1


def _by_id(user_id: Ints, time_ms: Ints, request_id: pa.Array, row: Ints) -> tuple[Ints, Ints, pa.Array]:
    """As `_by_time`, and the ids; requests in order of user, time and id."""
    missing = np.flatnonzero(np.asarray(request_id.is_null()))
    filled = pc.replace_with_mask(request_id, request_id.is_null(), generated_ids(user_id[missing], time_ms[missing]))
    coded = filled.dictionary_encode()
    codes = np.asarray(coded.indices, np.int64)
    _, first, request = np.unique(row * len(coded.dictionary) + codes, return_index=True, return_inverse=True)
    time, owner = time_ms[first], row[first]
    order = np.lexsort((time, owner))
    if ((np.diff(time[order]) == 0) & (np.diff(owner[order]) == 0)).any():
        rank = np.empty(len(coded.dictionary), np.int64)
        rank[np.asarray(pc.sort_indices(coded.dictionary))] = np.arange(len(rank))
        order = np.lexsort((rank[codes[first]], time, owner))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return first[order], place[request], filled.take(pa.array(first[order]))


def resolved_rule(settings: SamplesConfig, rows: int, rows_with_id: int) -> str:
    """The rule that the manifest names: what `auto` resolved to on this day."""
    if settings.request_rule != "auto":
        return f"gap {settings.gap_ms} ms" if settings.request_rule == "gap" else settings.request_rule
    if rows_with_id == rows:
        return "request_id"
    return "request_id, delivery_time where it is missing" if rows_with_id else "delivery_time"
