"""Who made which version the champion, when and why? An append-only ledger that the `champion` alias follows.

The ledger is itself a registered model, `longreel-<name>-ledger`: each of its versions is one entry. MLflow hands out
version numbers one at a time whatever its store, so two writers never share one, and an entry appears whole.

The ledger is the truth and the alias a copy. An entry counts only if its `from` is where the entries before it ended,
so of two promotions that started from the same champion one counts and the other is void and told so. A crash between
entry and alias is mended by whoever comes next: the alias is set to where the ledger ends. See
docs/decisions/0005-the-ledger-is-the-truth.md for the protocol and its limits.
"""

import getpass
import json
import logging
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from longreel.components.registry import registry, tracking
from longreel.components.registry.registry import CHAMPION, Version
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.home import Home

Action = Literal["promote", "rollback", "decline"]
ENTRY_TAG = "entry"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger. A void entry lost a race and changed nothing; nor does `decline`, a person's no to
    `to_version`, which leaves `from_version` the champion."""

    sequence: int
    at: str  # UTC, ISO 8601
    who: str
    action: Action
    from_version: int | None
    to_version: int
    model_digest: str
    decision: str | None  # digest of the decision that allowed it
    reason: str
    void: bool = False

    @property
    def moves(self) -> bool:
        """Whether it made `to_version` the champion."""
        return not self.void and self.action != "decline"


class Ledger:
    """The champion's history of one pipeline, and the only way to change it."""

    def __init__(self, home: Home, client: MlflowClient | None = None) -> None:
        self.client = client or tracking.open_store(home)
        self.model = registry.model_name(home.config)
        self._name = f"{self.model}-ledger"

    def entries(self) -> list[Entry]:
        """Every entry, oldest first, void ones marked."""
        entries: list[Entry] = []
        end: int | None = None
        for item in registry.all_of(self.client, self._name):
            if ENTRY_TAG not in item.tags:
                continue
            values: dict[str, Any] = json.loads(item.tags[ENTRY_TAG])
            void = values["action"] != "decline" and values["from_version"] != end
            entries.append(Entry(sequence=int(item.version), void=void, **values))
            end = entries[-1].to_version if entries[-1].moves else end
        return entries

    def champion(self) -> Version | None:
        """The champion by the ledger; None before the first promotion. Mends an alias that does not agree."""
        end = self._end()
        self._align()
        return None if end is None else registry.get_version(self.client, self.model, end)

    def before(self, version: Version) -> int | None:
        """The champion that a version was last promoted over; None where it was the first."""
        made = (e for e in reversed(self.entries()) if e.moves and e.action == "promote")
        return next(e.from_version for e in made if e.to_version == version.version)

    def promote(self, decision: Decision, version: Version, reason: str = "") -> Entry:
        """Make a version the champion. Doing it twice with the same decision is done once.

        Args:
            reason: what the person who approves it adds to the decision's own reason.

        Raises:
            LongreelError: the decision is not to promote, or is about another model or another champion, or was heeded
                and undone since; the version's files are not what was registered; somebody else changed the champion
                meanwhile.
        """
        current = self.champion()
        if decision.outcome != "promote":
            raise LongreelError(f"the decision is to {decision.outcome}, not to promote: {' '.join(decision.reasons)}")
        _require_same_model(decision, version)
        self._require_evaluation_day(decision, version)
        moves = [e for e in self.entries() if e.moves]
        done = next((e for e in moves if (e.to_version, e.decision) == (version.version, decision.digest())), None)
        if done is not None:
            later = moves[moves.index(done) + 1 :]
            if not later or (current is not None and current.version == version.version):
                return done
            since = later[0]
            raise LongreelError(
                f"version {version.version} was promoted by this very decision (ledger entry {done.sequence}), and "
                f"{since.action} by {since.who} came after it: {since.reason}; to want it back is a person's to say: "
                f"longreel model rollback --to-version {version.version}"
            )
        digest = None if current is None else current.model_digest
        if decision.champion_digest != digest:
            raise LongreelError(
                f"the decision compared with the champion {decision.champion_digest}, which is now {digest}; "
                "evaluate and decide again"
            )
        registry.fetch(self.client, self.model, version)
        why = " ".join(filter(None, [reason, registry.headline(decision)]))
        return self._move("promote", current, version, decision.digest(), why)

    def decline(self, decision: Decision, version: Version, reason: str = "") -> Entry:
        """Write down that a person does not want what the gates would promote; the champion stays. Doing it twice with
        the same decision is done once.

        Raises:
            LongreelError: the decision is about another model.
        """
        _require_same_model(decision, version)
        wanted = ("decline", version.version, decision.digest())
        for entry in self.entries():
            if (entry.action, entry.to_version, entry.decision) == wanted:
                return entry
        why = reason or "a person said no and not why"
        entry = self._move("decline", self.champion(), version, decision.digest(), why)
        number = str(version.version)  # whose page says `promote`, and would not say why it never was
        self.client.set_model_version_tag(self.model, number, "declined", f"by {entry.who}: {entry.reason}")
        return entry

    def rollback(self, to_version: int | None = None, reason: str = "") -> Entry:
        """Give the alias back to the champion before the present one, or to a named earlier champion.

        Raises:
            LongreelError: there is none, the named version never was champion, or its files are damaged.
        """
        current, entries = self.champion(), [e for e in self.entries() if e.moves]
        if current is None:
            raise LongreelError(f"{self.model} has no champion, so there is nothing to roll back")
        once = sorted({e.to_version for e in entries} - {current.version})
        if to_version is None:
            to_version = self.before(current)
            if to_version is None:
                raise LongreelError(f"version {current.version} is the first champion; there is none before it")
        elif to_version not in once:
            raise LongreelError(
                f"version {to_version} cannot be rolled back to; champions before were {once or 'none'} "
                "(a version that never was champion needs a decision and `longreel model promote`)"
            )
        target = registry.get_version(self.client, self.model, to_version)
        registry.fetch(self.client, self.model, target)
        return self._move("rollback", current, target, None, reason or "rolled back by hand")

    def _require_evaluation_day(self, decision: Decision, version: Version) -> None:
        """A candidate evaluated on many days is promoted by chance in the end; the policy limits the days."""
        days = (date.fromisoformat(decision.date) - version.evaluated_day).days + 1
        if days > decision.evaluation_days:
            raise LongreelError(
                f"version {version.version} was trained to be evaluated on {version.evaluated_day}, the policy allows "
                f"{decision.evaluation_days} evaluation day(s), and this decision is of {decision.date}; train a new "
                "candidate, or raise `evaluation_days` in gates.toml, which requires stronger evidence on each day"
            )

    def _end(self) -> int | None:
        return next((e.to_version for e in reversed(self.entries()) if e.moves), None)

    def _move(self, action: Action, current: Version | None, to: Version, decision: str | None, reason: str) -> Entry:
        sequence, entries = self._append(action, current, to, decision, reason), self.entries()
        entry = next(e for e in entries if e.sequence == sequence)
        if entry.void:  # done all the same, if what came in between was this very change: of another process at work on
            # the same candidate, or of ours, where an answer was lost and MLflow's client asked again
            before = next((e for e in reversed(entries) if e.moves and e.sequence < sequence), None)
            if before is None or _change(before) != _change(entry):
                raise LongreelError("somebody else changed the champion at the same moment; evaluate and decide again")
            entry = before
        self._align()
        return entry

    def _append(self, action: Action, current: Version | None, to: Version, decision: str | None, reason: str) -> int:
        """Write an entry; returns its sequence number. From here on it stands, whatever happens to this process."""
        entry = Entry(
            sequence=0,
            at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            who=os.environ.get("LONGREEL_ACTOR") or f"{getpass.getuser()}@{socket.gethostname()}",
            action=action,
            from_version=None if current is None else current.version,
            to_version=to.version,
            model_digest=to.model_digest,
            decision=decision,
            reason=reason[: registry.MAX_TAG // 2],
        )
        values = {k: v for k, v in asdict(entry).items() if k not in ("sequence", "void")}
        try:
            self.client.create_registered_model(
                self._name,
                description=f"Who made which version of [{self.model}](#/models/{self.model}) the champion, when and "
                "why: one version is one change, none is ever altered. `longreel model promotions` prints it.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        change = f"{action} {'none' if current is None else current.version} -> {to.version}"
        made = self.client.create_model_version(
            self._name,
            source=f"models:/{self.model}/{to.version}",
            tags={"change": change, ENTRY_TAG: json.dumps(values)},
            description=f"{change} by {entry.who}: {entry.reason}",
        )
        return int(made.version)

    def _align(self) -> None:
        """Set the alias to where the ledger ends. Reading the ledger again after writing makes the last writer of
        several leave the right alias behind."""
        for _ in range(10):
            end, alias = self._end(), self._alias()
            if alias == end:
                return
            log.info("alias %s of %s: %s -> %s, as the ledger says", CHAMPION, self.model, alias, end)
            if end is None:
                self.client.delete_registered_model_alias(self.model, CHAMPION)
            else:
                self.client.set_registered_model_alias(self.model, CHAMPION, str(end))
        raise TransientError(f"the alias {CHAMPION} of {self.model} keeps changing; is another program moving it?")

    def _alias(self) -> int | None:
        try:
            return int(self.client.get_model_version_by_alias(self.model, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def _require_same_model(decision: Decision, version: Version) -> None:
    if decision.candidate_digest != version.model_digest:
        raise LongreelError(
            f"the decision is about the model {decision.candidate_digest}, but version {version.version} is "
            f"{version.model_digest}; name the version that was judged"
        )


def _change(entry: Entry) -> tuple[Action, int | None, int, str | None]:
    """What an entry did, whoever wrote it when."""
    return entry.action, entry.from_version, entry.to_version, entry.decision
