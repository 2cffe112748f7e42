"""The tables of longreel.toml that declare a log schema: [fields.<place>], [actions], [labels], [history] and
[statistics].

[fields.item]
brand = {kind = "id", from = "lower(brand)", rows = 4096, match = true}

[actions]
click = "is_click"
purchase = {when = "bought_at IS NOT NULL", at = "bought_at"}

[history]
events = "click OR purchase"

[labels]
click = "click"
bought = {when = "purchase", within = "48 h", weight = 2}
spent = {value = "if(purchase, paid, 0)"}

[statistics]
brand = ["impressions", "rate(click)"]
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from longreel.contracts import toml
from longreel.contracts.durations import duration_ms
from longreel.contracts.errors import LongreelError, require
from longreel.contracts.log_schema import ALL_IMPRESSIONS, ITEM, PLACES, Action, Field, Label, LogSchema, Place
from longreel.contracts.statistics import build_statistics

TABLES = ("fields", "actions", "history", "labels", "statistics")


def build_log_schema(tables: Mapping[str, Any], time_zone: str, where: str) -> LogSchema:
    """The log schema that some of TABLES declare; what they leave out is as in `LogSchema()`.

    Raises:
        LongreelError: a declaration is unknown, of the wrong type, or does not fit; the message begins with `where`.
    """
    try:
        arguments: dict[str, Any] = {"time_zone": time_zone}
        if "fields" in tables:
            arguments["fields"] = _fields(_table(tables["fields"], "[fields]"))
        if "actions" in tables:
            actions = _table(tables["actions"], "[actions]")
            arguments["actions"] = tuple(_action(name, value) for name, value in actions.items())
        if "labels" in tables:
            labels = _table(tables["labels"], "[labels]")
            arguments["labels"] = tuple(_label(name, value) for name, value in labels.items())
        if "history" in tables:
            arguments |= _history(_table(tables["history"], "[history]"))
        if "statistics" in tables:
            arguments["statistics"] = build_statistics(_table(tables["statistics"], "[statistics]"))
        return LogSchema(**arguments)
    except LongreelError as error:
        raise LongreelError(f"{where}: {error}") from error


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LongreelError(f"{where} is a table of names, got {value!r}")
    return value


def _fields(tables: dict[str, Any]) -> tuple[Field, ...]:
    if unknown := sorted(set(tables) - set(PLACES)):
        raise LongreelError(f"[fields.{unknown[0]}]: expected a place among {', '.join(PLACES)}")
    declared = [
        _field(name, place, value)
        for place in PLACES
        for name, value in _table(tables.get(place, {}), f"[fields.{place}]").items()
    ]
    item = next((field for field in declared if field.name == ITEM.name), ITEM)
    return (item, *(field for field in declared if field is not item))


def _field(name: str, place: Place, value: Any) -> Field:
    where = f"[fields.{place}] {name}"
    values = dict(_table(value, where))
    if name == ITEM.name:
        require(place == ITEM.place, f"{where}: item_id belongs to [fields.item]")
        require(
            not {"kind", "from"} & values.keys(), f"{where}: is an id from [source] item_id; leave kind and from out"
        )
        values = {"match": ITEM.match, **values, "kind": ITEM.kind}
    if "from" in values:
        values["source"] = values.pop("from")
    require("kind" in values, f'{where}: expected a kind, as in {name} = {{kind = "id"}}')
    return toml.build_section(Field, {"name": name, "place": place, **values}, where)


def _action(name: str, value: Any) -> Action:
    values = {"when": value} if isinstance(value, str) else _table(value, f"[actions] {name}")
    return toml.build_section(Action, {"name": name, **values}, f"[actions] {name}")


def _label(name: str, value: Any) -> Label:
    where = f"[labels] {name}"
    values: dict[str, Any] = {"when": value} if isinstance(value, str) else dict(_table(value, where))
    if "within" in values:
        values["within_ms"] = duration_ms(str(values.pop("within")), f"{where}: within")
    return toml.build_section(Label, {"name": name, **values}, where)


def _history(values: dict[str, Any]) -> dict[str, str]:
    where = "[history]"
    unknown = sorted(set(values) - {"events", "known_after"})
    require(not unknown, f"{where}: unknown setting {', '.join(unknown)}; expected events and known_after")
    arguments = {}
    for setting, name in (("events", "history"), ("known_after", "history_known_after")):
        if setting in values:
            require(isinstance(values[setting], str), f"{where} {setting}: expected a text, got {values[setting]!r}")
            arguments[name] = values[setting]
    if arguments.get("history", "").strip() == "impressions":
        arguments["history"] = ALL_IMPRESSIONS
    return arguments


def setting_names() -> tuple[str, ...]:
    """What a field can be given in TOML."""
    names = [field.name for field in dataclasses.fields(Field) if field.name not in ("name", "place")]
    return tuple("from" if name == "source" else name for name in names)
