"""Promotion ledger: an append-only record of who made which version the champion, which the `champion` alias follows.

The ledger is itself a registered model, `longreel-<name>-ledger`: each of its versions is one entry. MLflow assigns
version numbers one at a time in any store, so two writers never share one, and an entry appears complete.

The ledger is the source of truth and the alias a copy. An entry counts only if its `from` is the champion after the
entries before it. So of two promotions that started from the same champion one counts, and the other is superseded and
raises an error. After a crash between entry and alias, the next call sets the alias to the ledger's champion.
docs/decisions/0005-the-ledger-is-the-truth.md has the protocol and its limits.
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

from longreel.components.registry import store, versions
from longreel.components.registry.decision_record import headline
from longreel.components.registry.versions import CHAMPION, Version
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.home import Home

Action = Literal["promote", "rollback", "decline"]
ENTRY_TAG = "entry"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the ledger.

    A superseded entry lost a race and changed nothing. `decline` records that a person rejected `to_version`, and
    leaves `from_version` the champion.
    """

    sequence: int
    at: str  # UTC, ISO 8601
    who: str
    action: Action
    from_version: int | None
    to_version: int
    model_digest: str
    decision: str | None  # digest of the decision that allowed it
    reason: str
    superseded: bool = False

    @property
    def moves(self) -> bool:
        """Whether it made `to_version` the champion."""
        return not self.superseded and self.action != "decline"


