"""Is this candidate to be the champion? Reports and a policy in, a decision with reasons out; nothing else.

Three kinds of comparison with the champion, each at an error rate that the policy states:
  better     the gate task's AUC or log loss is surely better: only this promotes (false_promotion_rate)
  proved     a loss beyond the tolerance is ruled out, or the candidate waits (missed_regression_rate)
  watched    the candidate is stopped only where a loss is sure (false_rejection_rate, shared by the windows'
             gates, and by those against the champion)
Where fewer users than the policy's `min_users` came, nothing is compared: `unjudged`, which stops nobody and is said;
where that is everybody of the day, the candidate is held, champion or not.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from longreel.components.gates.compare import Difference, settles
from longreel.contracts.decision import Decision, Gate, Outcome
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import GatePolicy
from longreel.contracts.report import CHECKS, EVERYBODY, METRICS, UNDEFINED, EvaluationReport, MetricRow

NAMES = {"auc": "AUC", "log_loss": "log loss", "gauc": "GAUC"}
DECISIVE = ("auc", "log_loss")  # a candidate may win by these, and must not be without them


def decide(candidate: EvaluationReport, champion: EvaluationReport | None, policy: GatePolicy) -> Decision:
    """Judge a candidate by every gate of the policy.

    A gate that fails makes the outcome `reject`, one that holds makes it `hold`, and all passing make it `promote`.
    Without a champion the absolute gates alone decide. The same arguments give a decision of the same digest.

    Raises:
        LongreelError: the champion's report is of other data, another seed or other windows, so it is stale.
    """
    if champion is not None:
        _require_comparable(candidate, champion)
    gates = [_complete(candidate, champion, policy)]
    if gates[0].verdict == "pass":
        gates += [_data(candidate, policy), _parity(candidate), _floor(candidate, policy)]
        gates += [_calibration(candidate, champion, policy, task) for task in candidate.tasks]
        gates += _windows(candidate, policy)
        gates += [_cost(candidate, policy), *_against(candidate, champion, policy)]
    return Decision(
        outcome=_outcome(gates),
        gates=tuple(gates),
        date=candidate.date,
        candidate_digest=candidate.model_digest,
        champion_digest=None if champion is None else champion.model_digest,
        data_digest=candidate.data_digest,
        policy_version=policy.version,
        policy_digest=policy.digest(),
        looks=policy.looks,
        candidate_report=candidate.digest(),
        champion_report=None if champion is None else champion.digest(),
    )


def _outcome(gates: Iterable[Gate]) -> Outcome:
    verdicts = {gate.verdict for gate in gates}
    return "reject" if "fail" in verdicts else "hold" if "hold" in verdicts else "promote"


def _require_comparable(candidate: EvaluationReport, champion: EvaluationReport) -> None:
    names = ("date", "data_digest", "bootstrap_seed", "bootstrap_draws", "interval", "windows", "tasks")
    for name in names:
        ours, theirs = getattr(candidate, name), getattr(champion, name)
        if ours != theirs:
            raise LongreelError(
                f"the champion's report is stale: its {name} is {theirs}, the candidate's is {ours}; "
                f"evaluate the champion again on {candidate.date} (`longreel model evaluate --champion`)"
            )


def _complete(report: EvaluationReport, champion: EvaluationReport | None, policy: GatePolicy) -> Gate:
    """Every task, window and slice has a line; every number is finite; nothing that a gate looks at is missing."""
    problems = list(_problems(report, policy))
    others = set() if champion is None else set(champion.slices) - set(report.slices)
    problems += [f"it lacks the slice {name}, which the champion's report of the same data has" for name in others]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        advice = "Evaluate the candidate again; if that changes nothing, look at its run's train/loss."
        reason = f"The report is not usable: {'; '.join(problems[:3])}{more}. {advice}"
        return Gate(name="complete", verdict="fail", reason=reason)
    undefined = [t for t in report.tasks if report.row(t, report.windows[-1]).auc.value is None]
    remark = f" AUC of {', '.join(undefined)} is undefined on this day and was not judged." if undefined else ""
    size = f"{len(report.tasks)} tasks x {len(report.windows)} windows x {len(report.slices)} slices"
    return Gate(name="complete", verdict="pass", reason=f"The report is complete: {size}, all finite.{remark}")


def _problems(report: EvaluationReport, policy: GatePolicy) -> Iterator[str]:
    if policy.task not in report.tasks or not report.windows:
        yield f"it has no line for the gate task {policy.task}"
        return
    for name in (EVERYBODY, *policy.protected_slices):
        if name not in report.slices:
            yield f"it lacks the slice {name}, which the policy looks at"
    for name in ("scoring", "parity", "quality"):
        if not getattr(report, name):
            yield f"it does not say {name}"
    rows = {(row.task, row.window, row.slice): row for row in report.rows}
    for task in report.tasks:
        for window in report.windows:
            for name in report.slices:
                row = rows.get((task, window, name))
                if row is None:
                    yield f"no line for {task} at window {window}, slice {name}"
                else:
                    yield from _row_problems(row)
    decisive = rows.get((policy.task, report.windows[-1], EVERYBODY))
    for metric in DECISIVE if decisive is not None else ():
        estimate = getattr(decisive, metric)
        if estimate.value is None or len(estimate.draws) != report.bootstrap_draws:
            yield f"{metric} of {policy.task}, on which it is judged, is undefined or lacks its draws"
    if report.usual_window != report.windows[-1] and not any(
        (gain.task, gain.slice) == (policy.task, EVERYBODY) for gain in report.window_gains
    ):
        yield "it does not say what the longest window gives"


def _row_problems(row: MetricRow) -> Iterator[str]:
    where = f"of {row.task} at window {row.window}, slice {row.slice}"
    for metric in METRICS:
        estimate = getattr(row, metric)
        numbers = [x for x in (estimate.value, estimate.low, estimate.high, *estimate.draws) if x is not None]
        if not all(math.isfinite(x) for x in numbers):
            yield f"{metric} {where} is not finite"
    if row.targets and row.log_loss.value is None:  # any target has one, unless its logit is not a number
        yield f"log_loss {where} is not finite"


def _data(report: EvaluationReport, policy: GatePolicy) -> Gate:
    """Nobody is promoted on a day that is not to be trusted."""
    quality = report.quality
    assert quality is not None  # `_complete` passed
    if not quality.passed:
        advice = f"`longreel ops status` and reports/{report.date} say where; judge on a day that is right."
        reason = f"The samples of {report.date} did not pass their checkpoint. {advice}"
        return Gate(name="data", verdict="fail", reason=reason)
    said = f"The samples of {report.date} passed their checkpoint"
    if not quality.warnings:
        return Gate(name="data", verdict="pass", reason=f"{said} without a warning.")
    said += f" with {len(quality.warnings)} warning(s), first: {quality.warnings[0]}"
    if policy.hold_on_data_warning:
        return Gate(name="data", verdict="hold", reason=f"{said}. The next candidate is judged on a day of its own.")
    return Gate(name="data", verdict="pass", reason=f"{said}.")


def _parity(report: EvaluationReport) -> Gate:
    """The numbers are worth nothing where two ways to the same logits disagree."""
    for check in (check for check in report.parity if not check.passed):
        reason = (
            f"Logits differ by up to {check.largest:.2g} between the model and {check.name}, allowed are "
            f"{check.tolerance:.2g} ({check.logits:,} compared): what is judged is not what would be served."
        )
        return Gate(name="parity", verdict="fail", reason=reason)
    made = {check.name for check in report.parity}
    if missing := [name for name in CHECKS if name not in made]:
        reason = (
            f"The model's logits were not compared with {' and '.join(missing)}: judge a registered version (`longreel "
            "evaluate --version`) that this version of the code has trained."
        )
        return Gate(name="parity", verdict="hold", reason=reason)
    names = ", ".join(f"{check.name} ({check.largest:.1g})" for check in report.parity)
    return Gate(name="parity", verdict="pass", reason=f"Logits agree: {names}.")


def _floor(report: EvaluationReport, policy: GatePolicy) -> Gate:
    window = report.windows[-1]
    row = report.row(policy.task, window)
    auc = row.auc
    assert auc.value is not None  # `_complete` passed
    assert auc.low is not None
    span = f"({report.interval:.0%} interval {auc.low:.4f} .. {auc.high:.4f})"
    said = f"AUC of {policy.task} at window {window:,} is {auc.value:.4f} {span}"
    if row.users < policy.min_users:
        return _too_few("floor", said, row.users, policy)
    if auc.low > policy.min_auc:
        return Gate(name="floor", verdict="pass", reason=f"{said}, above the floor of {policy.min_auc:.4f}.")
    if auc.value > policy.min_auc:
        above = Difference.within(auc, report.interval, row.users)
        assert above is not None  # it has a value and an interval
        factor = above.more_data(policy.min_auc, (1 - report.interval) / 2)
        reason = f"{said}: not surely above the floor of {policy.min_auc:.4f}. {settles(factor, above.users)}"
        return Gate(name="floor", verdict="hold", reason=reason, more_data=factor)
    reason = f"{said}, not above the floor of {policy.min_auc:.4f}: did it learn? Look at its run's train/loss."
    return Gate(name="floor", verdict="fail", reason=reason)


def _calibration(report: EvaluationReport, champion: EvaluationReport | None, policy: GatePolicy, task: str) -> Gate:
    """Predicted rates are used as rates: right on the whole (ratio) and at every level (calibration error)."""
    name, (low, high), window = f"calibration/{task}", policy.calibration, report.windows[-1]
    row = report.row(task, window)
    ratio, ece = row.calibration, row.ece
    if ratio.value is None or ratio.low is None or ratio.high is None or ece.value is None or ece.low is None:
        reason = f"{task} had no positives on this day, so its calibration was not judged."
        return Gate(name=name, verdict="unjudged", reason=reason)
    if row.users < policy.min_users:
        return _unjudged(name, f"Calibration of {task}", row)
    said = (
        f"Predicted over observed rate of {task} at window {window:,} is {ratio.value:.3f} "
        f"({report.interval:.0%} interval {ratio.low:.3f} .. {ratio.high:.3f}), its expected calibration error "
        f"{ece.value:.4f}; allowed are {low} to {high} and {policy.max_ece}"
    )
    wrong = {"rate": not low <= ratio.value <= high, "calibration error": ece.value > policy.max_ece}
    if not any(wrong.values()):
        return Gate(name=name, verdict="pass", reason=f"{said}.")
    surely = ratio.high < low or ratio.low > high or ece.low > policy.max_ece
    said += f": the {' and the '.join(what for what, is_wrong in wrong.items() if is_wrong)} "
    said += f"{'surely' if surely else 'perhaps'} outside.{_whose(champion, task)}"
    return Gate(name=name, verdict="fail" if surely else "hold", reason=said)


def _whose(champion: EvaluationReport | None, task: str) -> str:
    """Whether wrong rates are the model's or the day's: the champion's on the same day."""
    theirs = None if champion is None else champion.row(task, champion.windows[-1])
    if theirs is None or theirs.calibration.value is None or theirs.ece.value is None:
        return ""
    return f" On the same day the champion's are {theirs.calibration.value:.3f} and {theirs.ece.value:.4f}."


