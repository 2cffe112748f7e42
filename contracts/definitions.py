"""Definitions of a partition: the declarations that decide its rows, and how two of them differ, in words.

Manifests of events and samples keep them under `details["definitions"]`. A difference makes a partition stale. One that
changes the meaning of a value that both have is a conflict too: a training does not mix such days.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longreel.contracts.config import Config
from longreel.contracts.log_schema import ITEM, Action, Field, Label, LogSchema
from longreel.contracts.statistics import Statistic, build_statistics

Definitions = Mapping[str, Any]

# Settings of [source] that decide what raw rows become; the others say where they lie, or when a day is stopped.
SOURCE_SETTINGS = (
    "user_id",
    "item_id",
    "time_ms",
    "request_id",
    "derived",
    "where",
    "time_zone",
    "max_lateness_hours",
)


@dataclass(frozen=True)
class Change:
    """One difference between a partition's definitions and the present ones."""

    text: str  # what it was and what it is
    is_conflict: bool = True


def event_definitions(config: Config) -> dict[str, Any]:
    """The definitions of a day's events."""
    schema, source = config.log_schema, config.source
    return {
        "source": {name: getattr(source, name) for name in SOURCE_SETTINGS},
        "fields": {field.name: field.definition() for field in schema.fields if field.is_stored},
        "actions": [_action(action) for action in schema.actions],
        "labels": [_label(label) for label in schema.labels],
        "history": schema.history,
    }


def sample_definitions(config: Config) -> dict[str, Any]:
    """The definitions of a day's samples: those of its events, and how samples are made of them."""
    samples = config.samples
    return event_definitions(config) | {
        "samples": {
            "max_history": samples.max_history,
            "request_rule": samples.request_rule,
            "gap_ms": samples.gap_ms if samples.request_rule == "gap" else None,
            "max_targets": samples.max_targets,
            "sampled_negatives": samples.sampled_negatives,
        },
        "history_known_after": config.log_schema.history_known_after,
        "statistics": _statistics(config.log_schema),
    }


def stored_log_schema(definitions: Definitions, columns: Sequence[str]) -> LogSchema:
    """The log schema of the definitions of a partition, whose files have these columns, in their order. How a model
    reads a field is not among definitions."""
    place = {name: number for number, name in enumerate(columns)}
    prefixes = ("", "user_", "history_", "target_")

    def order(name: str) -> int:
        stored = [place[f"{prefix}{name}"] for prefix in prefixes if f"{prefix}{name}" in place]
        return -1 if name == ITEM.name else min(stored, default=len(place))

    fields = sorted(definitions["fields"].items(), key=lambda field: order(field[0]))
    return LogSchema(
        fields=tuple(_stored_field(name, definition) for name, definition in fields),
        actions=tuple(Action(**action) for action in definitions["actions"]),
        labels=tuple(_stored_label(label) for label in definitions["labels"]),
        history=definitions["history"],
        history_known_after=definitions.get("history_known_after", ""),
        statistics=tuple(_stored_statistic(statistic) for statistic in definitions.get("statistics", ())),
        time_zone=definitions["source"]["time_zone"],
    )


def _stored_field(name: str, definition: Mapping[str, Any]) -> Field:
    values = {part: definition[part] for part in ("place", "kind", "size", "of")}
    return Field(name=name, source=definition["from"], **values)


def _stored_label(label: Mapping[str, Any]) -> Label:
    sql = {"value" if label["kind"] == "number" else "when": label["sql"]}
    return Label(name=label["name"], within_ms=label["within_ms"], **sql)


def _statistics(log: LogSchema) -> list[dict[str, Any]]:
    return [{"name": s.key, "measures": list(s.measures)} for s in log.statistics]


def _stored_statistic(stored: Mapping[str, Any]) -> Statistic:
    (statistic,) = build_statistics({stored["name"]: list(stored["measures"])})
    return statistic


def changes(stored: Definitions, config: Config) -> list[Change]:
    """How the definitions of a partition's rows differ from the present ones; an optional field that it lacks is no
    difference, since it reads as unknown."""
    now = sample_definitions(config) if "samples" in stored else event_definitions(config)
    optional = {field.name for field in config.log_schema.fields if field.optional}
    return [
        *_settings("source", stored["source"], now["source"]),
        *_fields(stored["fields"], now["fields"], optional),
        *_in_order("action", stored["actions"], now["actions"]),
        *_in_order("label", stored["labels"], now["labels"]),
        *_settings("", {"history": stored["history"]}, {"history": now["history"]}),
        *_settings("samples", stored.get("samples", {}), now.get("samples", {})),
        *_settings("history", *({"known_after": d.get("history_known_after", "")} for d in (stored, now))),
        *(_statistic_changes(stored, config.log_schema) if "samples" in stored else ()),
    ]


