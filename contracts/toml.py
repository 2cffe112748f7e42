"""TOML files as typed dataclasses: every value is checked against the annotation of its field."""

import dataclasses
import math
import tomllib
import typing
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from longreel.contracts.errors import LongreelError


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=_Dataclass)
LARGEST = 2**53  # of numbers: every integer up to it is a float too
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: 'a text in ""'}


def read_text(path: Path) -> str:
    """The text of a TOML file.

    Raises:
        LongreelError: it is not text.
    """
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise LongreelError(f"{path} is not valid TOML: it is not UTF-8 ({error}); write it again") from error


def parse(text: str, where: str) -> dict[str, Any]:
    """The values of TOML text, which `where` names in an error.

    Raises:
        LongreelError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LongreelError(f"{where} is not valid TOML: {error}") from error
    except RecursionError:
        raise LongreelError(f"{where} is not valid TOML: it is nested too deeply") from None


def build_section(kind: type[T], values: dict[str, Any], where: str, **given: Any) -> T:
    """A dataclass from TOML values and from arguments that are `given`; sections become dataclasses and arrays tuples.

    Raises:
        LongreelError: a setting is unknown, of the wrong type or out of range; the message begins with `where`.
    """
    fields = {field.name: field.type for field in dataclasses.fields(kind) if field.name not in given}
    arguments = dict(given)
    for name, value in values.items():
        if name not in fields:
            raise LongreelError(f"{where}: unknown setting {name!r}; expected some of {', '.join(fields)}")
        if dataclasses.is_dataclass(fields[name]):
            if not isinstance(value, dict):
                raise LongreelError(f"{where}: {name!r} is a section: expected [{name}], got {value!r}")
            arguments[name] = build_section(cast(type[Any], fields[name]), value, f"{where} [{name}]")
        else:
            arguments[name] = _checked(fields[name], value, f"{where}: {name}")
    try:
        return kind(**arguments)
    except LongreelError as error:
        raise LongreelError(f"{where.partition(' [')[0]}: {error}") from error


def _checked(kind: Any, value: Any, where: str) -> Any:
    """A TOML value as a field's annotation has it: an integer may stand for a float, an array becomes a tuple.

    Raises:
        LongreelError: it is of another type, not finite or beyond LARGEST, or none of a Literal's values.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_checked(arguments[0], item, f"{where}, in its list,") for item in value)
    if origin is dict and isinstance(value, dict):
        return {name: _checked(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise LongreelError(f"{where} expected one of {', '.join(arguments)}, got {value!r}")
        return value
    if type(value) is float and not math.isfinite(value):
        raise LongreelError(f"{where} expected a finite number, got {value}")
    if type(value) in (int, float) and abs(value) > LARGEST:
        raise LongreelError(f"{where} expected a number between -{LARGEST:,} and {LARGEST:,}, got a larger one")
    value = float(value) if kind is float and type(value) is int else value
    if type(value) is not kind:
        raise LongreelError(f"{where} expected {KINDS.get(kind) or 'a list, [..]'}, got {value!r}")
    return value
