"""The two logs of this benchmark as lakes of events: a real one with long histories, and a simulated large one.

Events are written with pyarrow as ingest would have published them; ingest itself is not what is measured here.
"""

import argparse
import hashlib
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from rich.progress import track

from benchmarks.arguments import run_main
from longreel.contracts.argument_types import at_least
from longreel.contracts.definitions import event_definitions, sample_definitions
from longreel.contracts.digests import digest_of
from longreel.contracts.history_cutoff import snapshot_cutoff_ms
from longreel.contracts.jagged import Ints
from longreel.contracts.log_schema import UNKNOWN
from longreel.lake.home import CONFIG_FILE, Home
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.array_checks import combine, history_stats
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.array_io import write_bucket
from longreel.spark_jobs.bucket_tasks import snapshot_tables
from longreel.spark_jobs.buckets import bucket_of, num_buckets
from longreel.spark_jobs.event_order import sort_rows
from longreel.spark_jobs.history_events import column_values, history_columns
from longreel.spark_jobs.samples import DayEvents, add_day
from longreel.spark_jobs.user_histories import UserHistories

CONFIG = """name = "{name}"
tasks = ["click"]

[source]
kind = "{kind}"
log = "."

[samples]
max_history = {max_history}
request_rule = "{rule}"

[fields.item]
author_id = {{kind = "id", match = true}}
tag = {{kind = "id"}}
duration_ms = {{kind = "number"}}

[fields.request]
surface = {{kind = "category"}}

[fields.event]
play_ms = {{kind = "number"}}

[actions]
click = "click"
like = "like"
follow = "follow"
comment = "comment"
forward = "forward"
hate = "hate"
long_view = "long_view"
profile_enter = "profile_enter"

[history]
events = "click"

[labels]
click = "click"
"""
ROWS_PER_BUCKET = 2_000_000
DAY_MS = 86_400_000


def new_home(folder: Path, kind: str, max_history: int, rule: str) -> Home:
    """A home folder with the benchmark's configuration."""
    folder.mkdir(parents=True)
    text = CONFIG.format(name=folder.name, kind=kind, max_history=max_history, rule=rule)
    (folder / CONFIG_FILE).write_text(text)
    return Home(folder)


def publish(home: Home, day: date, events: pa.Table) -> None:
    """A log day's events, sorted as ingest sorts them, and its users."""
    ids = events.column("user_id").to_numpy()
    buckets = num_buckets(len(ids), ROWS_PER_BUCKET)
    number = bucket_of(ids, buckets)
    keys = {"user_id": ids}
    keys |= {column.name: column_values(events, column.name) for column in history_columns(home.lake.log_schema)}
    order = sort_rows(number, keys, np.arange(len(ids)))
    events, number, ids = events.take(pa.array(order)), number[order], ids[order]
    users = np.unique(ids)
    for dataset in ("users", "events"):
        writer = home.lake.writer(dataset, day)
        for bucket in range(buckets):
            if dataset == "events":
                rows = events.slice(*_span(number, bucket))
            else:
                rows = pa.table({"user_id": users[bucket_of(users, buckets) == bucket]})
            _write(writer, bucket, rows)
        counts = {"users": len(users), "with_request_id": len(ids) - events.column("request_id").null_count}
        details = {"definitions": event_definitions(home.config), "categories": {}}
        content = hashlib.sha256()
        for values in keys.values():
            content.update(np.ascontiguousarray(values))
        digest = digest_of([dataset, str(day), content.hexdigest()])
        writer.commit(digest=digest, inputs={}, buckets=buckets, counts=counts, details=details)


def _span(number: Ints, bucket: int) -> tuple[int, int]:
    first, last = np.searchsorted(number, [bucket, bucket + 1])
    return int(first), int(last - first)


def _write(writer: PartitionWriter, bucket: int, rows: pa.Table) -> None:
    path = f"{writer.path}/part-{bucket:05d}.parquet"
    pq.write_table(rows.cast(writer.lake.schemas[writer.dataset]), path, compression="zstd", row_group_size=1 << 20)


def publish_bootstrap(home: Home, through: date, events: pa.Table) -> None:
    """Older events as the bootstrap snapshot that `import-history` would publish."""
    config, writer = home.config, home.lake.writer("history", through)
    ids = events.column("user_id").to_numpy()
    cutoff_ms = snapshot_cutoff_ms(through, config.log_schema, config.source.max_lateness_hours)
    buckets, parts = num_buckets(len(ids), ROWS_PER_BUCKET), []
    for bucket in range(buckets):
        histories = UserHistories(config.samples.max_history, config.log_schema)
        mine = events.filter(pa.array(bucket_of(ids, buckets) == bucket))
        add_day(histories, DayEvents.of(mine, config.log_schema))
        path = write_bucket(writer, bucket, snapshot_tables(histories, through, config.log_schema, cutoff_ms))
        parts.append(history_stats(home.lake, path, bucket, buckets))
    stats = combine(parts)
    counts = {"history_events": stats["history_events"], "max_history": config.samples.max_history}
    common = {"inputs": {"raw": "benchmark"}, "details": {"definitions": sample_definitions(config)}}
    writer.commit(digest=digest_from_sums(stats), buckets=buckets, counts=counts, **common)


