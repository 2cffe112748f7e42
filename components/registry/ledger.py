"""Promotion ledger: an append-only record of who made which version the champion, which the `champion` alias follows.

The ledger is itself a registered model, `longreel-<name>-ledger`: each of its versions is one entry. MLflow assigns
version numbers one at a time in any store, so two writers never share one, and an entry appears complete.

The ledger is the source of truth and the alias a copy. An entry counts only if its `from` is the champion after the
entries before it. So of two promotions that started from the same champion one counts, and the other is superseded and
raises an error. After a crash between entry and alias, the next command that writes sets the alias. An alias that a
person moved in MLflow stays where it is: a person decides (`LedgerState.conflict`). Reading changes nothing.
docs/decisions/0005-the-ledger-is-the-truth.md has the protocol and its limits.
"""

import getpass
import logging
import os
import socket
import time
from datetime import date

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from longreel.components.registry import store, versions
from longreel.components.registry.decision_record import headline
from longreel.components.registry.entries import ALIGNED_TAG, ENTRY_TAG, Action, Entry, read_entries
from longreel.components.registry.ledger_state import LedgerState
from longreel.components.registry.versions import CHAMPION, Version
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError, TransientError
from longreel.lake.home import Home

CONFLICT_TAG = "champion_conflict"  # of the registered model, where alias and ledger disagree
NO_MODEL = "none:///none"  # source of an entry after which there is no champion; a server asks for an absolute path
log = logging.getLogger(__name__)


