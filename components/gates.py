"""Is this candidate better, and how sure are we? Reports and a policy in, a decision with reasons out; nothing else.

Every comparison is of bootstrap replicates, never of two points: two reports on the same data with the same seed
resampled the same users in the same order, so subtracting their draws gives an interval of the difference itself,
which is far narrower than the two intervals would suggest.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np

from contracts.config import GatePolicy
from contracts.decision import Decision, Gate, Outcome
from contracts.errors import LongreelError
from contracts.lake import digest_of
from contracts.report import METRICS, Estimate, EvaluationReport


@dataclass(frozen=True)
class Difference:
    """A difference of two estimates with its paired bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def paired_difference(ours: Estimate, theirs: Estimate, interval: float) -> Difference:
    """`ours - theirs` with the percentile interval of the paired draws.

    Raises:
        LongreelError: a value is missing, or the numbers of draws differ, so that nothing is paired.
    """
    if ours.value is None or theirs.value is None or not ours.draws or len(ours.draws) != len(theirs.draws):
        raise LongreelError(
            f"cannot pair {len(ours.draws)} bootstrap draws with {len(theirs.draws)}; evaluate both models again"
        )
    draws = np.asarray(ours.draws) - np.asarray(theirs.draws)
    tail = (1 - interval) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Difference(ours.value - theirs.value, float(low), float(high))


def decide(candidate: EvaluationReport, champion: EvaluationReport | None, policy: GatePolicy) -> Decision:
    """Judge a candidate by every gate of the policy.

    A gate that fails makes the outcome `reject`, one that holds makes it `hold`, and all passing make it `promote`.
    Without a champion the absolute gates alone decide. The same arguments give a decision of the same digest.

    Raises:
        LongreelError: the champion's report is of other data, another seed or other windows, so it is stale.
    """
    if champion is not None:
        _require_comparable(candidate, champion)
    gates = [_complete(candidate, policy)]
    if gates[0].verdict == "pass":
        gates += [_floor(candidate, policy), _windows(candidate, policy)]
        gates += [_calibration(candidate, policy, task) for task in candidate.tasks]
        gates += _against(candidate, champion, policy)
    return Decision(
        outcome=_outcome(gates),
        gates=tuple(gates),
        date=candidate.date,
        candidate_digest=candidate.model_digest,
        champion_digest=None if champion is None else champion.model_digest,
        data_digest=candidate.data_digest,
        policy_digest=digest_of(asdict(policy)),
        candidate_report=candidate.digest(),
        champion_report=None if champion is None else champion.digest(),
    )


def _outcome(gates: Iterable[Gate]) -> Outcome:
    verdicts = {gate.verdict for gate in gates}
    return "reject" if "fail" in verdicts else "hold" if "hold" in verdicts else "promote"


def _require_comparable(candidate: EvaluationReport, champion: EvaluationReport) -> None:
    for name in ("date", "data_digest", "bootstrap_seed", "bootstrap_draws", "interval", "windows", "tasks"):
        ours, theirs = getattr(candidate, name), getattr(champion, name)
        if ours != theirs:
            raise LongreelError(
                f"the champion's report is stale: its {name} is {theirs}, the candidate's is {ours}; "
                f"evaluate the champion again on {candidate.date} (`longreel evaluate --champion`)"
            )


def _complete(report: EvaluationReport, policy: GatePolicy) -> Gate:
    """Every task and window has a line; every number is finite; the gate task is defined everywhere."""
    problems = list(_problems(report, policy))
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        return Gate(
            name="complete", verdict="fail", reason=f"The report is not usable: {'; '.join(problems[:3])}{more}."
        )
    undefined = [t for t in report.tasks if report.row(t, report.windows[-1]).auc.value is None]
    remark = f" AUC of {', '.join(undefined)} is undefined on this day and was not judged." if undefined else ""
    lines = len(report.tasks) * len(report.windows)
    return Gate(name="complete", verdict="pass", reason=f"The report is complete: {lines} lines, all finite.{remark}")


def _problems(report: EvaluationReport, policy: GatePolicy) -> Iterable[str]:
    if policy.task not in report.tasks or not report.windows:
        yield f"it has no line for the gate task {policy.task}"
        return
    for task in report.tasks:
        for window in report.windows:
            try:
                row = report.row(task, window)
            except LongreelError:
                yield f"no line for {task} at window {window}"
                continue
            for metric in METRICS:
                estimate: Estimate = getattr(row, metric)
                where = f"{metric} of {task} at window {window}"
                numbers = [x for x in (estimate.value, estimate.low, estimate.high, *estimate.draws) if x is not None]
                if not all(math.isfinite(x) for x in numbers):
                    yield f"{where} is not finite"
                elif (task == policy.task and metric in ("auc", "log_loss")) and (
                    estimate.value is None or estimate.low is None or len(estimate.draws) != report.bootstrap_draws
                ):
                    yield f"{where} is undefined or lacks its {report.bootstrap_draws} draws"


