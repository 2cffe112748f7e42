"""The samples of a log day in a few lines of plain Python: the reference of spark_jobs/samples.py."""

from collections import defaultdict
from typing import Any

HISTORY = ("time_ms", "item_id", "author_id", "tag", "surface", "actions", "play_ms", "duration_ms")
TARGET = ("item_id", "author_id", "tag", "surface", "duration_ms")


def labels_of(event: dict[str, Any]) -> int:
    finish = 256 if 0 < event["duration_ms"] <= event["play_ms"] else 0
    skip = 512 if event["play_ms"] <= 3_000 and not event["actions"] & 223 and not finish else 0
    return int(event["actions"]) | finish | skip


def request_keys(events: list[dict[str, Any]], rule: str, gap_ms: int) -> list[str]:
    """The request id of each of one user's events, which are in time order."""
    keys, started, last = [], 0, None
    for event in events:
        if last is None or event["time_ms"] - last > gap_ms:
            started = event["time_ms"]
        last = event["time_ms"]
        generated = f"{event['user_id']}@{started if rule == 'gap' else event['time_ms']}"
        keys.append(event["request_id"] if rule in ("auto", "request_id") and event["request_id"] else generated)
    return keys


def samples_of(
    earlier: list[dict[str, Any]],
    today: list[dict[str, Any]],
    mask: int = 1,
    max_history: int = 10_240,
    max_targets: int = 512,
    rule: str = "auto",
    gap_ms: int = 60_000,
) -> list[dict[str, Any]]:
    """One sample row for each user of `today`, ordered by user; `earlier` are the events of all earlier log days."""
    rows = []
    for user in sorted({event["user_id"] for event in today}):
        past = sorted(tuple(e[f] for f in HISTORY) for e in earlier if e["user_id"] == user and e["actions"] & mask)
        mine = sorted((e for e in today if e["user_id"] == user), key=lambda e: tuple(e[f] for f in HISTORY))
        own = [tuple(e[f] for f in HISTORY) for e in mine if e["actions"] & mask]
        history = sorted(past[-max_history:] + own)
        requests = defaultdict(list)
        for event, key in zip(mine, request_keys(mine, rule, gap_ms), strict=True):
            requests[key].append(event)
        ordered = sorted(requests.items(), key=lambda pair: (pair[1][0]["time_ms"], pair[0]))
        row: dict[str, Any] = {"user_id": user}
        row |= {f"history_{name}": [event[i] for event in history] for i, name in enumerate(HISTORY)}
        row |= {name: [] for name in ("request_id", "request_time_ms", "request_history_end", "request_target_end")}
        row |= {f"target_{name}": [] for name in (*TARGET, "labels")}
        for key, events in ordered:
            for start in range(0, len(events), max_targets):
                part = events[start : start + max_targets]
                row["request_id"].append(key)
                row["request_time_ms"].append(events[0]["time_ms"])
                row["request_history_end"].append(sum(e[0] < events[0]["time_ms"] for e in history))
                for name in TARGET:
                    row[f"target_{name}"] += [event[name] for event in part]
                row["target_labels"] += [labels_of(event) for event in part]
                row["request_target_end"].append(len(row["target_labels"]))
        rows.append(row)
    return rows
