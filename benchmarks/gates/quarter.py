"""Decisions of the gates, and of simpler rules, over a quarter whose truth is known.

Ninety log days with one candidate each, and planted events. Every rule promotes on its own and lives with its own
champion. The product's code makes the reports from per-target scores (benchmarks/gates/world.py), and the shipped
policy decides.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta

from benchmarks.gates.world import Day, Model, Truth, evaluate, truth
from longreel.components.gates.decide import decide
from longreel.contracts.decision import Decision, GateResult
from longreel.contracts.policy import Budget, GatePolicy
from longreel.contracts.report import EvaluationReport

FIRST = date(2026, 1, 1)
DAYS = 90
POLICY = replace(GatePolicy(), budgets=(Budget(device="simulated", latency_ms=8.0, memory_mib=1_000),))
WORTH = 0.001  # AUC, or log loss: a smaller true gain is no reason to change the champion
MOST_USERS = 12_000  # of a day on which a held candidate is evaluated again
HARM = 0.01  # AUC that no slice may truly lose: the policy's own tolerance


@dataclass(frozen=True)
class Planned:
    """A day, its candidate, and what was planted."""

    day: Day
    candidate: Model
    event: str
    fault: str = ""  # why the candidate must not go live today, whatever its AUC; "" for a healthy one


def plan(users: int) -> list[Planned]:
    """The quarter. An improvement stays with every later candidate; each day trains a new model."""
    error, plans = 0.9, []
    for n in range(DAYS):
        name = str(FIRST + timedelta(days=n))
        error -= 0.1 * (n in (9, 28, 53))
        drift = 0.08 * min(max(0, n - 57), 14)  # the world moves from day 58 to 72
        rate = 0.8 if 38 <= n <= 40 or n >= 78 else 0.0
        trained_rate = 0.8 if n >= 80 else 0.0
        day = Day(name, 1_000 + n, users, drift, rate)
        own = Model(f"m{n}", error, 0.08 * min(max(0, n - 58), 14), trained_rate)
        event, fault = "retrained, no better", ""
        if n == 0:
            event = "first candidate"
        if 9 <= n <= 11 or 28 <= n <= 30 or 53 <= n <= 55:
            event = "real improvement"
        if n in (17, 18, 19):
            event, fault = "slice regression", "short histories"
            own = replace(own, error=error - 0.5, short_error=1.1)
        if n in (24, 25):
            own, event, fault = replace(own, broken=0.35), "broken feature in training", "broken"
        if n == 33:
            day = replace(day, broken=0.5, warnings=("tag of targets: 100 % unknown (median 0)",))
            event, fault = "broken feature in the day", "the day is not to be trusted"
        if n == 35:
            own, event, fault = replace(own, error=error - 0.1, nans=0.001), "logits that are no numbers", "NaN"
        if 38 <= n <= 40:
            event, fault = "labels shifted for three days", "calibrated for other days"
        if n in (44, 45):
            own, event, fault = replace(own, error=error - 0.1, long_error=0.9), "long windows hurt", "long windows"
        if n == 50:
            own, event, fault = replace(own, error=error - 0.1, latency_ms=12.0), "too slow", "latency"
        if 58 <= n <= 72:
            event = "the world moves: champion goes stale"
        if n in (78, 79):
            event, fault = "labels shifted for good, not learned yet", "calibrated for other days"
        if 80 <= n <= 82:
            event = "labels shifted for good, learned"
        plans.append(Planned(day, own, event, fault))
    return plans


Rule = Callable[[EvaluationReport, EvaluationReport | None, "EvaluationReport | None"], str]


def gates(ours: EvaluationReport, theirs: EvaluationReport | None, _: EvaluationReport | None) -> str:
    """The product's gates."""
    return decide(ours, theirs, POLICY).outcome


def at_least(ours: EvaluationReport, theirs: EvaluationReport | None, _: EvaluationReport | None) -> str:
    """Promote on >=, both evaluated on the same day."""
    return "promote" if theirs is None or auc(ours) >= auc(theirs) else "reject"


def at_least_recorded(ours: EvaluationReport, _: EvaluationReport | None, then: EvaluationReport | None) -> str:
    """Promote on >= the champion's AUC on the day of its promotion."""
    return "promote" if then is None or auc(ours) >= auc(then) else "reject"


def margin(ours: EvaluationReport, theirs: EvaluationReport | None, _: EvaluationReport | None) -> str:
    """Promote on a gain of .002, both evaluated on the same day."""
    return "promote" if theirs is None or auc(ours) >= auc(theirs) + 0.002 else "reject"


def threshold(ours: EvaluationReport, _: EvaluationReport | None, __: EvaluationReport | None) -> str:
    """Promote above a fixed AUC, somewhat below the first champion's."""
    return "promote" if auc(ours) >= 0.69 else "reject"