def filetouch(source: Path, folder: Path, max_history: int, start: date = date(2023, 9, 1)) -> Home:
    """The real log: events before `start` are older history, the days since are log days."""
    home = new_home(folder, "kuairand", max_history, "request_id")
    options = pacsv.ConvertOptions(column_types={"date": pa.string(), "request_id": pa.string()})
    columns = ["user_id", "video_id", "date", "time_ms", "tab", *_ACTIONS, "play_time_ms", "duration_ms", "request_id"]
    videos = pacsv.read_csv(source / "video_features_basic.csv.gz")
    tables = []
    for name in ("log_history", "log_standard"):
        table = pacsv.read_csv(source / f"{name}.csv.gz", convert_options=options)
        if "request_id" not in table.column_names:
            table = table.append_column("request_id", pa.nulls(table.num_rows, pa.string()))
        tables.append(table.select(columns))
    raw = pa.concat_tables(tables)
    video = np.asarray(videos.column("video_id"), np.int64)
    place = np.argsort(video)[np.searchsorted(np.sort(video), np.asarray(raw.column("video_id"), np.int64))]
    actions = sum(np.asarray(raw.column(column), np.int32) << bit for bit, column in enumerate(_ACTIONS))
    events = pa.table(
        {
            "user_id": raw.column("user_id"),
            "time_ms": raw.column("time_ms"),
            "request_id": raw.column("request_id"),
            "item_id": raw.column("video_id"),
            "author_id": np.asarray(videos.column("author_id"), np.int64)[place],
            "tag": np.asarray(videos.column("tag"), np.int64)[place],
            "surface": raw.column("tab").cast("int32"),
            "actions": actions,
            "play_ms": raw.column("play_time_ms").cast("float"),
            "duration_ms": raw.column("duration_ms").cast("float"),
            "history": actions & 1,
            "labels": actions & 1,
        },
        schema=home.lake.schemas.events,
    )
    coded = raw.column("date").combine_chunks().dictionary_encode()
    names = [f"{d[:4]}-{d[4:6]}-{d[6:]}" for d in coded.dictionary.to_pylist()]
    iso = np.array(names, "datetime64[D]")[np.asarray(coded.indices)]
    old = iso < np.datetime64(start)
    publish_bootstrap(home, start - timedelta(days=1), events.filter(pa.array(old)))
    order = np.argsort(iso, kind="stable")
    first, last = start, iso.max().astype(object)
    for number in track(range((last - first).days + 1), description=f"filetouch -> {folder.name}"):
        day = first + timedelta(days=number)
        low, high = np.searchsorted(iso[order], [np.datetime64(day), np.datetime64(day + timedelta(days=1))])
        publish(home, day, events.take(pa.array(order[low:high])))
    return home


_ACTIONS = (  # in the order of [actions]
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "is_profile_enter",
)


def simulated(folder: Path, users: int, events: int, days: int, max_history: int, seed: int = 0) -> Home:
    """A large log of uniform days: lognormal activity, requests of 6 targets, a third of impressions clicked.

    Items are Zipf-like over a million; no signal is put in, since only the cost of building samples is measured.
    """
    home = new_home(folder, "generic", max_history, "delivery_time")
    rng = np.random.default_rng(seed)
    weight = rng.lognormal(0, 1.5, users)
    weight /= weight.sum()
    first = date(2026, 1, 1)
    for number in track(range(days), description=f"simulated -> {folder.name}"):
        requests = events // days // 6
        user = np.repeat(np.searchsorted(np.cumsum(weight), rng.random(requests)), 6)
        start = (first - date(1970, 1, 1)).days * DAY_MS + number * DAY_MS
        time_ms = np.repeat(start + rng.integers(0, DAY_MS, requests), 6)
        item = np.minimum((rng.pareto(0.6, len(user)) * 20).astype(np.int64), 999_999)
        duration = rng.integers(5_000, 120_000, len(user))
        play = (duration * rng.beta(0.7, 1.2, len(user))).astype(np.int64)
        clicks = (rng.random(len(user)) < 1 / 3).astype(np.int32)
        table = {
            "user_id": np.minimum(user, users - 1),
            "time_ms": time_ms,
            "request_id": pa.nulls(len(user), pa.string()),
            "item_id": item,
            "author_id": item // 7,
            "tag": item % 53,
            "surface": np.full(len(user), UNKNOWN, np.int32),
            **dict.fromkeys(("actions", "history", "labels"), clicks),
            "play_ms": play.astype(np.float32),
            "duration_ms": duration.astype(np.float32),
        }
        publish(home, first + timedelta(days=number), pa.table(table, schema=home.lake.schemas.events))
    return home


def main() -> None:
    """Make one of the lakes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", choices=("filetouch", "simulated"))
    parser.add_argument("folder", type=Path, help="home folder to be made")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/filetouch"))
    parser.add_argument("--max-history", type=at_least(1), default=10_240)
    parser.add_argument("--users", type=at_least(1), default=100_000)
    parser.add_argument("--events", type=at_least(1), default=50_000_000)
    parser.add_argument("--days", type=at_least(1), default=16)
    args = parser.parse_args()
    if args.log == "filetouch":
        filetouch(args.source, args.folder, args.max_history)
    else:
        simulated(args.folder, args.users, args.events, args.days, args.max_history)


if __name__ == "__main__":
    run_main(main)
