"""Renderer of gate reasons: one full sentence with the numbers for each conclusion."""

from collections.abc import Mapping
from math import inf

from longreel.components.gates.difference import POWER, Difference
from longreel.components.gates.evaluator import Evidence, Finding
from longreel.components.gates.gate import Gate
from longreel.contracts.policy import GatePolicy
from longreel.contracts.report import ALL_TARGETS, TITLES, Estimate, EvaluationReport

ABSOLUTE_NAMES = {  # metric: its name and the format of its numbers
    "auc": ("AUC", "{:.4f}"),
    "r2": ("R2", "{:.4f}"),
    "calibration": ("the predicted over observed rate", "{:.3f}"),
    "ece": ("the expected calibration error", "{:.4f}"),
    "latency_ms": ("latency", "{:,.1f} ms"),
    "peak_memory_mib": ("memory", "{:,.0f} MiB"),
}
NUMBER_NAMES = ABSOLUTE_NAMES | {"calibration": ("the predicted over observed mean", "{:.3f}")}
CONCLUSIONS = {
    "too few users": ": fewer users than the {min_users:,} that the policy requires.",
    "better": ": significantly better{margin} by {better}.",
    "perhaps better": ": not significantly better{margin}. {required_sample}",
    "not better": ": not better{margin}, and more users would not change that.",
    "loss": ": significantly more than the tolerated loss of {tolerance}.",
    "perhaps loss": ": a significant loss, perhaps more than the tolerated {tolerance}. {required_sample}",
    "loss ruled out": ": a loss above {tolerance} is ruled out.",
    "loss not ruled out": ": a loss above {tolerance} is not ruled out. {required_sample}",
    "no significant loss": ": {loss}.",
    "within limits": ".",
    "perhaps within limits": ": not significantly within the limit. {required_sample}",
    "limit missed": ": the limit is missed. Check train/loss of its run: did the model learn?",
    "perhaps outside limits": ": {outside} perhaps outside.{remark}",
    "outside limits": ": {outside} outside.{remark}",
}


def render(
    gate: Gate,
    evidence: Evidence,
    finding: Finding,
    candidate: EvaluationReport,
    champion: EvaluationReport | None,
    policy: GatePolicy,
) -> str:
    """The reason of a gate's verdict."""
    conclusion, factor = finding
    if conclusion == "not evaluated":
        return not_evaluated(_subject(gate, candidate), evidence, candidate)
    users = 0 if evidence.row is None else evidence.row.users
    differences = evidence.differences
    better = [TITLES[m] for m, d in differences.items() if d.low(gate.level) > gate.tolerance]
    ending = CONCLUSIONS[conclusion].format(
        min_users=policy.min_users,
        margin=f" by more than {_amount(gate)}" if gate.tolerance else "",
        better=" and ".join(better),
        tolerance=_amount(gate),
        loss=_loss(gate, differences.get(gate.metrics[0])),
        required_sample=required_sample(factor, users),
        outside=_outside(gate, evidence, candidate),
        remark=_remark(gate, champion),
    )
    return _measured(gate, evidence, candidate, conclusion) + ending


def not_evaluated(subject: str, evidence: Evidence, report: EvaluationReport) -> str:
    """The reason where there are too few users, labels of one class only, or a mean label near zero."""
    row = evidence.row
    if row is None:
        return f"{subject} was not evaluated."
    if report.kind(row.task) == "binary":
        counts = f"{row.positives:,} of {row.targets:,} targets positive"
        return f"{subject} was not evaluated: {row.users:,} users, {counts}."
    why = "its mean label is too near to zero for a ratio, or there are too few labels"
    return f"{subject} was not evaluated: {row.users:,} users, {row.targets:,} targets with a label; {why}."


def required_sample(factor: float | None, users: int) -> str:
    """The number of users that would resolve a hold, in words."""
    if factor is None:
        return "No realistic number of users would resolve a difference of this size."
    size = f"about {factor:.1f} times this day's {users:,} users ({factor * users:,.0f})"
    return f"If the difference holds, {size} resolve it {POWER:.0%} of the time."


def _subject(gate: Gate, report: EvaluationReport) -> str:
    """What the gate is about."""
    if gate.test == "absolute":
        return f"Calibration of {gate.task}"
    metrics = " and ".join(TITLES[metric] for metric in gate.metrics)
    subject = f"{metrics} of {gate.task}" + ("" if gate.part == ALL_TARGETS else f" in slice {gate.part}")
    if gate.baseline == "reference window":
        return f"{subject} at {report.windows[-1]:,} events against {report.reference_window:,}"
    return subject


