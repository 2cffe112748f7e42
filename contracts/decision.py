"""Decision about a candidate: its outcome, the gates' results and the reports it was made from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from longreel.contracts import serialization
from longreel.contracts.digests import digest_of

Outcome = Literal["promote", "hold", "reject"]
Verdict = Literal["fail", "hold", "not_evaluated", "pass"]
VERDICTS: tuple[Verdict, ...] = ("fail", "hold", "not_evaluated", "pass")  # worst first
STOPPING = ("fail", "hold")


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate's verdict with its reason.

    `fail` rejects the candidate and `hold` asks for more evidence. `not_evaluated` does neither: there were too few
    users or labels for the gate to say anything.
    """

    name: str
    verdict: Verdict
    reason: str  # a full sentence with the numbers
    required_sample_factor: float | None = None  # of a hold: times this day's users that would resolve it; None: none

    @property
    def group(self) -> str:
        """The gate's kind: the part of its name before the first slash."""
        return self.name.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Result of `decide` for a candidate and, where there is one, a champion."""

    outcome: Outcome
    gates: tuple[GateResult, ...]
    date: str
    candidate_digest: str
    champion_digest: str | None
    data_digest: str
    policy_version: str
    policy_digest: str
    evaluation_days: int  # days on which the policy allows one candidate to be evaluated
    candidate_report: str  # digest of the report
    champion_report: str | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons for the outcome: of the gates that did not pass, failures first; of all gates where all passed."""
        stopped = sorted((g for g in self.gates if g.verdict in STOPPING), key=lambda g: VERDICTS.index(g.verdict))
        return tuple(gate.reason for gate in stopped or self.gates)

    @property
    def not_evaluated(self) -> str:
        """A sentence that names the gates that were not evaluated; "" where there are none."""
        names = ", ".join(gate.name for gate in self.gates if gate.verdict == "not_evaluated")
        return f"Not evaluated (too few users or labels): {names}." if names else ""

    @property
    def required_sample_factor(self) -> float | None:
        """How many times the day's users would resolve a hold: the largest factor of its gates. None: the candidate is
        not held, or more users would not resolve one of the gates."""
        factors = [gate.required_sample_factor for gate in self.gates if gate.verdict == "hold"]
        finite = [factor for factor in factors if factor is not None]
        return max(finite) if finite and len(finite) == len(factors) else None

    def to_json(self) -> str:
        """The decision as it is stored."""
        return serialization.to_json(self)

    @staticmethod
    def from_json(text: str) -> "Decision":
        """Read a stored decision.

        Raises:
            LongreelError: the text is not a decision.
        """
        return serialization.from_json(Decision, text, "a decision", "model decide")

    @staticmethod
    def read(path: Path) -> "Decision":
        """Read a decision's file.

        Raises:
            LongreelError: there is no such file, or it is not a decision.
        """
        return serialization.read(Decision.from_json, path, "decision", "model decide")

    def digest(self) -> str:
        """16 hex digits; the same reports and policy give the same digest.

        It covers reports and policy by their digests, and gates by name and verdict. It leaves the sentences out: those
        on cost and consistency contain numbers that differ between runs.
        """
        values = asdict(self)
        values["gates"] = [(gate.name, gate.verdict) for gate in self.gates]
        return digest_of(values)