def _windows(report: EvaluationReport, policy: GatePolicy) -> list[Gate]:
    """Reading more history than training did in the mean must cost no task accuracy, nor the gate task in any slice."""
    longest, usual = report.windows[-1], report.usual_window
    if usual == longest:
        reason = f"No window is longer than {usual:,}, the one nearest to the training mean of "
        return [Gate(name="windows", verdict="pass", reason=f"{reason}{report.training_mean_window:,} events.")]
    places = [(task, EVERYBODY) for task in report.tasks]
    places += [(policy.task, part) for part in report.slices if part != EVERYBODY]
    found = {(gain.task, gain.slice): gain.auc for gain in report.window_gains}
    level, gates = policy.false_rejection_rate / max(1, sum(place in found for place in places)), []
    for task, part in places:
        name, row = f"windows/{task}" + ("" if part == EVERYBODY else f"/{part}"), report.row(task, longest, part)
        about = f"AUC of {task}" + ("" if part == EVERYBODY else f" in slice {part}")
        change = Difference.within(found.get((task, part), UNDEFINED), report.interval, row.users)
        if change is None or row.users < policy.min_users:
            gates.append(_unjudged(name, f"What long windows do to {about}", row))
            continue
        said = f"With {longest:,} events read instead of {usual:,}, near the training mean, {about} is"
        gates.append(_watched(name, said, change, policy.max_window_loss, level))
    return gates


