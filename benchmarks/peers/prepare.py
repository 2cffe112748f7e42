"""Tables for the peers, from a home's published samples and events: targets with features, and their histories.

    targets.parquet    a row per target, day by day in the order that longreel stores and scores them: `day`, `user_id`,
                       `time_ms`, `label_<task>`, features, and the history events that its request sees, as
                       `history_start` and `history_stop` in events.parquet
    events.parquet     history events: fields, outcomes and times
    features.json      of each feature its kind (category or number) and the views that have it

View A: the fields of the preset, which longreel's model reads. View B: besides, the user's id, every further field of
the home's log schema, hour, weekday and nightly statistics. View S: B with streaming statistics instead.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.extrapolation.count_features import count_features, feature_names, plain_fields
from benchmarks.fields.__main__ import PRESET, part_of
from benchmarks.peers.running_sums import RunningSums, codes
from benchmarks.peers.statistics import statistics
from longreel.contracts.log_schema import LogSchema
from longreel.lake.home import Home
from longreel.model.data.row_groups import read_rows
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.batch_scoring import day_groups

WINDOW = 128  # history events that count features and sequences see, as longreel's model in this comparison
STATISTICS_OF = [
    ("user_id",),
    ("user_id", "surface"),
    ("item_id",),
    ("item_id", "surface"),
    ("author_id",),
    ("tag",),
    ("music_id",),
]
Features = dict[str, dict[str, object]]


def prepare(home: Home, out: Path) -> None:
    """Write the tables of every day that has samples."""
    log, zone = home.config.log_schema, home.config.source.time_zone
    tasks = list(home.config.tasks)
    preset_log = part_of(log, lambda field: field.name in PRESET)
    parts, histories, start = [], [], 0
    for day in sorted(home.lake.days("samples")):
        rows = read_rows(home.lake, day_groups(home.lake, day), log)
        parts.append(_targets(rows, preset_log, tasks, start).assign(day=day.isoformat()))
        histories.append(_events(rows, preset_log))
        start += len(histories[-1])
    targets = pd.concat(parts, ignore_index=True)
    local = pd.to_datetime(targets["time_ms"], unit="ms", utc=True).dt.tz_convert(zone)
    targets["hour"], targets["weekday"] = local.dt.hour, local.dt.weekday
    features = _features(targets, log, preset_log)
    keys = [key for key in STATISTICS_OF if set(key) <= set(targets)]
    impressions, tables = _impressions(home, keys, tasks), [targets]
    for view, streaming in (("B", False), ("S", True)):
        tables.append(statistics(impressions, targets, keys, tasks, zone, streaming))
        features |= {name: {"kind": "number", "views": [view]} for name in tables[-1]}
    out.mkdir(parents=True, exist_ok=True)
    pd.concat(tables, axis=1).to_parquet(out / "targets.parquet")
    history = pd.concat(histories, ignore_index=True)
    history.to_parquet(out / "events.parquet")
    (out / "features.json").write_text(json.dumps(features, indent=1) + "\n")


def _targets(rows: SampleRows, preset_log: LogSchema, tasks: list[str], start: int) -> pd.DataFrame:
    """One day's targets; its events begin at `start` in events.parquet."""
    request = np.repeat(np.arange(rows.num_requests), rows.target_counts)
    row = rows.request_row[request]
    columns = {"user_id": rows.user_id[row], "time_ms": rows.request_time_ms[request]}
    columns |= {
        "history_start": start + np.maximum(rows.history_start, rows.history_stop - WINDOW)[request],
        "history_stop": start + rows.history_stop[request],
    }
    columns |= dict(zip((f"label_{t}" for t in tasks), rows.task_labels(tasks).T.astype(np.int8), strict=True))
    for name, values in rows.target.items():
        columns |= {name: values} if values.ndim == 1 else {f"{name}_{i}": part for i, part in enumerate(values.T)}
    columns |= {name: values[row] for name, values in rows.user.items()}
    counts = zip(
        feature_names(preset_log, WINDOW), count_features(replace(rows, log_schema=preset_log), WINDOW).T, strict=True
    )
    plain = plain_fields(preset_log)  # are among the columns already
    columns |= {f"history {name}": values for name, values in counts if name not in plain}
    return pd.DataFrame(columns | _outcomes(rows, request))


def _outcomes(rows: SampleRows, request: np.ndarray) -> dict[str, np.ndarray]:
    """What came of the history's events: of all, and of those of the target's item, author and tag."""
    place, log = np.arange(len(rows.history["time_ms"])), rows.log_schema
    stop = rows.history_stop[request]
    start = np.maximum(rows.history_start[request], stop - WINDOW)
    outcomes = {"play_ratio": np.nan_to_num(np.clip(rows.history["play_ratio"], 0, 5))}
    outcomes |= {name: (rows.history["actions"] & log.action_bit(name) > 0) for name in ("long_view", "like")}
    values = np.column_stack([np.ones(len(place)), *outcomes.values()]).astype(np.float64)
    columns = {}
    for field in (None, "item_id", "author_id", "tag"):
        pair = (rows.history[field], rows.target[field]) if field else (0 * place, 0 * request)
        events, targets = codes(*([np.asarray(part, np.int64)] for part in pair))
        n, *sums = RunningSums(events, place, values).between(targets, start, stop).T
        for name, total in zip(outcomes, sums, strict=True):
            column = f"history {field or 'all'} mean {name}"
            columns[column] = np.where(n > 0, total / np.maximum(n, 1), np.nan).astype(np.float32)
    return columns


def _events(rows: SampleRows, preset_log: LogSchema) -> pd.DataFrame:
    """History events: the item and request fields of the preset, the time, and the outcomes."""
    names = [field.name for field in preset_log.of_place("item", "request")]
    return pd.DataFrame({name: rows.history[name] for name in ("time_ms", *names, "play_ratio", "actions")})


def _features(targets: pd.DataFrame, log: LogSchema, preset_log: LogSchema) -> Features:
    kinds = {field.name: "number" if field.kind == "number" else "category" for field in log.fields}
    kinds |= {"user_id": "category", "hour": "category", "weekday": "category"}
    in_a = {field.name for field in preset_log.fields}
    features: Features = {}
    for name in targets:
        if name in ("day", "time_ms", "history_start", "history_stop") or name.startswith("label_"):
            continue
        field = name if name in kinds else name.rsplit("_", 1)[0]
        views = ["A", "B", "S"] if name in in_a or name.startswith("history ") else ["B", "S"]
        features[name] = {"kind": kinds.get(field, "number"), "views": views}
    return features


def _impressions(home: Home, keys: list[tuple[str, ...]], actions: list[str]) -> pd.DataFrame:
    """Every impression of the lake, with the columns of statistics."""
    names = sorted({"time_ms", "actions", *(name for key in keys for name in key)})
    days = sorted(home.lake.days("events"))
    table = pd.concat([home.lake.read(home.lake.require("events", day), names).to_pandas() for day in days])
    bits = {action: home.config.log_schema.action_bit(action) for action in actions}
    return table.assign(**{action: (table["actions"] & bit > 0).astype(np.int8) for action, bit in bits.items()})
