"""A decision about a candidate, as data: what was decided, by which gates, from which reports."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from contracts.errors import LongreelError
from contracts.lake import digest_of

Outcome = Literal["promote", "hold", "reject"]
Verdict = Literal["pass", "hold", "fail"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate's verdict. `fail` rejects, `hold` asks for more evidence."""

    name: str
    verdict: Verdict
    reason: str  # a full sentence with the numbers


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What `decide` returned for a candidate and, where there is one, a champion."""

    outcome: Outcome
    gates: tuple[Gate, ...]
    date: str
    candidate_digest: str
    champion_digest: str | None
    data_digest: str
    policy_digest: str
    candidate_report: str  # digest of the report
    champion_report: str | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences that carried the outcome: of the gates that did not pass, or of all where all passed."""
        short = tuple(gate.reason for gate in self.gates if gate.verdict != "pass")
        return short or tuple(gate.reason for gate in self.gates)

    def to_json(self) -> str:
        """The decision as it is stored."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "Decision":
        """Read a stored decision.

        Raises:
            LongreelError: the text is not a decision.
        """
        try:
            values = json.loads(text)
            gates = tuple(Gate(**gate) for gate in values.pop("gates"))
            return Decision(gates=gates, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LongreelError(f"not a decision ({error}); run `longreel decide` again") from error

    def digest(self) -> str:
        """16 hex digits; the same reports and policy give the same digest."""
        return digest_of(asdict(self))