def _too_few(name: str, said: str, users: int, policy: GatePolicy) -> Gate:
    """What holds a candidate on a day with fewer users than the policy decides by."""
    reason = f"{said}: fewer users than the {policy.min_users:,} that the policy decides by."
    return Gate(name=name, verdict="hold", reason=reason, more_data=policy.min_users / max(1, users))


def _unjudged(name: str, what: str, row: MetricRow) -> Gate:
    """Too few users, or one class only, to say anything."""
    reason = f"{what} was not judged: {row.users:,} users, {row.positives:,} of {row.targets:,} targets positive."
    return Gate(name=name, verdict="unjudged", reason=reason)


def _cost(report: EvaluationReport, policy: GatePolicy) -> Gate:
    cost = report.scoring
    assert cost is not None  # `_complete` passed
    said = (
        f"Scoring {cost.shape} on {cost.device} takes {cost.latency_ms:,.1f} ms (10th to 90th percentile "
        f"{cost.latency_low_ms:,.1f} .. {cost.latency_high_ms:,.1f}) and {cost.peak_memory_mib:,.0f} MiB"
    )
    if not policy.budgets:
        return Gate(name="cost", verdict="pass", reason=f"{said}; the policy has no budget.")
    budget = next((b for b in policy.budgets if b.device in cost.device), None)
    if budget is None:
        names = ", ".join(b.device for b in policy.budgets)
        reason = f"{said}, but gates.toml has no budget for that device, only for {names}: add one, or evaluate there."
        return Gate(name="cost", verdict="hold", reason=reason)
    allowed = f"{budget.latency_ms:,.1f} ms and {budget.memory_mib:,.0f} MiB are allowed on {budget.device}"
    if cost.latency_low_ms > budget.latency_ms or cost.peak_memory_mib > budget.memory_mib:
        return Gate(name="cost", verdict="fail", reason=f"{said}; {allowed}.")
    if cost.latency_ms > budget.latency_ms:
        return Gate(name="cost", verdict="hold", reason=f"{said}; {allowed}. Some runs were within: measure again.")
    return Gate(name="cost", verdict="pass", reason=f"{said}; {allowed}.")


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
    rivals = _Rivals(candidate, champion, policy)
    return [rivals.better(), *rivals.losses()]


