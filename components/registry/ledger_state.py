"""Champion of a pipeline as the ledger, the registry and the alias show it, and what to do where they disagree."""

from collections.abc import Sequence
from dataclasses import dataclass

from longreel.components.registry.entries import Entry
from longreel.components.registry.versions import CHAMPION, Fault, Version
from longreel.contracts.errors import require


@dataclass(frozen=True, kw_only=True)
class LedgerState:
    """What the store holds at one moment.

    registered, faults: the versions that can be used, and the versions and entries that cannot be read. alias: the
    version that other programs load as the champion.
    """

    model: str
    entries: Sequence[Entry]
    registered: Sequence[Version]
    faults: Sequence[Fault]
    alias: int | None

    @property
    def last_move(self) -> Entry | None:
        """The entry that made the champion the champion."""
        return next((entry for entry in reversed(self.entries) if entry.moves), None)

    @property
    def number(self) -> int | None:
        """The champion's version by the ledger, be it deleted; None where there is no champion."""
        return None if self.last_move is None else self.last_move.to_version

    @property
    def champion(self) -> Version | None:
        """The champion by the ledger; None where there is none, or where its version cannot be used."""
        return self.version(self.number)

    def require_champion(self) -> Version | None:
        """As `champion`.

        Raises:
            LongreelError: its version cannot be used; the message says what to do.
        """
        require(self.number is None or self.champion is not None, self.conflict)
        return self.champion

    def version(self, number: int | None) -> Version | None:
        """A version that can be used; None where there is none, or where a ledger entry recorded another model."""
        version = next((version for version in self.registered if version.version == number), None)
        return None if version is None or self._other_digest(version) else version

    def _other_digest(self, version: Version) -> str:
        """The model digest that a ledger entry recorded of a version, where it is not the version's; else ""."""
        recorded = [entry.model_digest for entry in self.entries if entry.moves and entry.to_version == version.version]
        return next((digest or "none" for digest in recorded if digest != version.model_digest), "")

    @property
    def champions(self) -> list[int]:
        """Every version that was champion once and can be used."""
        ever = {entry.to_version for entry in self.entries if entry.moves}
        return [v.version for v in self.registered if v.version in ever and self.version(v.version) is not None]

    def before(self, number: int | None) -> int | None:
        """The champion that a version last replaced; None where it was the first, or was set to by a rollback only."""
        moves = [entry for entry in self.entries if entry.moves and entry.to_version == number]
        promotions = [entry for entry in moves if entry.action == "promote"][-1:]
        adoptions = [entry for entry in moves if entry.action == "adopt"][:1]
        return next((entry.from_version for entry in promotions + adoptions), None)

    @property
    def previous(self) -> int | None:
        """The champion before the present one of those whose versions can be used."""
        number, passed = self.before(self.number), {self.number}
        while number is not None and number not in passed:
            if self.version(number) is not None:
                return number
            passed.add(number)
            number = self.before(number)
        if self.champion is not None:
            return None
        moves = (entry.to_version for entry in reversed(self.entries) if entry.moves)
        return next((number for number in moves if self.version(number) is not None), None)

    @property
    def is_unfinished(self) -> bool:
        """Whether the process that changed the champion ended before it set the alias. The next command that writes
        sets it."""
        move = self.last_move
        return (
            move is not None
            and not move.alias_followed
            and self.alias == move.from_version != move.to_version
            and (self.number is None or self.champion is not None)
        )

    @property
    def is_recorded(self) -> bool:
        """Whether the last entry says that the alias has followed it, where it has."""
        return self.last_move is None or self.last_move.alias_followed or self.alias != self.number

    @property
    def conflict(self) -> str:
        """Where a person must say which version is the champion: why, and the commands that do so; otherwise ""."""
        if self.number is not None and self.champion is None:
            why = next((f.text for f in self.faults if (f.name, f.number) == (self.model, self.number)), "")
            ways = [f"make version {self.previous} the champion again: `longreel model rollback`"] * bool(self.previous)
            if self.alias != self.number:
                ways.append(f"keep {_on(self.alias)}: `longreel model promote --adopt`")
            edited = next((version for version in self.registered if version.version == self.number), None)
            if edited is not None:
                why = f"its model digest is {edited.model_digest}, the ledger recorded {self._other_digest(edited)}"
            reason = why or "it was deleted in MLflow"
            lost = f"version {self.number}, the champion of {self.model}, cannot be used: {reason}"
            return f"{lost}. {_either(ways)}".rstrip()
        if self.alias == self.number or self.is_unfinished:
            return ""
        move = self.last_move
        by_ledger = (
            "the ledger has no entry" if move is None else f"by ledger entry {move.sequence} it is {_on(self.number)}"
        )
        undo = f"`longreel model rollback --to-version {self.number}`" if self.number else "remove the alias in MLflow"
        ways = ["keep it: `longreel model promote --adopt`", f"undo it: {undo}"]
        moved = f"the alias {CHAMPION} of {self.model} was moved in MLflow: it is {_on(self.alias)}, {by_ledger}"
        return f"{moved}. {_either(ways)}"


def _on(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"


def _either(ways: Sequence[str]) -> str:
    """Commands to choose from, as a sentence."""
    text = "; or ".join(ways)
    return text[:1].upper() + text[1:]
