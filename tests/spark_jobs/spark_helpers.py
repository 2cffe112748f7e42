"""Raw rows, raw days and steps, as the tests of this folder spell them."""

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.home import Home

REPOSITORY = Path(__file__).resolve().parents[2]
DAY = date(2026, 3, 2)
MIDNIGHT_MS = 1_772_409_600_000  # of DAY, UTC

Row = dict[str, Any]


def row(user: Any = 1, item: Any = 10, at: int = 0, **more: Any) -> Row:
    """A raw row, `at` milliseconds after the midnight of DAY."""
    time_ms = MIDNIGHT_MS + at
    return {"user_id": user, "item_id": item, "time_ms": time_ms, "click": 1, "play_ms": 500, "duration_ms": 900} | more


def write_raw(home: Home, day: date, rows: list[Row]) -> Path:
    """A log day in the generic layout, replacing what it had."""
    names = list(dict.fromkeys(name for each in rows for name in each)) or ["user_id", "item_id", "time_ms"]
    folder = home.path / "raw" / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array([each.get(name) for each in rows]) for name in names})
    pq.write_table(table, folder / "log.parquet")
    return folder


def longreel(home: Home, step: str, *words: str) -> int:
    """Run a step in this process as the command line would."""
    from longreel.cli import main

    return main([step, "--home", str(home.path), *words])
