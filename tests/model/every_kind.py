"""A log with every kind of field in every place that it can have, more than 32 actions, and rows of it."""

import numpy as np

from longreel.contracts.jagged import offsets_of
from longreel.contracts.log_schema import ITEM, UNKNOWN, Action, Column, Field, Label, LogSchema
from longreel.model.data.samples import SampleRows

EVERY_KIND = LogSchema(
    fields=(
        ITEM,
        Field(name="brand", place="item", kind="id", rows=32, match=True),
        Field(name="seller", place="item", kind="id", rows=16),
        Field(name="department", place="item", kind="category", rows=8),
        Field(name="price", place="item", kind="number", rows=6),
        Field(name="tags", place="item", kind="multi", rows=64, size=3),
        Field(name="title", place="item", kind="vector", size=4),
        Field(name="query", place="request", kind="multi", rows=16, size=2),
        Field(name="device", place="request", kind="category"),
        Field(name="hour", place="request", kind="hour"),
        Field(name="weekday", place="request", kind="weekday"),
        Field(name="basket", place="event", kind="id", rows=16),
        Field(name="dwell_ms", place="event", kind="number"),
        Field(name="reasons", place="event", kind="multi", rows=16, size=2),
        Field(name="response", place="event", kind="vector", size=2),
        Field(name="segment", place="user", kind="id", rows=16),
        Field(name="country", place="user", kind="category"),
        Field(name="age", place="user", kind="number", rows=4),
        Field(name="interests", place="user", kind="multi", rows=16, size=3),
        Field(name="profile", place="user", kind="vector", size=3),
    ),
    actions=tuple(Action(name=name) for name in ("click", "buy", *(f"act{i}" for i in range(35)))),
    labels=(Label(name="click", when="click"), Label(name="spent", value="price", weight=2.0)),
    time_zone="Europe/Berlin",
)


def make_sample_rows(log: LogSchema, seed: int, requests: int = 12, longest: int = 20) -> SampleRows:
    """A request for each user, some without history; every column has values that are missing."""
    rng = np.random.default_rng(seed)
    lengths, counts = rng.integers(0, longest, requests), rng.integers(1, 5, requests)
    lengths[0] = 0
    starts, events, targets = offsets_of(lengths), int(lengths.sum()), int(counts.sum())

    def column(of: Column, rows: int) -> np.ndarray:
        kind, shape = of.type.to_pandas_dtype(), (rows,) if of.size == 1 else (rows, of.size)
        if of.name == "actions":
            return rng.integers(0, 1 << len(log.actions), rows).astype(kind)
        missing = rng.random(rows) < 0.2
        if np.issubdtype(kind, np.floating):
            values = rng.normal(3, 2, shape).astype(kind)
            values[missing] = np.nan
        else:
            values = rng.integers(0, 9, shape).astype(kind)
            values[missing] = UNKNOWN
            if of.size > 1:
                values[:, -1] = UNKNOWN  # shorter than its size
        return values

    now = 1_790_000_000_000 + rng.integers(0, 400 * 86_400_000, requests)
    ages = np.concatenate([np.sort(rng.integers(1, 10**10, n))[::-1] for n in lengths])
    history = {of.name: column(of, events) for of in log.event_columns if of.name != "time_ms"}
    history["time_ms"] = np.repeat(now, lengths) - ages
    number_labels = {name: rng.normal(20, 5, targets).astype(np.float32) for name in log.number_labels}
    for values in number_labels.values():
        values[::3] = np.nan
    return SampleRows(
        log_schema=log,
        user_id=np.arange(requests),
        user={of.name: column(of, requests) for of in log.user_columns},
        history=history,
        target={of.name: column(of, targets) for of in log.item_columns},
        labels=rng.integers(0, 1 << len(log.binary_labels), targets).astype(np.int32),
        binary_labels=log.binary_labels,
        number_labels=number_labels,
        request_row=np.arange(requests),
        request_time_ms=now,
        history_start=starts[:-1],
        history_stop=starts[1:],
        target_offsets=offsets_of(counts),
    )
