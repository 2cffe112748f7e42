"""Statistics of sample and history files, and the rules that they break, read back independently of the builder."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.durations import delay_ms
from longreel.contracts.jagged import Ints, list_values
from longreel.contracts.log_schema import Column, LogSchema
from longreel.contracts.schemas import schema_text
from longreel.contracts.statistics import Statistic
from longreel.lake.table import Lake
from longreel.spark_jobs.array_digest import digest_sums
from longreel.spark_jobs.array_io import row_groups
from longreel.spark_jobs.buckets import bucket_of

Stats = dict[str, Any]
MINUTE_MS, DAY_MS = 60_000, 86_400_000
WINDOW = 2_048  # history events: the default mean window of a training
# What a history costs, summed over requests or users:
COST_COUNTS = (
    "visible_events",  # history events that each request sees
    "window_events",  # the newest WINDOW of them
    "history_days",  # whole days from each user's oldest history event to the newest
    "full_histories",  # users whose first request sees `max_history` events
    "full_history_days",  # `history_days` of those
)

# Name of a count of violations -> what it counts.
SAMPLE_VIOLATIONS = {
    "misplaced": "users in another bucket's file",
    "duplicate_users": "users with two rows",
    "leaking": "requests that see an event not known before their own time, as `at` and `known_after` declare it "
    "(an action without them: known with its impression)",
    "missing_events": "requests that miss an event that was known before",
    "unsorted_history": "users whose history is not in time order",
    "unsorted_requests": "users whose requests are not in time order",
    "unequal_history": "users with history lists of unequal length",
    "unequal_requests": "users with request lists of unequal length",
    "unequal_targets": "users whose requests and targets do not match",
    "empty_requests": "requests without targets",
    "unknown_labels": "targets with labels of unknown bits",
    "unequal_user": "users with lists of another length than their field's size",
    "impossible_statistics": "numbers of [statistics] that no log gives",
}
HISTORY_VIOLATIONS = {name: SAMPLE_VIOLATIONS[name] for name in ("misplaced", "duplicate_users")} | {
    "unsorted_history": SAMPLE_VIOLATIONS["unsorted_history"],
    "unequal_history": SAMPLE_VIOLATIONS["unequal_history"],
}


def combine(parts: Iterable[Stats]) -> Stats:
    """Stats of several files together: counts and digest sums added, extremes kept, differing schemas listed."""
    total: Stats = {}
    for part in parts:
        for name, value in part.items():
            if name not in total:
                total[name] = value
            elif name == "schema":
                total[name] = " | ".join(sorted({*total[name].split(" | "), value}))
            elif name.startswith(("max_", "min_")):
                total[name] = (max if name.startswith("max_") else min)(total[name], value)
            else:
                total[name] += value
    return total


def sample_stats(lake: Lake, path: str | None, bucket: int, buckets: int, max_history: int = 0) -> Stats:
    """Counts of a samples file, SAMPLE_VIOLATIONS included, and its digest sums; {} without a file.

    Args:
        max_history: that the samples were built with; 0: full histories are not counted.
    """
    return _file_stats(lake, path, bucket, buckets, lambda table, log: _sample_stats(table, log, max_history))


def history_stats(lake: Lake, path: str | None, bucket: int, buckets: int, cutoff_ms: int | None = None) -> Stats:
    """Counts of a snapshot's file, HISTORY_VIOLATIONS included, and its digest sums; {} without a file. With a cutoff
    also `max_older`, the most events of a user before it."""

    def stats_of(table: pa.Table, log: LogSchema) -> Stats:
        values, offsets = list_values(table, "history_time_ms")
        if cutoff_ms is None:
            return _history_stats(table, log)
        older = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(values) < cutoff_ms)])[offsets]
        return _history_stats(table, log) | {"max_older": int(np.diff(older).max(initial=0))}

    return _file_stats(lake, path, bucket, buckets, stats_of)


def _file_stats(
    lake: Lake, path: str | None, bucket: int, buckets: int, stats_of: Callable[[pa.Table, LogSchema], Stats]
) -> Stats:
    if path is None:
        return {}
    users: list[Ints] = []

    def group_stats() -> Iterator[Stats]:
        for table in row_groups(lake, path):
            users.append(table.column("user_id").to_numpy())
            stats = stats_of(table, lake.log_schema)
            has_equal_lists = not any(value for name, value in stats.items() if name.startswith("unequal_"))
            yield stats | (digest_sums(table) if has_equal_lists else {})

    total = combine(group_stats())
    ids = np.concatenate(users)
    return total | {
        "schema": schema_text(pq.read_schema(path, filesystem=lake.filesystem)),
        "users": len(ids),
        "misplaced": int((bucket_of(ids, buckets) != bucket).sum()),
        "duplicate_users": len(ids) - len(np.unique(ids)),
    }


def _history_stats(table: pa.Table, log: LogSchema) -> Stats:
    values, offsets = list_values(table, "history_time_ms")
    times, lengths = np.asarray(values.to_numpy(), np.int64), np.diff(offsets)
    extremes = {"min_history_ms": int(times.min()), "max_history_ms": int(times.max())} if len(times) else {}
    return {
        "history_events": len(times),
        "max_history": int(lengths.max(initial=0)),
        **extremes,
        "unsorted_history": _unsorted(times, offsets),
        "unequal_history": _unequal(table, lengths, "history", log.event_columns),
    }


def _sample_stats(table: pa.Table, log: LogSchema, max_history: int) -> Stats:
    values, history = list_values(table, "history_time_ms")
    history_ms = np.asarray(values.to_numpy(), np.int64)
    times, request = _numbers(table, "request_time_ms"), list_values(table, "request_time_ms")[1]
    ends, stops = _numbers(table, "request_history_end"), _numbers(table, "request_target_end")
    target, labels = list_values(table, "target_labels")[1], _numbers(table, "target_labels")
    per_row = np.diff(request)
    unequal = _unequal(
        table, per_row, "request", [Column(name, pa.int64()) for name in ("id", "history_end", "target_end")]
    )
    stats = _history_stats(table, log)
    for name in ("min_history_ms", "max_history_ms"):
        stats.pop(name, None)
    stats |= {
        "requests": len(times),
        "targets": len(labels),
        "unsorted_requests": _unsorted(times, request),
        "unequal_requests": unequal,
        "unknown_labels": int((labels >> len(log.binary_labels) != 0).sum()),
        "unequal_user": _unequal(table, np.ones(table.num_rows, np.int64), "user", log.user_columns),
        "impossible_statistics": sum(impossible_statistics(table, statistic) for statistic in log.statistics),
    }
    stats |= {f"label_{name}": int((labels & log.label_bit(name) != 0).sum()) for name in log.binary_labels}
    if unequal:  # nothing below can be computed
        return stats | dict.fromkeys(
            ("leaking", "missing_events", "empty_requests", "max_request_targets", *COST_COUNTS), 0
        )
    row = np.repeat(np.arange(len(per_row)), per_row)
    first = np.ones(len(times), bool)
    first[1:] = np.diff(row) != 0
    sizes = stops - np.where(first, 0, np.concatenate([np.zeros(1, np.int64), stops])[:-1])
    last = np.flatnonzero(np.diff(row, append=len(per_row)))
    closed = np.zeros(len(per_row), np.int64)
    closed[row[last]] = stops[last]
    length = np.diff(history)[row]
    inside = (ends >= 0) & (ends <= length)
    at = history[row] + np.clip(ends, 0, length)
    padded = np.concatenate([history_ms, np.zeros(1, np.int64)])
    cutoff = _cutoff_ms(times, log)
    leaking = ~inside | ((ends > 0) & (padded[at - 1] >= cutoff))
    missing = inside & (ends < length) & (padded[at] < cutoff)
    number_labels = (Column(f"label_{name}", pa.float32()) for name in log.number_labels)
    unequal_targets = _unequal(table, np.diff(target), "target", [*log.target_columns, *number_labels])
    stats |= _cost_counts(history_ms, history, ends, request, max_history)
    return stats | {
        "leaking": int(leaking.sum()),
        "missing_events": int(missing.sum()),
        "empty_requests": int((sizes <= 0).sum()),
        "max_request_targets": int(sizes.max(initial=0)),
        "unequal_targets": max(unequal_targets, int((closed != np.diff(target)).sum())),
    }


def _cost_counts(history_ms: Ints, history: Ints, ends: Ints, request: Ints, max_history: int) -> Stats:
    """COST_COUNTS of histories and requests, given by their times, ends and offsets of rows."""
    has_history = (np.diff(history) > 0) & (np.diff(request) > 0)
    rows = np.flatnonzero(has_history)
    days = (history_ms[history[rows + 1] - 1] - history_ms[history[rows]]) // DAY_MS
    is_full = (ends[request[rows]] >= max_history) & (max_history > 0)
    values = (ends, np.minimum(ends, WINDOW), days, is_full, days[is_full])
    return {name: int(value.sum()) for name, value in zip(COST_COUNTS, values, strict=True)}


def _cutoff_ms(times: Ints, log: LogSchema) -> Ints:
    """The cutoff of each request, which the builder computes in another way: by the calendar, not by offsets."""
    delay = delay_ms(log.history_known_after, "[history] known_after")
    if delay is not None:
        return times - delay
    clock = ZoneInfo(log.time_zone)
    minutes, place = np.unique(times // MINUTE_MS, return_inverse=True)  # a zone has one date throughout a minute
    midnights = [_midnight_ms(int(minute) * MINUTE_MS, clock) for minute in minutes]
    return np.array(midnights, np.int64)[place]


def _midnight_ms(time_ms: int, clock: ZoneInfo) -> int:
    """The midnight that begins a time's day in a zone."""
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)).astimezone(clock)
    return round(datetime(local.year, local.month, local.day, tzinfo=clock).timestamp()) * 1_000