def conflicts(stored: Definitions, config: Config) -> list[str]:
    """The differences for which a partition cannot be trained on, in words."""
    return [change.text for change in changes(stored, config) if change.is_conflict]


def model_conflicts(stored: Definitions, log_schema: LogSchema, tasks: Sequence[str]) -> list[str]:
    """Why rows of a partition have another meaning than those that a model was trained on, in words.

    What the model does not know of does not matter, as long as the bits of its actions are where they were.

    Args:
        log_schema, tasks: those of the model.
    """
    optional = {field.name for field in log_schema.fields if field.optional}
    fields = {field.name: field.definition() for field in log_schema.fields if field.is_stored}
    actions = [_action(action) for action in log_schema.actions]
    labels = _by_name([_label(log_schema.label(task)) for task in tasks])
    differences = [
        *_fields(stored["fields"], fields, optional),
        *_in_order("action", stored["actions"][: len(actions)], actions),
        *_named("label", {k: v for k, v in _by_name(stored["labels"]).items() if k in labels}, labels),
        *_statistic_changes(stored, log_schema),
    ]
    return [change.text for change in differences if change.is_conflict]


def _statistic_changes(stored: Definitions, log_schema: LogSchema) -> Iterator[Change]:
    """Statistics are computed apart: samples without one have no column of it, and one more is not read."""
    kept = [_stored_statistic(statistic) for statistic in stored.get("statistics", ())]
    there, declared = (
        [(s.key, measure) for s in statistics for measure in s.measures] for statistics in (kept, log_schema.statistics)
    )
    for key, measure in declared:
        if (key, measure) not in there:
            yield Change(f"statistic {key}: {measure} was added")
    for key, measure in there:
        if (key, measure) not in declared:
            yield Change(f"statistic {key}: {measure} was removed, and its columns are still stored", is_conflict=False)


def log_schema_changes(was: LogSchema, now: LogSchema) -> list[str]:
    """How two log schemas differ, in words."""
    old, new = was.to_dict(), now.to_dict()
    differences = [
        *_in_order("field", old["fields"], new["fields"]),
        *_in_order("action", old["actions"], new["actions"]),
        *_in_order("label", old["labels"], new["labels"]),
        *_settings("history", *({"events": d["history"], "known_after": d["history_known_after"]} for d in (old, new))),
        *_in_order("statistic", _statistics(was), _statistics(now)),
        *_settings("source", {"time_zone": old["time_zone"]}, {"time_zone": new["time_zone"]}),
    ]
    return [change.text for change in differences]


def _action(action: Action) -> dict[str, str]:
    values = {name: value for name, value in asdict(action).items() if name != "optional"}
    return values | {"when": action.when or action.name}


def _settings(section: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    prefix = f"[{section}] " if section else ""
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield Change(f"{prefix}{name} was {_value(was.get(name))}, is {_value(now.get(name))}")


def _value(value: Any) -> str:
    return "unset" if value in (None, "", {}) else str(value)


def _fields(was: Mapping[str, Any], now: Mapping[str, Any], optional: set[str]) -> Iterator[Change]:
    for name, definition in now.items():
        if name not in was:
            if name not in optional:
                yield Change(f"field {name} was added, and is not optional")
        elif was[name] != definition:
            parts = sorted(part for part in definition if was[name].get(part) != definition[part])
            before, after = (", ".join(f"{p} {_value(d.get(p))}" for p in parts) for d in (was[name], definition))
            yield Change(f"field {name} was declared with {before}, is with {after}")
    for name in was:
        if name not in now:
            yield Change(f"field {name} was removed, and its column is still stored", is_conflict=False)


def _label(label: Label) -> dict[str, Any]:
    kind = "number" if label.is_number else "binary"
    return {"name": label.name, "kind": kind, "sql": label.sql, "within_ms": label.within_ms}


def _in_order(what: str, was: list[dict[str, Any]], now: list[dict[str, Any]]) -> Iterator[Change]:
    """Differences of actions or labels, whose bits follow their order."""
    old, new = _by_name(was), _by_name(now)
    yield from _named(what, old, new)
    if list(old) != list(new) and set(old) == set(new):
        yield Change(f"the order of {what}s changed")


def _by_name(definitions: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {definition["name"]: definition for definition in definitions}


def _named(what: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for name in now:
        if name not in was:
            yield Change(f"{what} {name} was added")
        elif parts := [p for p in now[name] if _value(was[name].get(p)) != _value(now[name][p])]:
            before, after = (", ".join(f"{p} {_value(d.get(p))}" for p in parts) for d in (was[name], now[name]))
            yield Change(f"{what} {name} was {before}, is {after}")
    for name in was:
        if name not in now:
            yield Change(f"{what} {name} was removed")
