"""Synthetic raw logs of several shapes, as companies write them."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
USERS, ITEMS, REQUESTS, SHOWN = 60, 80, 150, 6  # of a day: requests, and items shown in each


def day_start(day: str) -> int:
    """Milliseconds since 1970 of a day's midnight, UTC."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1_000


class Impressions:
    """Requests of users, and the items shown in them: the columns that every shape of log has in some form."""

    def __init__(self, day: str, seed: int) -> None:
        random = np.random.default_rng([seed, DAYS.index(day)])
        self.random = random
        self.size = REQUESTS * SHOWN
        user = random.integers(0, USERS, REQUESTS)
        self.request = np.repeat(np.arange(REQUESTS) + 1_000 * DAYS.index(day), SHOWN)
        self.user = np.repeat(user, SHOWN)
        self.item = np.concatenate([random.permutation(ITEMS)[:SHOWN] for _ in range(REQUESTS)])
        moments = np.sort(random.choice(80_000, REQUESTS, replace=False)) * 1_000 + random.integers(0, 1_000, REQUESTS)
        self.time_ms = day_start(day) + np.repeat(moments, SHOWN)
        self.click = random.random(self.size) < 0.05 + 0.4 * (self.item % 5 == self.user % 5)

    def some(self, share: float, of: np.ndarray | None = None) -> np.ndarray:
        """Rows chosen at random, among some."""
        return (self.random.random(self.size) < share) & (True if of is None else of)

    def later(self, rows: np.ndarray, seconds: float) -> list[datetime | None]:
        """Times after the impression in some rows, null elsewhere."""
        delay = 1 + self.random.exponential(1_000 * seconds, self.size)
        return [
            datetime.fromtimestamp((ms + d) / 1_000, UTC) if row else None
            for ms, d, row in zip(self.time_ms, delay, rows, strict=True)
        ]


def short_video(day: str) -> pa.Table:
    """Columns under longreel's own names, with what a short-video app has."""
    rows = Impressions(day, 1)
    duration = 5_000 + 700 * (rows.item % 37)
    played = np.where(
        rows.click, duration * (0.6 + 0.4 * rows.random.random(rows.size)), rows.random.random(rows.size) * 900
    )
    return pa.table(
        {
            "user_id": rows.user,
            "item_id": rows.item,
            "time_ms": rows.time_ms,
            "author_id": rows.item % 13 + 100,
            "surface": rows.request % 3,
            "play_ms": played.astype(np.int64),
            "duration_ms": duration,
            "click": rows.click.astype(np.int8),
            "like": rows.some(0.3, rows.click).astype(np.int8),
            "hate": rows.some(0.02).astype(np.int8),
        }
    )


def shop(day: str) -> pa.Table:
    """A shop with other names: times of outcomes, a price, a brand, a path, a device and a vector."""
    rows = Impressions(day, 2)
    bought = rows.some(0.3, rows.click)
    vectors = np.random.default_rng(5).normal(size=(ITEMS, 8)).astype(np.float32)
    names = np.array(["phone", "tablet", "desktop"])
    return pa.table(
        {
            "uid": [f"u-{user}" for user in rows.user],
            "sku": [f"SKU{item:05d}" for item in rows.item],
            "shown_at": pa.array(rows.time_ms, pa.timestamp("ms", tz="UTC")),
            "impression_group": [f"g{request}" for request in rows.request],
            "brandName": [f"brand {item % 11}" for item in rows.item],
            "category_path": [f"dept{item % 3}/group{item % 6}/leaf{item % 12}" for item in rows.item],
            "price": 3.5 + rows.item % 23,
            "title_embedding": pa.FixedSizeListArray.from_arrays(vectors[rows.item].ravel(), 8),
            "position": np.tile(np.arange(SHOWN), REQUESTS),
            "device": names[rows.request % 3],
            "country": np.array(["DE", "AT", "CH"])[rows.user % 3],
            "clicked_at": pa.array(rows.later(rows.click, 20), pa.timestamp("us", tz="UTC")),
            "bought_at": pa.array(rows.later(bought, 3_600), pa.timestamp("us", tz="UTC")),
            "paid_amount": [float(3.5 + i % 23) if b else None for i, b in zip(rows.item, bought, strict=True)],
            "traffic": np.where(rows.user % 30 == 7, "bot", "web"),
            "email": [f"user{user}@example.com" for user in rows.user],
        }
    )


def event_rows(day: str) -> pa.Table:
    """A row for each event, with its type in a column, and times in seconds."""
    rows = Impressions(day, 3)
    kind = np.where(rows.some(0.1), "purchase", np.where(rows.click, "click", "view"))
    return pa.table(
        {
            "ts": rows.time_ms // 1_000,
            "visitorid": rows.user + 5_000,
            "event": kind,
            "itemid": rows.item + 900_000,
            "app_version": np.array(["1.0", "1.1", "2.0"])[rows.request % 3],
        }
    )


def write_folders(log: Path, make: Callable[[str], pa.Table]) -> Path:
    """A log of date=YYYY-MM-DD folders of Parquet files."""
    for day in DAYS:
        folder = log / f"date={day}"
        folder.mkdir(parents=True)
        pq.write_table(make(day), folder / "part-0.parquet")
    return log


def write_csv(log: Path, make: Callable[[str], pa.Table]) -> Path:
    """A log of one CSV file with all days."""
    log.mkdir(parents=True)
    pacsv.write_csv(pa.concat_tables([make(day) for day in DAYS]), log / "events.csv")
    return log
