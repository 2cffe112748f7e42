"""JSON of dataclasses: reports and decisions as files."""

import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from longreel.contracts.errors import LongreelError

T = TypeVar("T")


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
        record: T = _build(kind, unpack(json.loads(text)))
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
        return json.loads(path.read_text())
    except ValueError as error:
        raise LongreelError(f"{path} is damaged ({error}); {remedy}") from error


def read_summary(path: Path) -> dict[str, Any]:
    """What a finished retrain left in `reports/DATE/summary.json`; see `read_json` for errors."""
    values: dict[str, Any] = read_json(path, f"`longreel ops retrain --date {path.parent.name}` writes it again")
    return values


def _build(kind: Any, value: Any) -> Any:
    """`value` as `kind`: a dataclass, tuple[kind, ...], an optional of these, or plain JSON."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return None if value is None else _build(next(a for a in arguments if a is not type(None)), value)
    if typing.get_origin(kind) is tuple:
        return tuple(_build(arguments[0], item) for item in value)
    if not is_dataclass(kind):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {value}")
        return value
    types_of = {field.name: field.type for field in fields(kind)}
    if unknown := set(value) - set(types_of):
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
    return typing.cast(Any, kind)(**{name: _build(types_of[name], item) for name, item in value.items()})
