"""What does a file of lists hold, and which promises does it break? Read back from the file, apart from the builder."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longreel.contracts.actions import LABELS
from longreel.contracts.jagged import Ints, list_values
from longreel.contracts.schemas import HISTORY_FIELDS, TARGET_FIELDS, schema_text
from longreel.lake.table import Lake
from longreel.spark_jobs.array_digest import digest_sums
from longreel.spark_jobs.array_io import row_groups
from longreel.spark_jobs.buckets import bucket_of

Facts = dict[str, Any]

ALL_LABELS = sum(LABELS.values())

# What a count of rows that break a promise is called.
BROKEN_SAMPLES = {
    "misplaced": "users in another bucket's file",
    "repeated_users": "users with two rows",
    "leaking": "requests that see an event at or after their own time",
    "blind": "requests that miss an older event",
    "unsorted_history": "users whose history is not in time order",
    "unsorted_requests": "users whose requests are not in time order",
    "unequal_history": "users with history lists of unequal length",
    "unequal_requests": "users with request lists of unequal length",
    "unequal_targets": "users whose requests and targets do not match",
    "empty_requests": "requests without targets",
    "unknown_labels": "targets with labels of unknown bits",
    "odd_features": "users without all their features",
}
BROKEN_HISTORY = {name: BROKEN_SAMPLES[name] for name in ("misplaced", "repeated_users")} | {
    "unsorted_history": BROKEN_SAMPLES["unsorted_history"],
    "unequal_history": BROKEN_SAMPLES["unequal_history"],
}


def combined(parts: Iterable[Facts]) -> Facts:
    """Facts of several files together: counts and digest sums added, extremes kept, schemas that differ listed."""
    total: Facts = {}
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


def sample_facts(lake: Lake, path: str | None, bucket: int, buckets: int, features: int) -> Facts:
    """Counts of a samples file, of every promise in BROKEN_SAMPLES those that break it, and its digest sums."""
    return _file_facts(lake, path, bucket, buckets, lambda table: _sample_facts(table, features))


def history_facts(lake: Lake, path: str | None, bucket: int, buckets: int) -> Facts:
    """Counts of a base's file, of every promise in BROKEN_HISTORY those that break it, and its digest sums."""
    return _file_facts(lake, path, bucket, buckets, _history_facts)


def _file_facts(
    lake: Lake, path: str | None, bucket: int, buckets: int, facts_of: Callable[[pa.Table], Facts]
) -> Facts:
    if path is None:
        return {}
    found = {"schema": schema_text(pq.read_schema(path, filesystem=lake.filesystem))}
    users: list[Ints] = []

    def facts() -> Iterator[Facts]:
        for table in row_groups(lake, path):
            users.append(table.column("user_id").to_numpy())
            found = facts_of(table)
            whole = not any(value for name, value in found.items() if name.startswith("unequal_"))
            yield found | (digest_sums(table) if whole else {})

    found |= combined(facts())
    ids = np.concatenate(users)
    return found | {
        "users": len(ids),
        "misplaced": int((bucket_of(ids, buckets) != bucket).sum()),
        "repeated_users": len(ids) - len(np.unique(ids)),
    }


def _history_facts(table: pa.Table) -> Facts:
    values, offsets = list_values(table, "history_time_ms")
    times, lengths = np.asarray(values.to_numpy(), np.int64), np.diff(offsets)
    filled = bool(len(times))
    return {
        "history_events": len(times),
        "max_history": int(lengths.max(initial=0)),
        **({"min_history_ms": int(times.min()), "max_history_ms": int(times.max())} if filled else {}),
        "unsorted_history": _unsorted(times, offsets),
        "unequal_history": _unequal(table, lengths, [f"history_{name}" for name in HISTORY_FIELDS]),
    }


def _sample_facts(table: pa.Table, features: int) -> Facts:
    values, history = list_values(table, "history_time_ms")
    seen = np.asarray(values.to_numpy(), np.int64)
    times, request = (_numbers(table, "request_time_ms"), list_values(table, "request_time_ms")[1])
    ends, stops = _numbers(table, "request_history_end"), _numbers(table, "request_target_end")
    target, feature = list_values(table, "target_labels")[1], list_values(table, "user_features")[1]
    labels = _numbers(table, "target_labels")
    per_row = np.diff(request)
    unequal = _unequal(table, per_row, ["request_id", "request_history_end", "request_target_end"])
    facts = _history_facts(table)
    for name in ("min_history_ms", "max_history_ms"):
        facts.pop(name, None)
    facts |= {
        "requests": len(times),
        "targets": len(labels),
        "unsorted_requests": _unsorted(times, request),
        "unequal_requests": unequal,
        "unknown_labels": int((labels & ~ALL_LABELS != 0).sum()),
        "odd_features": int((np.diff(feature) != features).sum()),
    }
    facts |= {f"label_{name}": int((labels & bit != 0).sum()) for name, bit in LABELS.items()}
    if unequal:  # nothing below can be told
        return facts | dict.fromkeys(("leaking", "blind", "empty_requests", "max_request_targets"), 0)
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
    padded = np.concatenate([seen, np.zeros(1, np.int64)])
    leaking = ~inside | ((ends > 0) & (padded[at - 1] >= times))
    blind = inside & (ends < length) & (padded[at] < times)
    ragged = _unequal(table, np.diff(target), [f"target_{name}" for name in TARGET_FIELDS])
    return facts | {
        "leaking": int(leaking.sum()),
        "blind": int(blind.sum()),
        "empty_requests": int((sizes <= 0).sum()),
        "max_request_targets": int(sizes.max(initial=0)),
        "unequal_targets": max(ragged, int((closed != np.diff(target)).sum())),
    }


def _numbers(table: pa.Table, name: str) -> Ints:
    return np.asarray(list_values(table, name)[0].to_numpy(), np.int64)


def _unequal(table: pa.Table, lengths: Ints, names: list[str]) -> int:
    """Rows in which not all of these lists have the lengths [rows]."""
    wrong = np.zeros(len(lengths), bool)
    for name in names:
        wrong |= np.diff(list_values(table, name)[1]) != lengths
    return int(wrong.sum())


def _unsorted(times: Ints, offsets: Ints) -> int:
    """Rows in whose list of times one is less than the one before it."""
    falls = np.flatnonzero(np.diff(times) < 0) + 1
    begins = np.isin(falls, offsets)
    return len(np.unique(np.searchsorted(offsets, falls[~begins], "right")))