def impossible_statistics(table: pa.Table, statistic: Statistic) -> int:
    """Rates outside 0 .. 1, and impressions that are negative or fewer in a longer window; NaN is no value."""
    prefix, wrong, fewest = "user" if statistic.is_of_user else "target", 0, np.zeros(1, np.float32)
    for column in statistic.columns():
        name = f"{prefix}_{column.name}"
        stored = table.column(name) if statistic.is_of_user else list_values(table, name)[0]
        values = np.asarray(stored.to_numpy())
        if column.action is None:
            wrong += int((values < fewest).sum())
            fewest = values
        else:
            wrong += int(((values < 0) | (values > 1)).sum())
    return wrong


def _numbers(table: pa.Table, name: str) -> Ints:
    return np.asarray(list_values(table, name)[0].to_numpy(), np.int64)


def _unequal(table: pa.Table, lengths: Ints, prefix: str, columns: Iterable[Column]) -> int:
    """Rows in which not all list columns `<prefix>_<column>` have `size` elements for each of `lengths` [rows]."""
    wrong = np.zeros(len(lengths), bool)
    for column in columns:
        if pa.types.is_list(table.schema.field(name := f"{prefix}_{column.name}").type):
            wrong |= np.diff(list_values(table, name)[1]) != lengths * column.size
    return int(wrong.sum())


def _unsorted(times: Ints, offsets: Ints) -> int:
    """Rows in whose list of times one is less than the one before it."""
    drops = np.flatnonzero(np.diff(times) < 0) + 1
    is_row_start = np.isin(drops, offsets)
    return len(np.unique(np.searchsorted(offsets, drops[~is_row_start], "right")))
