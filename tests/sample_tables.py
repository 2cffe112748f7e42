"""A log schema with every kind of field in every place, and random samples of any log schema."""

from typing import Any

import numpy as np
import pyarrow as pa

from longreel.contracts import toml
from longreel.contracts.log_schema import Column, LogSchema
from longreel.contracts.log_schema_toml import build_log_schema

HOUR = 3_600_000

EVERY_KIND_TOML = """
[fields.item]
item_id = {rows = 512}
brand = {kind = "id", rows = 128, match = true, optional = true}
color = {kind = "category"}
price = {kind = "number"}
topics = {kind = "multi", size = 3, rows = 64, optional = true}
title = {kind = "vector", size = 4, optional = true}

[fields.request]
query = {kind = "id", rows = 64}
device = {kind = "category"}
slot = {kind = "number", optional = true}
words = {kind = "multi", size = 2, rows = 64}
page = {kind = "vector", size = 2}
hour = {kind = "hour"}
weekday = {kind = "weekday"}

[fields.event]
coupon = {kind = "id", rows = 16, of = "purchase"}
screen = {kind = "category", optional = true}
dwell_ms = {kind = "number"}
places = {kind = "multi", size = 2, rows = 16}
scroll = {kind = "vector", size = 3}

[fields.user]
home = {kind = "id", rows = 64}
country = {kind = "category"}
age = {kind = "number", optional = true}
interests = {kind = "multi", size = 3, rows = 64}
taste = {kind = "vector", size = 2, optional = true}

[actions]
click = "click"
purchase = {when = "bought_at IS NOT NULL", at = "bought_at"}

[history]
events = "impressions"

[labels]
click = "click"
spent = {value = "if(purchase, price, 0)"}
bought = {when = "purchase", within = "24 h", weight = 2}
"""

EVERY_KIND = build_log_schema(toml.parse(EVERY_KIND_TOML, "every kind"), "Europe/Berlin", "every kind")


def random_rows(
    log_schema: LogSchema, seed: int, users: int = 12, longest: int = 40, first_user: int = 100
) -> list[dict[str, Any]]:
    """User-days as rows of samples; the first has no history. Some values are missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        events = int(rng.integers(1, longest + 1)) if user else 0
        start = 1_700_000_000_000 + int(rng.integers(0, HOUR))
        times = np.sort(start + rng.integers(0, 50 * HOUR, events))
        requests = sorted({int(time) for time in rng.integers(start, start + 60 * HOUR, int(rng.integers(1, 5)))})
        counts = rng.integers(1, 6, len(requests))
        total = int(counts.sum())
        row: dict[str, Any] = {"user_id": first_user + user}
        for column in log_schema.user_columns:
            values = random_values(rng, column, 1)
            row[f"user_{column.name}"] = values[0] if column.size == 1 else values
        history = {column.name: random_values(rng, column, events) for column in log_schema.event_columns}
        history["time_ms"] = times.tolist()
        history["actions"] = rng.integers(0, 1 << len(log_schema.actions), events).tolist()
        row |= {f"history_{name}": values for name, values in history.items()}
        row |= {
            "request_id": [f"u{user}r{i}" for i in range(len(requests))],
            "request_time_ms": requests,
            "request_history_end": [int((times < time).sum()) for time in requests],
            "request_target_end": np.cumsum(counts).tolist(),
        }
        row |= {f"target_{column.name}": random_values(rng, column, total) for column in log_schema.item_columns}
        row["target_labels"] = rng.integers(0, 1 << len(log_schema.binary_labels), total).tolist()
        for name in log_schema.number_labels:
            row[f"target_label_{name}"] = random_values(rng, Column(name, pa.float32()), total)
        rows.append(row)
    return rows


def random_values(rng: np.random.Generator, column: Column, number: int) -> list[Any]:
    """`number` x size elements of a column, a tenth of them missing."""
    size = number * column.size
    if pa.types.is_floating(column.type):
        numbers = rng.normal(size=size).astype(np.float32)
        return np.where(rng.random(size) < 0.1, np.float32("nan"), numbers).tolist()
    small = column.field is not None and column.field.kind == "category"
    codes = rng.integers(0, 5 if small else 500, size)
    return np.where(rng.random(size) < 0.1, -1, codes).tolist()