class Ledger:
    """Champions of one pipeline: reads their history and changes the champion."""

    def __init__(self, home: Home, client: MlflowClient | None = None) -> None:
        self.client = client or store.open_store(home)
        self.model = versions.model_name(home.config)
        self._name = f"{self.model}-ledger"

    def read(self) -> LedgerState:
        """Ledger, registry and alias at one moment: read again while the alias moves. Changes nothing.

        Raises:
            TransientError: the alias keeps moving.
        """
        alias = self._alias()
        for _ in range(10):
            entries, faults = read_entries(versions.search_versions(self.client, self._name))
            registered, others = versions.read_versions(self.client, self.model)
            before, alias = alias, self._alias()
            if alias == before:
                return LedgerState(
                    model=self.model, entries=entries, registered=registered, faults=[*faults, *others], alias=alias
                )
        raise TransientError(f"the alias {CHAMPION} of {self.model} keeps changing; does another program set it?")

    def entries(self) -> list[Entry]:
        """Every entry, oldest first, superseded ones marked."""
        return list(self.read().entries)

    def champion(self) -> Version | None:
        """The champion by the ledger, wherever the alias is; None before the first promotion.

        Raises:
            LongreelError: its version was deleted, or its tags cannot be read.
        """
        return self.read().require_champion()

    def settle(self) -> LedgerState:
        """The state, after setting an alias that a killed process did not set. The registered model's page says
        whether a person must choose the champion."""
        state = self.read()
        if state.is_unfinished or not state.is_recorded:
            self._set_alias()
            state = self.read()
        versions.warn_of(*state.faults)
        self._note(state.conflict)
        return state

    def promote(self, decision: Decision, version: Version, reason: str = "") -> Entry:
        """Make a version the champion. A second call with the same decision changes nothing.

        Args:
            reason: of the person who approves it, in addition to the decision's.

        Raises:
            LongreelError: the decision is not to promote, or is about another model or another champion, or was applied
                and undone since; the version's files are not what was registered; another process changed the
                champion meanwhile; or the alias was moved to another version, or the champion deleted, in MLflow.
        """
        state = self.settle()
        if decision.outcome != "promote":
            raise LongreelError(f"the decision is to {decision.outcome}, not to promote: {' '.join(decision.reasons)}")
        _require_same_model(decision, version)
        self._require_evaluation_day(decision, version)
        moves = [e for e in state.entries if e.moves]
        done = next((e for e in moves if (e.to_version, e.decision) == (version.version, decision.digest())), None)
        if state.conflict and state.alias != version.version:
            raise LongreelError(state.conflict)
        if done is not None:
            later = moves[moves.index(done) + 1 :]
            if state.number == version.version:
                return done
            since = later[0]
            raise LongreelError(
                f"version {version.version} was promoted by this very decision (ledger entry {done.sequence}), and "
                f"{since.action} by {since.who} came after it: {since.reason}; to promote it again, run "
                f"`longreel model rollback --to-version {version.version}`"
            )
        digest = None if state.last_move is None else state.last_move.model_digest
        if decision.champion_digest != digest:
            raise LongreelError(
                f"the decision compared with the champion {decision.champion_digest}, which is now {digest}; "
                "evaluate and decide again"
            )
        versions.download(self.client, self.model, version)
        why = " ".join(filter(None, [reason, headline(decision)]))
        return self._move("promote", state, version, decision.digest(), why)

    def decline(self, decision: Decision, version: Version, reason: str = "") -> Entry:
        """Record that a person rejects what the gates would promote; the champion stays. A second call with the same
        decision changes nothing.

        Raises:
            LongreelError: the decision is about another model.
        """
        _require_same_model(decision, version)
        key = ("decline", version.version, decision.digest())
        state = self.settle()
        for entry in state.entries:
            if (entry.action, entry.to_version, entry.decision) == key:
                return entry
        why = reason or "declined without a reason"
        entry = self._move("decline", state, version, decision.digest(), why)
        number = str(version.version)  # its page shows the decision `promote`, and should show why it was not promoted
        self.client.set_model_version_tag(self.model, number, "declined", f"by {entry.who}: {entry.reason}")
        return entry

    def rollback(self, to_version: int | None = None, reason: str = "") -> Entry:
        """Make the last champion before the present one whose version still exists, or a named earlier champion, the
        champion again. The present champion may be named where the alias was moved away from it.

        Raises:
            LongreelError: there is none, the named version never was the champion, or its files are damaged; or none is
                named and the alias was moved in MLflow.
        """
        state = self.settle()
        if state.last_move is None or state.number is None:
            raise LongreelError(f"{self.model} has no champion, so there is nothing to roll back")
        if to_version is None:
            if state.conflict and state.champion is not None:
                raise LongreelError(state.conflict)
            to_version = state.previous
            if to_version is None:
                none = "is the first champion; there is none before it"
                if state.before(state.number) is not None:
                    none = "is left alone: the versions of the champions before it were deleted"
                raise LongreelError(state.conflict or f"version {state.number} {none}")
        earlier = [number for number in state.champions if number != state.number or state.conflict]
        if to_version not in earlier:
            raise LongreelError(
                f"version {to_version} cannot be rolled back to; champions before were {earlier or 'none'} "
                "(a version that never was champion needs a decision and `longreel model promote`)"
            )
        target = versions.get_version(self.client, self.model, to_version)
        versions.download(self.client, self.model, target)
        return self._move("rollback", state, target, None, reason or "rolled back manually")

    def adopt(self, reason: str = "") -> Entry:
        """Record that a person moved or removed the alias in MLflow: its version is the champion from now on.

        Raises:
            LongreelError: the alias is on the champion already; or its version's files are damaged.
        """
        state = self.settle()
        if state.alias == state.number:
            raise LongreelError(f"there is nothing to adopt: the alias {CHAMPION} is where the ledger ends")
        target = None
        if state.alias is not None:
            target = versions.get_version(self.client, self.model, state.alias)
            versions.download(self.client, self.model, target)
        return self._move("adopt", state, target, None, reason or "the alias was moved in MLflow")

    def _require_evaluation_day(self, decision: Decision, version: Version) -> None:
        """A candidate evaluated on many days is promoted by chance in the end; the policy limits the days."""
        days = (date.fromisoformat(decision.date) - version.evaluation_day).days + 1
        if days > decision.evaluation_days:
            raise LongreelError(
                f"version {version.version} was trained to be evaluated on {version.evaluation_day}, the policy allows "
                f"{decision.evaluation_days} evaluation day(s), and this decision is of {decision.date}; train a new "
                "candidate, or raise `evaluation_days` in gates.toml, which requires stronger evidence on each day"
            )

    def _move(self, action: Action, state: LedgerState, to: Version | None, decision: str | None, reason: str) -> Entry:
        """Append an entry and, if it moves the champion, set the alias."""
        sequence, entries = self._append(action, state, to, decision, reason), self.entries()
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
        if action != "decline":
            self._set_alias()
            self._note(self.read().conflict)
        return entry

    def _append(self, action: Action, state: LedgerState, to: Version | None, decision: str | None, reason: str) -> int:
        """Write an entry; returns its sequence number. The entry stands even if this process is killed now."""
        entry = Entry(
            sequence=0,
            at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            who=os.environ.get("LONGREEL_ACTOR") or f"{getpass.getuser()}@{socket.gethostname()}",
            action=action,
            from_version=state.number,
            to_version=None if to is None else to.version,
            model_digest=None if to is None else to.model_digest,
            decision=decision,
            reason=reason[: versions.MAX_TAG // 2],
        )
        try:
            self.client.create_registered_model(
                self._name,
                description=f"Record of who made which version of [{self.model}](#/models/{self.model}) the champion, "
                "when and why. One version is one change, and is never altered. `longreel model promotions` prints it.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        change = f"{action} {entry.from_version or 'none'} -> {entry.to_version or 'none'}"
        version = self.client.create_model_version(
            self._name,
            source=f"models:/{self.model}/{entry.to_version}" if entry.to_version else NO_MODEL,
            tags={"change": change, ENTRY_TAG: entry.to_json()},
            description=f"{change} by {entry.who}: {entry.reason}",
        )
        return int(version.version)

    def _set_alias(self) -> None:
        """Set the alias to the ledger's champion. Of several writers the last one sets it right, as each reads the
        ledger again after writing. The entry then says that the alias has followed it."""
        for _ in range(10):
            state = self.read()
            if state.alias == state.number:
                if state.last_move is not None and not state.last_move.alias_followed:
                    self.client.set_model_version_tag(self._name, str(state.last_move.sequence), ALIGNED_TAG, "yes")
                return
            log.info("alias %s of %s: %s -> %s", CHAMPION, self.model, state.alias, state.number)
            if state.number is None:
                self.client.delete_registered_model_alias(self.model, CHAMPION)
            else:
                self.client.set_registered_model_alias(self.model, CHAMPION, str(state.number))
        raise TransientError(f"the alias {CHAMPION} of {self.model} keeps changing; does another program set it?")

    def _note(self, conflict: str) -> None:
        """Show a conflict on the registered model's page, or remove it from there."""
        try:
            noted = self.client.get_registered_model(self.model).tags.get(CONFLICT_TAG, "")
        except MlflowException as error:
            if versions.is_absent(error):  # nothing was registered yet, or all was deleted
                return
            raise
        if conflict and noted != conflict:
            self.client.set_registered_model_tag(self.model, CONFLICT_TAG, conflict[: versions.MAX_TAG])
        elif noted and not conflict:
            self.client.delete_registered_model_tag(self.model, CONFLICT_TAG)

    def _alias(self) -> int | None:
        try:
            return int(self.client.get_model_version_by_alias(self.model, CHAMPION).version)
        except MlflowException as error:
            if versions.is_absent(error) or error.error_code == "INVALID_PARAMETER_VALUE":
                return None
            raise


def _require_same_model(decision: Decision, version: Version) -> None:
    if decision.candidate_digest != version.model_digest:
        raise LongreelError(
            f"the decision is about the model {decision.candidate_digest}, but version {version.version} is "
            f"{version.model_digest}; name the version that was evaluated"
        )


def _change(entry: Entry) -> tuple[Action, int | None, int | None, str | None]:
    """What an entry did, without who wrote it and when."""
    return entry.action, entry.from_version, entry.to_version, entry.decision
