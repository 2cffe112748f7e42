"""Entries of the promotion ledger: what each records, and which of them count."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from mlflow.entities.model_registry import ModelVersion

from longreel.components.registry.versions import Fault
from longreel.contracts.errors import LongreelError, require
from longreel.contracts.serialization import parse_json

Action = Literal["promote", "rollback", "adopt", "decline"]
ENTRY_TAG = "entry"
ALIGNED_TAG = "alias_set"  # of an entry: the alias has followed it, so an alias elsewhere was moved by hand


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the ledger.

    A superseded entry lost a race and changed nothing. `adopt` records an alias that a person moved in MLflow, to no
    version where it was removed. `decline` records that a person rejected `to_version`, and leaves `from_version` the
    champion.
    """

    sequence: int
    at: str  # UTC, ISO 8601
    who: str
    action: Action
    from_version: int | None
    to_version: int | None
    model_digest: str | None
    decision: str | None  # digest of the decision that allowed it
    reason: str
    superseded: bool = False
    alias_followed: bool = field(default=False, compare=False)

    @property
    def moves(self) -> bool:
        """Whether it made `to_version` the champion."""
        return not self.superseded and self.action != "decline"

    def to_json(self) -> str:
        """The value of its tag."""
        return json.dumps({name: getattr(self, name) for name in _STORED})


_STORED = tuple(f.name for f in fields(Entry) if f.name not in ("sequence", "superseded", "alias_followed"))


def read_entries(items: Iterable[ModelVersion]) -> tuple[list[Entry], list[Fault]]:
    """The entries that the versions of a ledger hold, oldest first, superseded ones marked, and what is none.

    An entry counts if its `from_version` is the champion after those before it. Where one of these is unreadable or
    deleted, that is unknown, and it counts too.
    """
    entries: list[Entry] = []
    faults: list[Fault] = []
    champion, is_certain, next_number = None, True, 1
    for item in items:
        number = int(item.version)
        faults += _deleted(item.name, range(next_number, number))
        is_certain, next_number = is_certain and number == next_number, number + 1
        try:
            entry = _parse(item)
        except (LongreelError, ValueError) as error:
            advice = "its description says what it recorded; entries after it count from where they start"
            faults.append(
                Fault(name=item.name, number=number, text=f"its tag {ENTRY_TAG} was edited: {error}; {advice}")
            )
            is_certain = False
            continue
        if entry.action != "decline":
            entry = replace(entry, superseded=is_certain and entry.from_version != champion)
        if entry.moves:
            champion, is_certain = entry.to_version, True
        entries.append(entry)
    return entries, faults


def _deleted(name: str, numbers: Iterable[int]) -> Iterator[Fault]:
    for number in numbers:
        yield Fault(name=name, number=number, text="it was deleted; entries after it count from where they start")


def _parse(item: ModelVersion) -> Entry:
    """Raises LongreelError or ValueError where the tag does not hold an entry."""
    require(ENTRY_TAG in item.tags, "expected an entry as JSON, and the tag is missing")
    values: Any = parse_json(item.tags[ENTRY_TAG])
    require(isinstance(values, dict), f"expected a JSON object, got {values!r}")
    expected, hints = set(_STORED), get_type_hints(Entry)
    require(set(values) == expected, f"expected the values {', '.join(_STORED)}, got {', '.join(map(str, values))}")
    for name, value in values.items():
        allowed = get_args(Action) if name == "action" else None
        is_right = value in allowed if allowed else isinstance(value, hints[name]) and not isinstance(value, bool)
        require(is_right, f"{name} was not expected to be {value!r}")
    return Entry(sequence=int(item.version), alias_followed=ALIGNED_TAG in item.tags, **values)