def _floor(report: EvaluationReport, policy: GatePolicy) -> Gate:
    window = report.windows[-1]
    auc = report.row(policy.task, window).auc
    assert auc.value is not None  # `_complete` passed
    assert auc.low is not None
    said = f"AUC of {policy.task} at window {window:,} is {auc.value:.4f} [{auc.low:.4f}, {auc.high:.4f}]"
    if auc.low > policy.min_auc:
        return Gate(name="floor", verdict="pass", reason=f"{said}, above the floor of {policy.min_auc:.4f}.")
    if auc.value > policy.min_auc:
        return Gate(name="floor", verdict="hold", reason=f"{said}: not surely above the floor of {policy.min_auc:.4f}.")
    return Gate(name="floor", verdict="fail", reason=f"{said}, not above the floor of {policy.min_auc:.4f}.")


def _windows(report: EvaluationReport, policy: GatePolicy) -> Gate:
    """Reading more history than training did on average must not cost accuracy."""
    longest = report.windows[-1]
    usual = min(report.windows, key=lambda w: (abs(w - report.training_mean_window), w))
    if usual == longest:
        reason = f"No window is longer than {usual:,}, the one nearest to the training mean of "
        return Gate(name="windows", verdict="pass", reason=f"{reason}{report.training_mean_window:,} events.")
    gain = paired_difference(report.row(policy.task, longest).auc, report.row(policy.task, usual).auc, report.interval)
    said = f"Reading {longest:,} instead of {usual:,} events changes AUC of {policy.task} by {gain}"
    limit = -policy.max_window_loss
    if gain.high < limit:
        return Gate(name="windows", verdict="fail", reason=f"{said}: surely worse than the allowed {limit:+.4f}.")
    if gain.value < limit:
        return Gate(name="windows", verdict="hold", reason=f"{said}: perhaps worse than the allowed {limit:+.4f}.")
    return Gate(name="windows", verdict="pass", reason=f"{said}; {limit:+.4f} is allowed.")


def _calibration(report: EvaluationReport, policy: GatePolicy, task: str) -> Gate:
    name, (low, high) = f"calibration/{task}", policy.calibration
    window = report.windows[-1]
    ratio = report.row(task, window).calibration
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return Gate(name=name, verdict="pass", reason=f"{task} had no positives, so its calibration was not judged.")
    said = (
        f"Predicted over observed rate of {task} at window {window:,} is "
        f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
    )
    if low <= ratio.value <= high:
        return Gate(name=name, verdict="pass", reason=f"{said}, within {low} to {high}.")
    if ratio.high < low or ratio.low > high:
        return Gate(name=name, verdict="fail", reason=f"{said}, surely outside {low} to {high}.")
    return Gate(name=name, verdict="hold", reason=f"{said}, outside {low} to {high}, though its interval reaches in.")


def _against(candidate: EvaluationReport, champion: EvaluationReport | None, policy: GatePolicy) -> list[Gate]:
    """The gates that need a champion to compare with."""
    if champion is None:
        return [Gate(name="champion", verdict="pass", reason="There is no champion yet; the floors alone decide.")]
    if candidate.model_digest == champion.model_digest:
        reason = f"The candidate is the champion itself (model digest {candidate.model_digest}); nothing would change."
        return [Gate(name="champion", verdict="hold", reason=reason)]
    problems = list(_problems(champion, policy))
    if problems:
        reason = f"The champion's own report is not usable ({problems[0]}); evaluate it again, or roll it back."
        return [Gate(name="champion", verdict="hold", reason=reason)]
    window = candidate.windows[-1]

    def difference(task: str, pick: Callable[..., Estimate]) -> Difference:
        ours, theirs = pick(candidate.row(task, window)), pick(champion.row(task, window))
        return paired_difference(ours, theirs, candidate.interval)

    gates = [_auc_gain(difference(policy.task, lambda row: row.auc), policy, window)]
    for task in candidate.tasks:
        if all(report.row(task, window).log_loss.draws for report in (candidate, champion)):
            gates.append(_log_loss(difference(task, lambda row: row.log_loss), policy, task, window))
    return gates


def _auc_gain(gain: Difference, policy: GatePolicy, window: int) -> Gate:
    said = f"AUC of {policy.task} at window {window:,} differs from the champion's on the same data by {gain}"
    if gain.low > policy.min_auc_gain:
        return Gate(name="champion/auc", verdict="pass", reason=f"{said}: surely above {policy.min_auc_gain:+.4f}.")
    if gain.high < -policy.max_auc_loss:
        return Gate(name="champion/auc", verdict="fail", reason=f"{said}: surely below {-policy.max_auc_loss:+.4f}.")
    reason = f"{said}: not surely above {policy.min_auc_gain:+.4f}, so there is not enough evidence to promote."
    return Gate(name="champion/auc", verdict="hold", reason=reason)


def _log_loss(rise: Difference, policy: GatePolicy, task: str, window: int) -> Gate:
    name, limit = f"champion/log_loss/{task}", policy.max_log_loss_rise
    said = f"Log loss of {task} at window {window:,} differs from the champion's by {rise}"
    if rise.low > limit:
        return Gate(name=name, verdict="fail", reason=f"{said}: surely a rise beyond {limit:+.4f}.")
    if rise.value > limit:
        return Gate(name=name, verdict="hold", reason=f"{said}: perhaps a rise beyond {limit:+.4f}.")
    return Gate(name=name, verdict="pass", reason=f"{said}; a rise of {limit:+.4f} is allowed.")
