"""A decision about a candidate, as data: what was decided, by which gates, from which reports."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from longreel.contracts import serialization
from longreel.contracts.digests import digest_of

Outcome = Literal["promote", "hold", "reject"]
Verdict = Literal["fail", "hold", "unjudged", "pass"]
VERDICTS: tuple[Verdict, ...] = ("fail", "hold", "unjudged", "pass")  # worst first
STOPPING = ("fail", "hold")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate's verdict. `fail` rejects, `hold` asks for more evidence; `unjudged` stops nobody and proves nothing:
    there was too little to look at."""

    name: str
    verdict: Verdict
    reason: str  # a full sentence with the numbers
    more_data: float | None = None  # a hold: how many times this day's users would settle it; None: data would not

    @property
    def group(self) -> str:
        """The gate's kind: what stands before the first slash of its name."""
        return self.name.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What `decide` returned for a candidate and, where there is one, a champion."""

    outcome: Outcome
    gates: tuple[Gate, ...]
    date: str
    candidate_digest: str
    champion_digest: str | None
    data_digest: str
    policy_version: str
    policy_digest: str
    looks: int  # days on which the policy lets one candidate be judged
    candidate_report: str  # digest of the report
    champion_report: str | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences that carried the outcome: of the gates that did not pass, failures first, or of all."""
        short = sorted((g for g in self.gates if g.verdict in STOPPING), key=lambda g: VERDICTS.index(g.verdict))
        return tuple(gate.reason for gate in short or self.gates)

    @property
    def unjudged(self) -> str:
        """What nobody has looked at, in words; "" where that is nothing."""
        names = ", ".join(gate.name for gate in self.gates if gate.verdict == "unjudged")
        return f"Not judged, for want of users or labels: {names}." if names else ""

    @property
    def more_data(self) -> float | None:
        """How many times the day's users would settle a hold: what its slowest gate asks for. None: no amount, or no
        gate is waiting for data."""
        waiting = [gate.more_data for gate in self.gates if gate.verdict == "hold"]
        known = [factor for factor in waiting if factor is not None]
        return max(known) if known and len(known) == len(waiting) else None

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

        Reports and policy are in it by their own digests. Sentences are not: those of the cost and parity gates hold
        numbers that differ from run to run.
        """
        values = asdict(self)
        values["gates"] = [(gate.name, gate.verdict) for gate in self.gates]
        return digest_of(values)
