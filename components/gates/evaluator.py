"""Evaluator of gates: the numbers that a gate tests, and the conclusion that they allow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from longreel.components.gates.difference import Difference
from longreel.components.gates.gate import Gate
from longreel.contracts.decision import Verdict
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import GatePolicy
from longreel.contracts.report import UNDEFINED, Estimate, EvaluationReport, MetricRow

Conclusion = Literal[
    "too few users",
    "not evaluated",
    "better",
    "perhaps better",
    "not better",
    "loss",
    "perhaps loss",
    "loss ruled out",
    "loss not ruled out",
    "no significant loss",
    "within limits",
    "perhaps within limits",
    "limit missed",
    "perhaps outside limits",
    "outside limits",
]
VERDICT: dict[Conclusion, Verdict] = {
    "too few users": "hold",
    "not evaluated": "not_evaluated",
    "better": "pass",
    "perhaps better": "hold",
    "not better": "hold",
    "loss": "fail",
    "perhaps loss": "hold",
    "loss ruled out": "pass",
    "loss not ruled out": "hold",
    "no significant loss": "pass",
    "within limits": "pass",
    "perhaps within limits": "hold",
    "limit missed": "fail",
    "perhaps outside limits": "hold",
    "outside limits": "fail",
}
Finding = tuple[Conclusion, float | None]  # with the required sample factor where more users could resolve it


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a gate tests: the differences of metrics to a baseline, or the metrics themselves.

    Undefined ones are missing. `row` is the report's row; None for the cost of scoring.
    """

    row: MetricRow | None
    differences: Mapping[str, Difference]
    estimates: Mapping[str, Estimate]


def measure(gate: Gate, candidate: EvaluationReport, champion: EvaluationReport | None) -> Evidence:
    """The numbers of a gate, at the longest window."""
    if not gate.task:
        return Evidence(row=None, differences={}, estimates=_scoring_cost(candidate))
    window = candidate.windows[-1]
    row = candidate.row(gate.task, window, gate.part)
    if gate.test == "absolute":
        estimates = {metric: getattr(row, metric) for metric in gate.metrics}
        defined = {m: e for m, e in estimates.items() if None not in (e.value, e.low, e.high)}
        return Evidence(row=row, differences={}, estimates=defined)
    if gate.baseline == "reference window":
        gains = {(gain.task, gain.slice_name): gain.gain for gain in candidate.window_gains}
        change = Difference.within(gains.get((gate.task, gate.part), UNDEFINED), candidate.interval, row.users)
        return Evidence(row=row, differences={} if change is None else {gate.metrics[0]: change}, estimates={})
    differences = {}
    if champion is not None:
        theirs = champion.row(gate.task, window, gate.part)
        for metric in gate.metrics:
            difference = _to_champion(row, theirs, metric)
            if difference is not None:
                differences[metric] = difference
    return Evidence(row=row, differences=differences, estimates={})


def _to_champion(ours: MetricRow, theirs: MetricRow, metric: str) -> Difference | None:
    try:
        return Difference.of(metric, getattr(ours, metric), getattr(theirs, metric), ours.users)
    except LongreelError:
        return None


def _scoring_cost(report: EvaluationReport) -> dict[str, Estimate]:
    cost = report.scoring
    if cost is None:
        return {}
    memory = cost.peak_memory_mib
    return {
        "latency_ms": Estimate(value=cost.latency_ms, low=cost.latency_low_ms, high=cost.latency_high_ms),
        "peak_memory_mib": Estimate(value=memory, low=memory, high=memory),
    }


def conclude(gate: Gate, evidence: Evidence, interval: float, policy: GatePolicy) -> Finding:
    """What the evidence allows to say. `interval`: the coverage of the report's intervals."""
    row, numbers = evidence.row, evidence.estimates or evidence.differences
    if row is not None and row.users < policy.min_users:
        return ("too few users", policy.min_users / max(1, row.users)) if gate.required else ("not evaluated", None)
    if gate.test == "superiority":
        return _superiority(gate, evidence.differences)
    if len(numbers) < len(gate.metrics):
        return "not evaluated", None
    if gate.test == "absolute":
        return _absolute(gate, evidence, interval)
    (difference,) = evidence.differences.values()
    return _non_inferiority(gate, difference) if gate.test == "non_inferiority" else _guardrail(gate, difference)


def _superiority(gate: Gate, differences: Mapping[str, Difference]) -> Finding:
    margin = gate.tolerance
    if any(difference.low(gate.level) > margin for difference in differences.values()):
        return "better", None
    ahead = [difference for difference in differences.values() if difference.value > margin]
    if not ahead:
        return "not better", None
    factors = [difference.required_sample_factor(margin, gate.level) for difference in ahead]
    return "perhaps better", min((factor for factor in factors if factor is not None), default=None)


def _non_inferiority(gate: Gate, difference: Difference) -> Finding:
    if difference.high(gate.level) < -gate.tolerance:
        return "loss", None
    if difference.low(gate.pass_level) > -gate.tolerance:
        return "loss ruled out", None
    level = gate.pass_level if difference.value > -gate.tolerance else gate.level  # of passing, or of failing
    return "loss not ruled out", difference.required_sample_factor(-gate.tolerance, level)


def _guardrail(gate: Gate, difference: Difference) -> Finding:
    if difference.high(gate.level) < -gate.tolerance:
        return "loss", None
    if difference.value < -gate.tolerance and difference.high(gate.level) < 0:
        return "perhaps loss", difference.required_sample_factor(-gate.tolerance, gate.level)
    return "no significant loss", None


def _absolute(gate: Gate, evidence: Evidence, interval: float) -> Finding:
    """Within limits: with certainty where the gate is required, otherwise by the value alone."""
    bounds = [(evidence.estimates[metric], *gate.limits[metric]) for metric in gate.metrics]
    numbers = [(e.low or 0.0, e.value or 0.0, e.high or 0.0, lower, upper) for e, lower, upper in bounds]
    if gate.required:
        if all(lower < low and high < upper for low, _, high, lower, upper in numbers):
            return "within limits", None
        if all(lower < value < upper for _, value, _, lower, upper in numbers):
            return "perhaps within limits", _factor_within(gate, evidence, interval)
        return "limit missed", None
    if all(lower <= value <= upper for _, value, _, lower, upper in numbers):
        return "within limits", None
    outside = any(high < lower or low > upper for low, _, high, lower, upper in numbers)
    return ("outside limits" if outside else "perhaps outside limits"), None


def _factor_within(gate: Gate, evidence: Evidence, interval: float) -> float | None:
    """The required sample factor of a gate with one metric and a lower limit."""
    (metric,) = gate.metrics
    users = 0 if evidence.row is None else evidence.row.users
    difference = Difference.within(evidence.estimates[metric], interval, users)
    return None if difference is None else difference.required_sample_factor(gate.limits[metric][0], gate.level)
