"""A small lake of a short-video log's samples for benchmarks, by numpy and pyarrow: every user-day has a long history.

Ids are Zipf-like, times increase, each request has `targets` targets and sees all but the newest few events. There is
nothing to learn in it; only sizes and distributions matter here.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints, offsets_of
from longreel.contracts.log_schema import Action, Field, Label, LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.table import Lake

FIRST_DAY = date(2026, 1, 5)
ITEMS, AUTHORS, TAGS = 400_000, 60_000, 300
GROUP_ROWS = 64  # user-days in a row group
DAY_MS = 86_400_000
USER_CATEGORIES = ("activity", "region", "device", "age_range")
ACTIONS = ("click", "like", "follow", "comment", "forward", "hate", "long_view", "profile_enter")


def short_video(item_rows: int = 65_536, author_rows: int = 32_768) -> LogSchema:
    """The log schema of the lake, with table rows for items and authors."""
    return LogSchema(
        fields=(
            Field(name="item_id", place="item", kind="id", rows=item_rows, match=True),
            Field(name="author_id", place="item", kind="id", rows=author_rows, match=True),
            Field(name="tag", place="item", kind="id", rows=1_024),
            Field(name="duration_ms", place="item", kind="number"),
            Field(name="surface", place="request", kind="category"),
            Field(name="play_ratio", place="event", kind="number"),
            *(Field(name=name, place="user", kind="category") for name in USER_CATEGORIES),
        ),
        actions=tuple(Action(name=name) for name in ACTIONS),
        labels=(Label(name="click", when="click"),),
        history="click",
    )


def _zipf(rng: np.random.Generator, size: int, ids: int) -> Ints:
    return np.minimum((rng.pareto(0.7, size) * 30).astype(np.int64), ids - 1)


def _fields(rng: np.random.Generator, size: int) -> dict[str, NDArray[Any]]:
    item = _zipf(rng, size, ITEMS)
    return {
        "item_id": item * 7_919 + 11,
        "author_id": item % AUTHORS,
        "tag": item % TAGS,
        "surface": rng.integers(0, 4, size),
        "actions": 1 + 64 * (rng.random(size) < 0.3),
        "play_ratio": rng.beta(0.7, 1.2, size),
        "duration_ms": rng.integers(5_000, 120_000, size),
    }


def _lists(values: NDArray[Any], offsets: Ints, kind: pa.DataType) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values).cast(kind))


def _day(
    rng: np.random.Generator, day: date, log: LogSchema, users: int, history: int, requests: int, targets: int
) -> pa.Table:
    midnight = (day - date(1970, 1, 1)).days * DAY_MS
    lengths = np.full(users, history)
    events, shown = users * history, users * requests * targets
    old = _fields(rng, events)
    gaps = rng.integers(1_000, 600_000, (users, history))
    old["time_ms"] = (midnight - np.cumsum(gaps, axis=1)[:, ::-1] - 1).ravel()
    request_times = midnight + np.sort(rng.integers(0, DAY_MS, (users, requests)), axis=1)
    new = _fields(rng, shown)
    by_user, by_request = offsets_of(np.full(users, requests)), offsets_of(np.full(users, requests * targets))
    columns: dict[str, pa.Array] = {
        "user_id": pa.array(np.arange(users)),
        **{f"user_{name}": pa.array(rng.integers(0, 50, users), pa.int32()) for name in USER_CATEGORIES},
        "request_id": pa.ListArray.from_arrays(
            pa.array(by_user, pa.int32()), pa.array([str(i) for i in range(users * requests)])
        ),
        "request_time_ms": _lists(request_times.ravel(), by_user, pa.int64()),
        "request_history_end": _lists(np.full(users * requests, history), by_user, pa.int32()),
        "request_target_end": _lists(np.tile(np.arange(1, requests + 1) * targets, users), by_user, pa.int32()),
        "target_labels": _lists((rng.random(shown) < 0.3).astype(np.int32), by_request, pa.int32()),
    }
    columns |= {f"history_{c.name}": _lists(old[c.name], offsets_of(lengths), c.type) for c in log.event_columns}
    columns |= {f"target_{c.name}": _lists(new[c.name], by_request, c.type) for c in log.target_columns}
    schema = dataset_schemas(log).samples
    return pa.table([columns[name] for name in schema.names], schema=schema)


def make_lake(
    folder: Path,
    log_schema: LogSchema,
    *,
    days: int,
    users: int,
    history: int,
    requests: int = 3,
    targets: int = 16,
    seed: int = 0,
) -> Lake:
    """Publish `days` days of `users` user-days each, with `history` events and `requests` requests of `targets`."""
    lake, rng = Lake(folder, log_schema), np.random.default_rng(seed)
    for offset in range(days):
        day = FIRST_DAY + timedelta(days=offset)
        writer = lake.writer("samples", day)
        table = _day(rng, day, lake.log_schema, users, history, requests, targets)
        pq.write_table(table, f"{writer.path}/part-00000.parquet", compression="zstd", row_group_size=GROUP_ROWS)
        writer.commit(digest=f"{seed:08x}{offset:08x}", inputs={})
    return lake