@dataclass(frozen=True)
class _Rivals:
    """Two whole reports on the same data, at the longest window."""

    candidate: EvaluationReport
    champion: EvaluationReport
    policy: GatePolicy

    def gain(self, task: str, metric: str, slice: str = EVERYBODY) -> Difference | None:
        """How much better the candidate is; None where that is undefined for one of them."""
        ours, theirs = (r.row(task, r.windows[-1], slice) for r in (self.candidate, self.champion))
        try:
            return Difference.of(
                getattr(ours, metric), getattr(theirs, metric), ours.users, less_is_better=metric == "log_loss"
            )
        except LongreelError:
            return None

    def better(self) -> Gate:
        """The one gate that says why to change anything."""
        policy, name = self.policy, "champion/better"
        level = policy.promotion_level
        gains = {m: g for m in policy.better_by if (g := self.gain(policy.task, m)) is not None}
        users = self.candidate.row(policy.task, self.candidate.windows[-1]).users
        said = " and ".join(f"{NAMES[m]} of {policy.task} is {g.say(level)}" for m, g in gains.items())
        said = f"Against the champion on the same {users:,} users, {said or 'nothing can be compared'}"
        if users < policy.min_users:
            return _too_few(name, said, users, policy)
        wanted = f" by more than {policy.min_gain:.4f}" if policy.min_gain else ""
        sure = [NAMES[m] for m, g in gains.items() if g.low(level) > policy.min_gain]
        if sure:
            reason = f"{said}: surely better{wanted} by {' and '.join(sure)}."
            return Gate(name=name, verdict="pass", reason=reason)
        ahead = [g for g in gains.values() if g.value > policy.min_gain]
        if not ahead:
            reason = f"{said}: not better{wanted}, and more data of the kind would not make it so."
            return Gate(name=name, verdict="hold", reason=reason)
        known = [f for g in ahead if (f := g.more_data(policy.min_gain, level)) is not None]
        soonest = min(known, default=None)
        reason = f"{said}: not surely better{wanted}. {settles(soonest, users)}"
        return Gate(name=name, verdict="hold", reason=reason, more_data=soonest)

    def losses(self) -> list[Gate]:
        """What the candidate must not pay for being better elsewhere."""
        policy, tasks = self.policy, self.candidate.tasks
        tolerances = {"auc": policy.max_auc_loss, "log_loss": policy.max_log_loss_rise, "gauc": policy.max_auc_loss}
        places, gates = [(task, metric, EVERYBODY) for task in tasks for metric in NAMES], []
        for part in (part for part in self.candidate.slices if part != EVERYBODY):
            row = self.candidate.row(policy.task, self.candidate.windows[-1], part)
            if row.users < policy.min_users:
                protected = ", which the policy protects," if part in policy.protected_slices else ""
                gates.append(_unjudged(f"slice/{part}", f"Slice {part}{protected}", row))
            else:
                places += [(policy.task, metric, part) for metric in DECISIVE]
        level = policy.false_rejection_rate / len(places)
        for task, metric, part in places:
            name, about = f"champion/{metric}/{task}", f"{NAMES[metric]} of {task}"
            tolerance, proved = tolerances[metric], task == policy.task and metric in DECISIVE
            if part != EVERYBODY:
                name, about = f"slice/{metric}/{part}", f"{about} in slice {part}"
                tolerance = policy.slice_tolerance if metric == "auc" else tolerance
                proved = metric == "auc" and part in policy.protected_slices
            row, gain = self.candidate.row(task, self.candidate.windows[-1], part), self.gain(task, metric, part)
            if row.users < policy.min_users or gain is None:
                gates.append(_unjudged(name, about, row))
            elif proved:
                gates.append(_proved(name, f"Against the champion, {about} is", gain, tolerance, level, policy))
            else:
                gates.append(_watched(name, f"Against the champion, {about} is", gain, tolerance, level))
        return gates


