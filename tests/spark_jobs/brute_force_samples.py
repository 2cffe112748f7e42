"""The samples of a log day in a few lines of plain Python: the reference of spark_jobs/samples.py."""

import math
import struct
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from longreel.contracts.durations import UNITS_MS
from longreel.contracts.log_schema import LogSchema
from tests.short_video import SHORT_VIDEO

Row = dict[str, Any]


def order_of(value: Any) -> Any:
    """What a value of an event is sorted by: floats by their bits, nulls first, lists element by element."""
    if isinstance(value, list):
        return [order_of(element) for element in value]
    if isinstance(value, float):
        (bits,) = struct.unpack("<i", struct.pack("<f", value))
        return bits if bits >= 0 else bits ^ 0x7FFFFFFF
    return -math.inf if value is None else value


def sort_key(event: Row, log: LogSchema) -> tuple[Any, ...]:
    """Single values first, then lists, then what only events have."""
    single = [column.name for column in log.event_columns if column.size == 1]
    lists = [column.name for column in log.event_columns if column.size > 1]
    more = [*(f"{name}_ms" for name in log.timed_actions), "history", "labels"]
    more += [f"label_{name}" for name in log.number_labels]
    return tuple(order_of(event[name]) for name in (*single, *lists, *more) if name in event)


def history_of(event: Row, log: LogSchema) -> list[Row]:
    """The history events of an event: what is known at its time, and at the time of each timed action."""
    events = []
    for bit, action in enumerate([None, *log.timed_actions]):
        if not event["history"] & 1 << bit:
            continue
        values = {column.name: event[column.name] for column in log.event_columns}
        for field in log.of_place("event"):
            if (field.of if field.of in log.timed_actions else None) != action:
                values[field.name] = [field.unknown] * field.size if field.size > 1 else field.unknown
        if action is None:
            untimed = [name for name in log.action_names if name not in log.timed_actions]
            values["actions"] &= sum(log.action_bit(name) for name in untimed)
        else:
            values |= {"time_ms": event[f"{action}_ms"], "actions": log.action_bit(action)}
        events.append(values)
    return events


def histories_of(events: list[Row], log: LogSchema) -> list[Row]:
    """The history events of some events, in order."""
    return sorted((one for event in events for one in history_of(event, log)), key=lambda e: sort_key(e, log))


def cutoff_of(time_ms: int, log: LogSchema) -> float:
    """A request at a time sees the history events before this."""
    if not log.history_known_after:
        return time_ms
    if log.history_known_after == "next day":
        local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)).astimezone(ZoneInfo(log.time_zone))
        return 1_000 * local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()
    number, unit = log.history_known_after.split()
    return time_ms - round(float(number) * UNITS_MS[unit])


def request_keys(events: list[Row], rule: str, gap_ms: int) -> list[str]:
    """The request id of each of one user's events, which are in time order."""
    keys, started, last = [], 0, None
    for event in events:
        if last is None or event["time_ms"] - last > gap_ms:
            started = event["time_ms"]
        last = event["time_ms"]
        generated = f"{event['user_id']}@{started if rule == 'gap' else event['time_ms']}"
        keys.append(event["request_id"] if rule in ("auto", "request_id") and event["request_id"] else generated)
    return keys


def flat(rows: list[Row], name: str) -> list[Any]:
    """A column of events as a list; of lists, one after another."""
    values = [row[name] for row in rows]
    return [element for value in values for element in value] if values and isinstance(values[0], list) else values


def samples_of(
    earlier: list[Row],
    today: list[Row],
    log: LogSchema = SHORT_VIDEO,
    max_history: int = 10_240,
    max_targets: int = 512,
    rule: str = "auto",
    gap_ms: int = 60_000,
    users: dict[int, Row] | None = None,
) -> list[Row]:
    """One sample row for each user of `today`, ordered by user; `earlier` are the events of all earlier log days, and
    `users` user fields by user id."""
    rows = []
    for user in sorted({event["user_id"] for event in today}):
        past = histories_of([event for event in earlier if event["user_id"] == user], log)
        mine = sorted((event for event in today if event["user_id"] == user), key=lambda event: sort_key(event, log))
        own = histories_of(mine, log)
        first = cutoff_of(mine[0]["time_ms"], log)
        visible, newer = ([e for e in past if (e["time_ms"] < first) == is_older] for is_older in (True, False))
        history = sorted(visible[-max_history:] + newer + own, key=lambda event: sort_key(event, log))
        requests = defaultdict(list)
        for event, key in zip(mine, request_keys(mine, rule, gap_ms), strict=True):
            requests[key].append(event)
        ordered = sorted(requests.items(), key=lambda pair: (pair[1][0]["time_ms"], pair[0]))
        row: Row = {"user_id": user}
        for column in log.user_columns:
            assert column.field is not None
            unknown = column.field.unknown if column.size == 1 else [column.field.unknown] * column.size
            row[f"user_{column.name}"] = (users or {}).get(user, {}).get(f"user_{column.name}", unknown)
        row |= {f"history_{column.name}": flat(history, column.name) for column in log.event_columns}
        row |= {name: [] for name in ("request_id", "request_time_ms", "request_history_end", "request_target_end")}
        targets = []
        for key, events in ordered:
            cutoff = cutoff_of(events[0]["time_ms"], log)
            for start in range(0, len(events), max_targets):
                part = events[start : start + max_targets]
                row["request_id"].append(key)
                row["request_time_ms"].append(events[0]["time_ms"])
                row["request_history_end"].append(sum(e["time_ms"] < cutoff for e in history))
                targets += part
                row["request_target_end"].append(len(targets))
        names = [*(column.name for column in log.item_columns), "labels", *(f"label_{n}" for n in log.number_labels)]
        row |= {f"target_{name}": flat(targets, name) for name in names}
        rows.append(row)
    return rows


def plain(rows: list[Row]) -> list[Row]:
    """Rows in which floats are as text, so that NaN equals NaN and -0.0 is not 0.0."""
    return [{name: _text(value) for name, value in row.items()} for row in rows]


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(element) for element in value]
    return str(value) if isinstance(value, float) else value
