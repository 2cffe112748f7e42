"""JSON of dataclasses: reports and decisions as files, and checks of all JSON that is read from files."""

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from longreel.contracts.errors import LongreelError

T = TypeVar("T")


def parse_json(text: str | bytes) -> Any:
    """What JSON text says.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a name twice in an object.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a name is twice in the object of {', '.join(sorted(values))}")
    return values


def to_json(record: Any) -> str:
    """A dataclass as JSON text."""
    return json.dumps(asdict(record), indent=1)


def from_json(
    kind: type[T], text: str, what: str, command: str, unpack: Callable[[Any], Any] = lambda value: value
) -> T:
    """A dataclass from JSON text, nested ones and tuples by its annotations. Unknown and missing fields are errors.

    Raises:
        LongreelError: the text is not `what`, which `longreel COMMAND` writes.
    """
    try:
        record: T = _build(kind, unpack(parse_json(text)))
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LongreelError(f"not {what} ({error}); run `longreel {command}` again") from error


def read(parse: Callable[[str], T], path: Path, what: str, command: str) -> T:
    """A record from a file.

    Raises:
        LongreelError: there is no such file, or it does not hold `what`.
    """
    if not path.is_file():
        raise LongreelError(f"no {what} at {path}; `longreel {command} --out {path}` writes one")
    try:
        return parse(path.read_text(errors="replace"))
    except LongreelError as error:
        raise LongreelError(f"{path} is {error}") from error


def read_json(path: Path, remedy: str) -> Any:
    """What a JSON file holds.

    Raises:
        LongreelError: it is not valid JSON; the message ends with `remedy`.
    """
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise LongreelError(f"{path} is damaged ({error}); {remedy}") from error


def read_summary(path: Path) -> dict[str, Any]:
    """What a finished retrain left in `reports/DATE/summary.json`; see `read_json` for errors."""
    remedy = f"`longreel ops retrain --date {path.parent.name}` writes it again"
    values = read_json(path, remedy)
    if not isinstance(values, dict) or not {"version", "run_id"} <= set(values):
        raise LongreelError(f"{path} is damaged (expected an object with version and run_id); {remedy}")
    return values


def _build(kind: Any, value: Any, where: str = "") -> Any:
    """`value` as `kind`: a dataclass, tuple[kind, ...], an optional of these, or plain JSON. `where` names it.

    Raises:
        TypeError or ValueError: it is of another type; or it is an object with unknown or missing names.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if isinstance(kind, types.UnionType):
        return None if value is None else _build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where}: expected one of {', '.join(arguments)}, got {value!r}")
        return value
    if origin is tuple:
        return tuple(_build(arguments[0], item, where) for item in _checked(list, value, where))
    if not is_dataclass(kind):
        return _checked(origin or kind, value, where)
    types_of = {field.name: field.type for field in fields(kind)}
    if unknown := set(_checked(dict, value, where)) - set(types_of):
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
    return typing.cast(Any, kind)(**{name: _build(types_of[name], item, name) for name, item in value.items()})


def _checked(kind: Any, value: Any, where: str) -> Any:
    """A value of plain JSON whose type is `kind`; a whole number may stand for a float."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{where or 'it'}: expected {kind.__name__}, got {str(value)[:40]!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected finite numbers, got {value}")
    return value