class Ledger:
    """Champions of one pipeline: reads their history and changes the champion."""

    def __init__(self, home: Home, client: MlflowClient | None = None) -> None:
        self.client = client or store.open_store(home)
        self.model = versions.model_name(home.config)
        self._name = f"{self.model}-ledger"

    def entries(self) -> list[Entry]:
        """Every entry, oldest first, superseded ones marked."""
        entries: list[Entry] = []
        champion: int | None = None
        for item in versions.search_versions(self.client, self._name):
            if ENTRY_TAG not in item.tags:
                continue
            values: dict[str, Any] = json.loads(item.tags[ENTRY_TAG])
            superseded = values["action"] != "decline" and values["from_version"] != champion
            entries.append(Entry(sequence=int(item.version), superseded=superseded, **values))
            champion = entries[-1].to_version if entries[-1].moves else champion
        return entries

    def champion(self) -> Version | None:
        """The champion by the ledger; None before the first promotion. Corrects an alias that differs."""
        end = self._end()
        self._align()
        return None if end is None else versions.get_version(self.client, self.model, end)

    def before(self, version: Version) -> int | None:
        """The champion that a version last replaced; None where it was the first."""
        promotions = (e for e in reversed(self.entries()) if e.moves and e.action == "promote")
        return next(e.from_version for e in promotions if e.to_version == version.version)

    def promote(self, decision: Decision, version: Version, reason: str = "") -> Entry:
        """Make a version the champion. A second call with the same decision changes nothing.

        Args:
            reason: of the person who approves it, in addition to the decision's.

        Raises:
            LongreelError: the decision is not to promote, or is about another model or another champion, or was applied
                and undone since; the version's files are not what was registered; another process changed the
                champion meanwhile.
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
                f"{since.action} by {since.who} came after it: {since.reason}; to promote it again, run "
                f"`longreel model rollback --to-version {version.version}`"
            )
        digest = None if current is None else current.model_digest
        if decision.champion_digest != digest:
            raise LongreelError(
                f"the decision compared with the champion {decision.champion_digest}, which is now {digest}; "
                "evaluate and decide again"
            )
        versions.download(self.client, self.model, version)
        why = " ".join(filter(None, [reason, headline(decision)]))
        return self._move("promote", current, version, decision.digest(), why)

    def decline(self, decision: Decision, version: Version, reason: str = "") -> Entry:
        """Record that a person rejects what the gates would promote; the champion stays. A second call with the same
        decision changes nothing.

        Raises:
            LongreelError: the decision is about another model.
        """
        _require_same_model(decision, version)
        key = ("decline", version.version, decision.digest())
        for entry in self.entries():
            if (entry.action, entry.to_version, entry.decision) == key:
                return entry
        why = reason or "declined without a reason"
        entry = self._move("decline", self.champion(), version, decision.digest(), why)
        number = str(version.version)  # its page shows the decision `promote`, and should show why it was not promoted
        self.client.set_model_version_tag(self.model, number, "declined", f"by {entry.who}: {entry.reason}")
        return entry

    def rollback(self, to_version: int | None = None, reason: str = "") -> Entry:
        """Make the champion before the present one, or a named earlier champion, the champion again.

        Raises:
            LongreelError: there is none, the named version never was the champion, or its files are damaged.
        """
        current, entries = self.champion(), [e for e in self.entries() if e.moves]
        if current is None:
            raise LongreelError(f"{self.model} has no champion, so there is nothing to roll back")
        earlier = sorted({e.to_version for e in entries} - {current.version})
        if to_version is None:
            to_version = self.before(current)
            if to_version is None:
                raise LongreelError(f"version {current.version} is the first champion; there is none before it")
        elif to_version not in earlier:
            raise LongreelError(
                f"version {to_version} cannot be rolled back to; champions before were {earlier or 'none'} "
                "(a version that never was champion needs a decision and `longreel model promote`)"
            )
        target = versions.get_version(self.client, self.model, to_version)
        versions.download(self.client, self.model, target)
        return self._move("rollback", current, target, None, reason or "rolled back manually")

    def _require_evaluation_day(self, decision: Decision, version: Version) -> None:
        """A candidate evaluated on many days is promoted by chance in the end; the policy limits the days."""
        days = (date.fromisoformat(decision.date) - version.evaluation_day).days + 1
        if days > decision.evaluation_days:
            raise LongreelError(
                f"version {version.version} was trained to be evaluated on {version.evaluation_day}, the policy allows "
                f"{decision.evaluation_days} evaluation day(s), and this decision is of {decision.date}; train a new "
                "candidate, or raise `evaluation_days` in gates.toml, which requires stronger evidence on each day"
            )

    def _end(self) -> int | None:
        return next((e.to_version for e in reversed(self.entries()) if e.moves), None)

    def _move(self, action: Action, current: Version | None, to: Version, decision: str | None, reason: str) -> Entry:
        sequence, entries = self._append(action, current, to, decision, reason), self.entries()
        entry = next(e for e in entries if e.sequence == sequence)
        if entry.superseded:
            # The change is done if the entry in between is the same change: by another process with the same candidate,
            # or by this one, where a response was lost and MLflow's client retried.
            before = next((e for e in reversed(entries) if e.moves and e.sequence < sequence), None)
            if before is None or _change(before) != _change(entry):
                raise LongreelError(
                    "another process changed the champion at the same moment; evaluate and decide again"
                )
            entry = before
        self._align()
        return entry

    def _append(self, action: Action, current: Version | None, to: Version, decision: str | None, reason: str) -> int:
        """Write an entry; returns its sequence number. The entry stands even if this process is killed now."""
        entry = Entry(
            sequence=0,
            at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            who=os.environ.get("LONGREEL_ACTOR") or f"{getpass.getuser()}@{socket.gethostname()}",
            action=action,
            from_version=None if current is None else current.version,
            to_version=to.version,
            model_digest=to.model_digest,
            decision=decision,
            reason=reason[: versions.MAX_TAG // 2],
        )
        values = {k: v for k, v in asdict(entry).items() if k not in ("sequence", "superseded")}
        try:
            self.client.create_registered_model(
                self._name,
                description=f"Record of who made which version of [{self.model}](#/models/{self.model}) the champion, "
                "when and why. One version is one change, and is never altered. `longreel model promotions` prints it.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        change = f"{action} {'none' if current is None else current.version} -> {to.version}"
        version = self.client.create_model_version(
            self._name,
            source=f"models:/{self.model}/{to.version}",
            tags={"change": change, ENTRY_TAG: json.dumps(values)},
            description=f"{change} by {entry.who}: {entry.reason}",
        )
        return int(version.version)

    def _align(self) -> None:
        """Set the alias to the ledger's champion. Of several writers the last one sets it right, as each reads the
        ledger again after writing."""
        for _ in range(10):
            end, alias = self._end(), self._alias()
            if alias == end:
                return
            log.info("alias %s of %s: %s -> %s, following the ledger", CHAMPION, self.model, alias, end)
            if end is None:
                self.client.delete_registered_model_alias(self.model, CHAMPION)
            else:
                self.client.set_registered_model_alias(self.model, CHAMPION, str(end))
        raise TransientError(f"the alias {CHAMPION} of {self.model} keeps changing; does another program set it?")

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
            f"{version.model_digest}; name the version that was evaluated"
        )


def _change(entry: Entry) -> tuple[Action, int | None, int, str | None]:
    """What an entry did, without who wrote it and when."""
    return entry.action, entry.from_version, entry.to_version, entry.decision