RULES: dict[str, Rule] = {
    "gates": gates,
    "AUC >= champion's": at_least,
    "AUC >= champion's, recorded": at_least_recorded,
    "AUC >= champion's + .002": margin,
    "AUC >= .69": threshold,
}


def auc(report: EvaluationReport) -> float:
    """The number that the simple rules compare."""
    value = report.row("click", report.windows[-1]).auc.value
    return float("nan") if value is None else value


def worth(model: Model, day: Day) -> Truth:
    """A model's truth on a day."""
    return truth(replace(model, name="", nans=0.0, latency_ms=4.0), day.drift, day.rate)


def should(planned: Planned, champion: Model | None) -> str:
    """Outcome of a rule that knew the truth: promote what is better by enough, harms no slice and has no fault."""
    if planned.fault:
        return "keep"
    if champion is None:
        return "promote"
    ours, theirs = worth(planned.candidate, planned.day), worth(champion, planned.day)
    gains = (ours.auc - theirs.auc, theirs.log_loss - ours.log_loss)
    return "promote" if max(gains) > WORTH and ours.short_auc > theirs.short_auc - HARM else "keep"


@dataclass(frozen=True)
class Step:
    """One rule on one day."""

    planned: Planned
    outcome: str
    should: str
    live: Model  # after it
    decision: Decision | None


def walk(name: str, plans: list[Planned], report: Callable[[Model, Day], EvaluationReport]) -> list[Step]:
    """A rule's quarter."""
    champion: Model | None = None
    recorded: EvaluationReport | None = None
    steps = []
    for planned in plans:
        ours = report(planned.candidate, planned.day)
        theirs = None if champion is None else report(champion, planned.day)
        outcome, expected = RULES[name](ours, theirs, recorded), should(planned, champion)
        decision = decide(ours, theirs, POLICY) if name == "gates" else None
        if outcome == "promote":
            champion, recorded = planned.candidate, ours
        assert champion is not None
        steps.append(Step(planned, outcome, expected, champion, decision))
    return steps


@dataclass(frozen=True)
class NoiseCount:
    """Promotions of candidates that are no better, in `of` tries."""

    users: int
    kin: float
    of: int
    gates: int
    better: int  # passed the gate `champion/superiority`, whatever the other gates decided
    at_least: int
    margin: int


def noise(users: int, kin: float, tries: int) -> NoiseCount:
    """Candidates of the champion's own quality, each evaluated on its own day. `kin`: a warm start's shared errors."""
    promoted = better = naive = margins = 0
    for n in range(tries):
        day = Day(str(FIRST + timedelta(days=n)), 50_000 + n + users, users)
        ours, theirs = (evaluate(Model(f"{who}{n}", 0.9, kin=kin), day) for who in ("candidate", "champion"))
        decision = decide(ours, theirs, POLICY)
        promoted += decision.outcome == "promote"
        better += next(g for g in decision.gates if g.name == "champion/superiority").verdict == "pass"
        naive += at_least(ours, theirs, None) == "promote"
        margins += margin(ours, theirs, None) == "promote"
    return NoiseCount(users, kin, tries, promoted, better, naive, margins)


@dataclass(frozen=True)
class HoldCount:
    """Better candidates that were held for lack of data, and the outcome of those that got the required sample size."""

    users: int
    gain: float  # the truth's, in AUC
    of: int
    held: int  # by `champion/superiority`, with a required sample size
    median: float  # required sample size: times the day's users
    tried: int  # needed no more than MOST_USERS
    resolved: int  # and were significantly better on a day with that many


def resolve_holds(users: int, error: float, tries: int) -> HoldCount:
    """Evaluate candidates with a smaller `error` than the champion's; a held one again, on a day with the users that it
    needs."""
    ours, theirs = Model("candidate", error), Model("champion", 0.9)
    factors: list[float] = []
    tried = resolved = 0

    def better(n: int, seed: int, number: int) -> GateResult:
        day = Day(str(FIRST + timedelta(days=n)), seed, number)
        pair = [evaluate(replace(model, name=f"{model.name}{seed}"), day) for model in (ours, theirs)]
        return next(g for g in decide(pair[0], pair[1], POLICY).gates if g.name == "champion/superiority")

    for n in range(tries):
        gate = better(n, 90_000 + n, users)
        if gate.verdict != "hold" or gate.required_sample_factor is None:
            continue
        factors.append(gate.required_sample_factor)
        needed = round(gate.required_sample_factor * users)
        if needed <= MOST_USERS:
            tried += 1
            resolved += better(n, 95_000 + n, needed).verdict == "pass"
    truths = [worth(model, Day("", 0, users)).auc for model in (ours, theirs)]
    median = sorted(factors)[len(factors) // 2] if factors else 0.0
    return HoldCount(users, truths[0] - truths[1], tries, len(factors), median, tried, resolved)
