"""Raw rows, raw days and steps, as the tests of this folder spell them."""

import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.definitions import event_definitions
from longreel.contracts.digests import digest_of
from longreel.lake.home import Home
from longreel.spark_jobs.buckets import bucket_of
from tests.short_video import SHORT_VIDEO, SHORT_VIDEO_TOML

REPOSITORY = Path(__file__).resolve().parents[2]
DAY = date(2026, 3, 2)
MIDNIGHT_MS = 1_772_409_600_000  # of DAY, UTC
DAY_MS = 86_400_000

Row = dict[str, Any]


CONFIG = """
name = "test"
tasks = ["click", "like"]

[source]
kind = "{kind}"
log = "{log}"
time_zone = "{time_zone}"
max_quarantined_share = {share}
{source}

[samples]
max_history = {max_history}
compact_every_days = {compact_every_days}
{samples}
{schema}
"""


def new_home(folder: Path, **values: Any) -> Home:
    """A home folder with a configuration of the generic source; its log schema is that of a short-video app."""
    settings = {"kind": "generic", "log": "raw", "time_zone": "UTC", "share": 1.0, "source": "", "samples": ""}
    settings |= {"max_history": 10_240, "compact_every_days": 7, "schema": SHORT_VIDEO_TOML} | values
    folder.mkdir(exist_ok=True)
    (folder / "longreel.toml").write_text(CONFIG.format(**settings))
    return Home(folder)


def row(user: Any = 1, item: Any = 10, at: int = 0, **more: Any) -> Row:
    """A raw row, `at` milliseconds after the midnight of DAY."""
    keys = {"user_id": user, "item_id": item, "time_ms": MIDNIGHT_MS + at}
    acted = dict.fromkeys(SHORT_VIDEO.action_names, 0) | {"click": 1}
    return keys | acted | {"play_ms": 500, "duration_ms": 900} | more


def write_raw(home: Home, day: date, rows: list[Row]) -> Path:
    """A log day in the generic layout, replacing what it had."""
    names = list(dict.fromkeys(name for entry in rows for name in entry)) or ["user_id", "item_id", "time_ms"]
    folder = home.path / "raw" / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array([entry.get(name) for entry in rows]) for name in names})
    pq.write_table(table, folder / "log.parquet")
    return folder


def longreel(home: Home, command: str, *words: str) -> int:
    """Run a command in this process as the command line would."""
    from longreel.cli import main

    return main([*command.split(), "--home", str(home.path), *words])


def event(user: int = 1, item: int = 10, at: int = 0, **more: Any) -> Row:
    """A row of the events dataset of SHORT_VIDEO, `at` milliseconds after the midnight of DAY."""
    values = {"user_id": user, "time_ms": MIDNIGHT_MS + at, "request_id": None, "item_id": item, "author_id": -1}
    values |= {"tag": -1, "surface": -1, "actions": 1, "play_ms": 500.0, "duration_ms": 900.0} | more
    return {"history": history_of(values), "labels": labels_of(values)} | values


def history_of(values: Row) -> int:
    """The history bit that SHORT_VIDEO gives an event: any action but `hate`."""
    return int(values["actions"] & ~SHORT_VIDEO.action_bit("hate") != 0)


def labels_of(values: Row) -> int:
    """The label bits that SHORT_VIDEO gives an event."""
    play, duration = values["play_ms"], values["duration_ms"]
    is_finished = duration > 0 and play >= duration
    is_skipped = play <= 3_000 and not history_of(values) and not is_finished
    bits = int(values["actions"])  # the labels begin with the actions, in the same order
    return bits | is_finished * SHORT_VIDEO.label_bit("finish") | is_skipped * SHORT_VIDEO.label_bit("skip")


def publish_events(
    home: Home, day: date, rows: list[Row], buckets: int = 1, users: dict[int, Row] | None = None
) -> None:
    """Events and users of a log day, put into the lake without Spark; `users` are user fields by user id."""
    log = home.lake.log_schema
    unknown = {
        f"user_{column.name}": column.field.unknown if column.size == 1 else [column.field.unknown] * column.size
        for column in log.described_user_columns
        if column.field is not None
    }
    ids = sorted({entry["user_id"] for entry in rows})
    described = [{"user_id": user} | unknown | (users or {}).get(user, {}) for user in ids]
    counts = {"users": len(ids), "with_request_id": sum(entry["request_id"] is not None for entry in rows)}
    counts |= {f"action_{n}": sum(bool(r["actions"] & log.action_bit(n)) for r in rows) for n in log.action_names}
    details = {"definitions": event_definitions(home.config), "categories": {}}
    for dataset, table in (("users", described), ("events", rows)):
        writer = home.lake.writer(dataset, day)
        owner = bucket_of(np.array([entry["user_id"] for entry in table], np.int64), buckets)
        for bucket in range(buckets):
            mine = [entry for entry, number in zip(table, owner, strict=True) if number == bucket]
            path = f"{writer.path}/part-{bucket}.parquet"
            pq.write_table(pa.Table.from_pylist(mine, schema=home.lake.schemas[dataset]), path)
        digest = digest_of([{name: str(value) for name, value in entry.items()} for entry in table])
        writer.commit(digest=digest, inputs={}, buckets=buckets, counts=counts, details=details)


def published(home: Home, dataset: str, day: date) -> list[Row]:
    """The rows of a published partition."""
    return home.lake.read(home.lake.require(dataset, day)).to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def step(home: Any, *words: str) -> subprocess.Popen[bytes]:
    """A `longreel` command in a new process group."""
    command = [sys.executable, "-m", "longreel", *words[0].split(), "--home", str(home.path), *words[1:]]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stdout=quiet, stderr=quiet)


def wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until `found()` or the process ends."""
    until = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
