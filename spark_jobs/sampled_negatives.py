"""Sampled negatives, for a log that holds positives only: items of the day's other impressions, drawn for each request.

An item is drawn as often as the day shows it. A draw depends on the day's events, the user, the request's time and the
number of the draw alone: neither on buckets nor on the order of files.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import Column, LogSchema
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.spark_jobs.array_digest import Words, mix
from longreel.spark_jobs.array_io import read_bucket
from longreel.spark_jobs.history_events import Columns, column_values
from longreel.spark_jobs.requests import Requests

POOL_EVENTS = 1 << 16  # impressions of a day that negatives are drawn from, at most
KEYS = ("user_id", "time_ms", "item_id")


@dataclass(frozen=True, kw_only=True)
class NegativePool:
    """The item fields of some of a day's impressions, each [n] or [n, size], and how many to draw for a request."""

    columns: Columns
    draws: int


def pool_columns(log: LogSchema) -> tuple[Column, ...]:
    """The columns that a negative has of the item drawn; the others of a target are the request's."""
    return tuple(c for c in log.item_columns if c.field is not None and c.field.place == "item")


def negative_pool(lake: Lake, events: Manifest, draws: int) -> NegativePool:
    """The pool of a log day: POOL_EVENTS of its impressions, chosen by hash; all of a smaller day."""
    columns = pool_columns(lake.log_schema)
    names = list(dict.fromkeys([*KEYS, *(column.name for column in columns)]))
    pool, hashes = lake.schemas.events.empty_table().select(names), np.zeros(0, np.uint64)
    for table in read_bucket(lake, events, 0, 1, names, None):
        pool, hashes = _smallest(pa.concat_tables([pool, table]), np.concatenate([hashes, _hashes(table)]))
    return NegativePool(columns={c.name: column_values(pool, c.name, c.size) for c in columns}, draws=draws)


def _hashes(table: pa.Table) -> Words:
    state = np.zeros(table.num_rows, np.uint64)
    for name in KEYS:
        state = mix(np.bitwise_xor(state, column_values(table, name).astype(np.uint64)))
    return state


def _smallest(table: pa.Table, hashes: Words) -> tuple[pa.Table, Words]:
    order = np.argsort(hashes, kind="stable")[:POOL_EVENTS]
    return table.take(pa.array(order)), hashes[order]


def add_negatives(
    columns: Columns, user_id: Ints, requests: Requests, pool: NegativePool, log: LogSchema
) -> tuple[Columns, Requests]:
    """The targets' columns [N + negatives], and requests over them: after its impressions, a request has `draws`
    negatives, less those that it has already.

    A negative has the item fields drawn, the request fields of the request's first impression, no binary label, and no
    value of a number label.

    Args:
        columns: of the day's impressions [N].
        user_id: of each request [R].
    """
    request = np.repeat(np.arange(len(requests.row)), pool.draws)
    drawn = _draw(user_id, requests, pool)
    shown = np.repeat(np.arange(len(requests.row)), requests.target_counts)
    items = np.concatenate([columns["item_id"][requests.targets], pool.columns["item_id"][drawn]])
    new = _first_of_request(np.concatenate([shown, request]), items)[len(shown) :]
    request, drawn = request[new], drawn[new]
    first = requests.targets[np.cumsum(requests.target_counts) - requests.target_counts][request]
    added = {name: values[first] for name, values in columns.items()}
    added |= {name: values[drawn] for name, values in pool.columns.items()}
    added["labels"] = np.zeros(len(drawn), columns["labels"].dtype)
    added |= {f"label_{name}": np.full(len(drawn), np.nan, np.float32) for name in log.number_labels}
    order = np.argsort(np.concatenate([shown, request]), kind="stable")
    places = np.concatenate([requests.targets, len(columns["item_id"]) + np.arange(len(drawn))])
    return {name: np.concatenate([values, added[name]]) for name, values in columns.items()}, Requests(
        row=requests.row,
        time_ms=requests.time_ms,
        ids=requests.ids,
        targets=places[order],
        target_counts=requests.target_counts + np.bincount(request, minlength=len(requests.row)),
    )


def _draw(user_id: Ints, requests: Requests, pool: NegativePool) -> Ints:
    """[R * draws] rows of the pool. Parts of one split request draw differently."""
    size = len(pool.columns["item_id"])
    seed = mix(mix(user_id.astype(np.uint64)) ^ requests.time_ms.astype(np.uint64))
    place, begins = np.arange(len(user_id)), np.ones(len(user_id), bool)
    begins[1:] = (np.diff(user_id) != 0) | (np.diff(requests.time_ms) != 0)
    part = place - np.maximum.accumulate(np.where(begins, place, 0))  # among requests of one user and time
    number = (part[:, None] * pool.draws + np.arange(pool.draws)).astype(np.uint64)
    return np.asarray(mix((seed[:, None] + mix(number + np.uint64(1))).reshape(-1)) % np.uint64(size)).astype(np.int64)


def _first_of_request(request: Ints, items: Ints) -> np.ndarray:
    """Whether each element is the first of its item in its request: [n] bool."""
    order = np.lexsort((np.arange(len(items)), items, request))
    begins = np.ones(len(items), bool)
    begins[1:] = (np.diff(request[order]) != 0) | (items[order][1:] != items[order][:-1])
    out = np.empty(len(items), bool)
    out[order] = begins
    return out