def _watched(name: str, said: str, gain: Difference, tolerance: float, level: float) -> Gate:
    """Stop only for a loss that is sure."""
    said = f"{said} {gain.say(level)}"
    if gain.high(level) < -tolerance:
        return Gate(name=name, verdict="fail", reason=f"{said}: surely a loss beyond the allowed {tolerance:.4f}.")
    if gain.value < -tolerance and gain.high(level) < 0:
        factor = gain.more_data(-tolerance, level)
        reason = f"{said}: surely a loss, perhaps beyond the allowed {tolerance:.4f}. {settles(factor, gain.users)}"
        return Gate(name=name, verdict="hold", reason=reason, more_data=factor)
    allowed = f"within the allowed loss of {tolerance:.4f}"
    if gain.value >= 0:
        allowed = "no loss seen"
    elif gain.value < -tolerance:
        allowed = f"not surely a loss; beyond {tolerance:.4f} a sure one would stop it"
    return Gate(name=name, verdict="pass", reason=f"{said}: {allowed}.")


def _proved(name: str, said: str, gain: Difference, tolerance: float, level: float, policy: GatePolicy) -> Gate:
    """Pass only where a loss beyond the tolerance is ruled out."""
    if gain.high(level) < -tolerance:
        reason = f"{said} {gain.say(level)}: surely a loss beyond the allowed {tolerance:.4f}."
        return Gate(name=name, verdict="fail", reason=reason)
    proof = policy.missed_regression_rate
    said = f"{said} {gain.say(proof)}"
    if gain.low(proof) > -tolerance:
        return Gate(name=name, verdict="pass", reason=f"{said}: a loss beyond {tolerance:.4f} is ruled out.")
    factor = gain.more_data(-tolerance, proof if gain.value > -tolerance else level)  # to pass, or to fail
    reason = f"{said}: a loss beyond {tolerance:.4f} is not ruled out. {settles(factor, gain.users)}"
    return Gate(name=name, verdict="hold", reason=reason, more_data=factor)
