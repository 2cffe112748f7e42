"""Definitions of a partition: the declarations that decide its rows, and how two of them differ, in words.

Manifests of events and samples keep them under `details["definitions"]`. A difference makes a partition stale. One that
changes the meaning of a value that both have is a conflict too: a training does not mix such days.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longreel.contracts.config import Config

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
        "actions": [asdict(action) | {"when": action.when or action.name} for action in schema.actions],
        "labels": {label.name: {"sql": label.sql, "within_ms": label.within_ms} for label in schema.labels},
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
        }
    }


def changes(stored: Definitions, config: Config) -> list[Change]:
    """How the definitions of a partition's rows differ from the present ones; an optional field that it lacks is no
    difference, since it reads as unknown."""
    now = sample_definitions(config) if "samples" in stored else event_definitions(config)
    optional = {field.name for field in config.log_schema.fields if field.optional}
    return [
        *_settings("source", stored["source"], now["source"]),
        *_fields(stored["fields"], now["fields"], optional),
        *_actions(stored["actions"], now["actions"]),
        *_labels(stored["labels"], now["labels"]),
        *_settings("", {"history": stored["history"]}, {"history": now["history"]}),
        *_settings("samples", stored.get("samples", {}), now.get("samples", {})),
    ]


def conflicts(stored: Definitions, config: Config) -> list[str]:
    """The differences for which a partition cannot be trained on, in words."""
    return [change.text for change in changes(stored, config) if change.is_conflict]


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


def _actions(was: list[dict[str, str]], now: list[dict[str, str]]) -> Iterator[Change]:
    old, new = {action["name"]: action for action in was}, {action["name"]: action for action in now}
    yield from _named("action", old, new)
    if list(old) != list(new) and set(old) == set(new):
        yield Change("the order of actions changed")


def _labels(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    yield from _named("label", was, now)
    if list(was) != list(now) and set(was) == set(now):
        yield Change("the order of labels changed")


def _named(what: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for name in now:
        if name not in was:
            yield Change(f"{what} {name} was added")
        elif was[name] != now[name]:
            parts = [part for part in now[name] if was[name].get(part) != now[name][part]]
            before, after = (", ".join(f"{p} {_value(d.get(p))}" for p in parts) for d in (was[name], now[name]))
            yield Change(f"{what} {name} was {before}, is {after}")
    for name in was:
        if name not in now:
            yield Change(f"{what} {name} was removed")
