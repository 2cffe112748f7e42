"""The same samples by DuckDB, in its own idiom: each user's history as lists, once, of which a user-day takes a slice.

No digests, no checks, no manifests. It relies on the benchmark's logs having no late rows.

   python -m benchmarks.samples.duckdb_samples HOME OUT START END [--memory 8GB]
"""

import argparse
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.arguments import existing_home, run_main
from longreel.contracts.argument_types import calendar_day
from longreel.contracts.dates import day_range
from longreel.lake.home import Home
from longreel.spark_jobs.history import find_history

FIELDS = ["time_ms", "item_id", "author_id", "tag", "duration_ms", "surface", "play_ms", "actions"]  # of logs.py
ORDER = ", ".join(FIELDS)


def build(home: Home, out: Path, start: date, end: date, memory: str) -> None:
    """Write samples of the days to `out`/day=..., zstd."""
    import duckdb  # not in the lock; README.md says how to get it

    out.mkdir(parents=True)
    sql = duckdb.connect()
    sql.execute(f"SET memory_limit = '{memory}'; SET threads = 2; SET preserve_insertion_order = false")
    sql.execute(f"SET temp_directory = '{out}.tmp'; SET partitioned_write_max_open_files = 64")
    _load_tables(sql, home, start, end)
    _write_samples(sql, out, home.config.samples.max_history)


def _load_tables(sql: Any, home: Home, start: date, end: date) -> None:
    """Tables `histories`, a row a user, and `requests`."""
    lake, source = home.lake, find_history(home.lake, home.config, start)
    days = [lake.require("events", day) for day in day_range(start, end)]
    snapshot = lake.paths(source.snapshot) if source.snapshot else []
    by_id = home.config.samples.request_rule == "request_id"
    request = "request_id" if by_id else "concat(user_id, '@', time_ms)"

    def events(manifests: list) -> str:
        paths = [path for manifest in manifests for path in lake.paths(manifest)]
        where = "CAST(regexp_extract(filename, 'date=([0-9-]+)', 1) AS DATE)"
        return f"(SELECT *, {where} AS day FROM read_parquet({paths}, filename = true))"

    sql.execute(f"CREATE TABLE events AS FROM {events(days)}")
    parts = [f"SELECT user_id, day, {ORDER} FROM events WHERE actions & 1 = 1"]
    if source.increments:
        parts.append(f"SELECT user_id, day, {ORDER} FROM {events(list(source.increments))} WHERE actions & 1 = 1")
    if snapshot:
        lists = ", ".join(f"unnest(history_{name}) AS {name}" for name in FIELDS)
        parts.append(f"SELECT user_id, DATE '1970-01-01' AS day, {lists} FROM read_parquet({snapshot})")
    sql.execute(
        "CREATE TABLE history_events AS SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY day, "
        f"{ORDER}) AS place FROM ({' UNION ALL '.join(parts)}) WHERE user_id IN (SELECT user_id FROM events)"
    )
    lists = ", ".join(f"list({name} ORDER BY place) AS history_{name}" for name in FIELDS)
    sql.execute(f"CREATE TABLE histories AS SELECT user_id, {lists} FROM history_events GROUP BY user_id")
    sql.execute(
        f"""
        CREATE TABLE requests AS
        SELECT user_id, day, {request} AS request_id, min(time_ms) AS time_ms, min(before) AS before,
               count(*) AS targets,
               {", ".join(f"list({name} ORDER BY {ORDER}) AS {name}" for name in FIELDS if name != "time_ms")}
        FROM (SELECT *, count(*) FILTER (actions & 1 = 1) OVER (PARTITION BY user_id, day ORDER BY time_ms
                     RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM events)
        GROUP BY user_id, day, {request}
        """
    )


def _write_samples(sql: Any, out: Path, limit: int) -> None:
    """Each user-day with its slice of the user's history, of the newest `limit` events before the day."""
    ordered = "ORDER BY time_ms, request_id"
    targets = ("item_id", "author_id", "tag", "surface", "duration_ms", "actions", "play_ms")
    slices = ", ".join(f"history_{name}[first:last] AS history_{name}" for name in FIELDS)
    sql.execute(
        f"""
        COPY (
          WITH days AS (
            SELECT user_id, day, list(request_id {ordered}) AS request_id, list(time_ms {ordered}) AS request_time_ms,
                   list(before {ordered}) AS before, list(targets {ordered}) AS request_targets,
                   {", ".join(f"flatten(list({name} {ordered})) AS target_{name}" for name in targets)}
            FROM requests GROUP BY user_id, day),
          own AS (SELECT user_id, day, count(*) AS n FROM history_events GROUP BY user_id, day),
          counts AS (
            SELECT d.user_id, d.day, coalesce(sum(n) FILTER (o.day < d.day), 0)::INT AS past,
                   coalesce(sum(n), 0)::INT AS last
            FROM (SELECT user_id, day FROM days) d LEFT JOIN own o ON o.user_id = d.user_id AND o.day <= d.day
            GROUP BY d.user_id, d.day),
          spans AS (SELECT *, greatest(past - {limit}, 0) + 1 AS first FROM counts)
          SELECT days.user_id, days.day, {slices}, request_id, request_time_ms,
                 list_transform(before, lambda b: b + past - first + 1) AS request_history_end,
                 request_targets, {", ".join(f"target_{name}" for name in targets)}
          FROM days JOIN spans USING (user_id, day) LEFT JOIN histories USING (user_id)
        ) TO '{out}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (day), OVERWRITE_OR_IGNORE)
        """
    )


def main() -> None:
    """Build a range of days."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=existing_home)
    parser.add_argument("out", type=Path)
    parser.add_argument("start", type=calendar_day)
    parser.add_argument("end", type=calendar_day)
    parser.add_argument("--memory", default="8GB")
    args = parser.parse_args()
    build(Home(args.home.absolute()), args.out.absolute(), args.start, args.end, args.memory)


if __name__ == "__main__":
    run_main(main)