def _measured(gate: Gate, evidence: Evidence, report: EvaluationReport, conclusion: str) -> str:
    """The gate's numbers, as the beginning of a sentence."""
    if gate.test == "absolute":
        return _limits(gate, evidence, report)
    level = gate.pass_level if conclusion in ("loss ruled out", "loss not ruled out") else gate.level
    part = "" if gate.part == ALL_TARGETS else f" in slice {gate.part}"
    numbers = [
        f"{TITLES[metric]} of {gate.task}{part} is {_difference(metric, difference, level)}"
        for metric, difference in evidence.differences.items()
    ]
    if gate.baseline == "reference window":
        start = f"With {report.windows[-1]:,} events read instead of {report.reference_window:,}"
    elif gate.test == "superiority" and evidence.row is not None:
        start = f"Against the champion on the same {evidence.row.users:,} users"
    else:
        start = "Against the champion"
    return f"{start}, {' and '.join(numbers) or 'nothing can be compared'}"


def _difference(metric: str, difference: Difference, level: float) -> str:
    """A difference with the interval between both bounds; above 0 is better, whatever the metric."""
    direction, coverage = "better" if difference.value >= 0 else "worse", f"{100 * (1 - 2 * level):.3g}%"
    form = _form(metric)
    interval = f"{difference.low(level):+{form}} .. {difference.high(level):+{form}}"
    return f"{abs(difference.value):{form}} {direction} ({coverage} interval {interval})"


def _form(metric: str) -> str:
    """The format of a difference."""
    return ".2%" if metric == "rmse" else ".4f"


def _amount(gate: Gate) -> str:
    """The tolerated loss, or the margin of superiority."""
    return f"{gate.tolerance:{_form(gate.metrics[0])}}"


def _names(gate: Gate, report: EvaluationReport) -> Mapping[str, tuple[str, str]]:
    return NUMBER_NAMES if gate.task and report.kind(gate.task) == "number" else ABSOLUTE_NAMES


def _limits(gate: Gate, evidence: Evidence, report: EvaluationReport) -> str:
    """The numbers of an absolute gate with their intervals and limits."""
    spread, start = f"{report.interval:.0%} interval", f"On {gate.task} at window {report.windows[-1]:,}"
    if report.scoring is not None and not gate.task:
        spread, start = "10th to 90th percentile", f"Scoring {report.scoring.shape} on {report.scoring.device}"
    names = _names(gate, report)
    parts = [_limit(*names[metric], value, gate.limits[metric], spread) for metric, value in evidence.estimates.items()]
    return f"{start}: {'; '.join(parts)}"


def _limit(name: str, form: str, estimate: Estimate, limits: tuple[float, float], spread: str) -> str:
    lower, upper = limits
    allowed = ""
    if lower > -inf and upper < inf:
        allowed = f", allowed {lower} to {upper}"
    elif lower > -inf:
        allowed = f", required above {form.format(lower)}"
    elif upper < inf:
        allowed = f", allowed up to {form.format(upper)}"
    interval = ""
    if estimate.low != estimate.high:
        interval = f" ({spread} {form.format(estimate.low)} .. {form.format(estimate.high)})"
    return f"{name} is {form.format(estimate.value)}{interval}{allowed}"


def _outside(gate: Gate, evidence: Evidence, report: EvaluationReport) -> str:
    """The metrics whose values are outside of their limits."""
    names = []
    for metric, estimate in evidence.estimates.items():
        lower, upper = gate.limits[metric]
        if estimate.value is not None and not lower <= estimate.value <= upper:
            names.append(_names(gate, report)[metric][0])
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'}"


def _loss(gate: Gate, difference: Difference | None) -> str:
    """Why a guardrail passes."""
    if difference is None or difference.value >= 0:
        return "no loss"
    if difference.value >= -gate.tolerance:
        return f"within the tolerated loss of {_amount(gate)}"
    return f"not a significant loss; a significant one above {_amount(gate)} would stop it"


def _remark(gate: Gate, champion: EvaluationReport | None) -> str:
    """What to compare with or to do, where numbers are outside of their limits."""
    if not gate.task:
        return " Repeat the measurement: some runs may be within."
    if champion is None or gate.test != "absolute":
        return ""
    row, names = champion.row(gate.task, champion.windows[-1]), _names(gate, champion)
    values = [(names[metric][1], getattr(row, metric).value) for metric in gate.metrics]
    if any(value is None for _, value in values):
        return ""
    numbers = " and ".join(form.format(value) for form, value in values)
    subject = "values on the same day are" if len(values) > 1 else "value on the same day is"
    return f" The champion's {subject} {numbers}."
