"""Preconditions of a decision: usable reports, valid data, consistent logits, a champion to compare with."""

import math
from collections.abc import Iterator, Sequence

from longreel.components.gates.gate import DECISIVE
from longreel.contracts.decision import GateResult
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import GatePolicy
from longreel.contracts.report import (
    ALL_TARGETS,
    CHECKS,
    TITLES,
    EvaluationReport,
    MetricRow,
    UnevaluatedModel,
    category_of,
    slice_groups,
)

MAX_PROBLEMS = 3  # of a report, in its reason
COMPARABLE = (
    "date",
    "data_digest",
    "bootstrap_seed",
    "bootstrap_draws",
    "interval",
    "windows",
    "tasks",
    "number_tasks",
)


def require_comparable(candidate: EvaluationReport, champion: EvaluationReport) -> None:
    """Raises LongreelError where the champion's report is of other data, another seed or other windows."""
    for name in COMPARABLE:
        ours, theirs = getattr(candidate, name), getattr(champion, name)
        if ours != theirs:
            raise LongreelError(
                f"the champion's report is stale: its {name} is {theirs}, the candidate's is {ours}; "
                f"evaluate the champion again on {candidate.date} (`longreel model evaluate --champion`)"
            )


def complete(report: EvaluationReport, champion: EvaluationReport | None, policy: GatePolicy) -> GateResult:
    """Every task, window and slice has a row, every number is finite, and nothing that a gate needs is missing."""
    problems = list(_problems(report, policy))
    missing = set() if champion is None else set(champion.slices) - set(report.slices) - _of_categories(champion)
    problems += [f"it lacks the slice {name}, which the champion's report of the same data has" for name in missing]
    if problems:
        more = f" and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        advice = "Evaluate the candidate again; if that does not help, check train/loss of its run."
        reason = f"The report is not usable: {'; '.join(problems[:MAX_PROBLEMS])}{more}. {advice}"
        return GateResult(name="complete", verdict="fail", reason=reason)
    if why := one_class(report, policy.task):
        advice = (
            "If the raw log should have others, correct it and ingest the day again; otherwise evaluate on another day "
            "(`longreel ops retrain --date DAY`)."
        )
        title = TITLES[report.primary(policy.task)]
        reason = f"{why}, so {title} is undefined and no candidate can be evaluated on this day. {advice}"
        return GateResult(name="complete", verdict="hold", reason=reason)
    undefined = [t for t in report.tasks if getattr(report.row(t, report.windows[-1]), report.primary(t)).value is None]
    names = ", ".join(f"{TITLES[report.primary(task)]} of {task}" for task in undefined)
    remark = f" {names} is undefined on this day and was not evaluated." if undefined else ""
    size = f"{len(report.tasks)} tasks x {len(report.windows)} windows x {len(report.slices)} slices"
    return GateResult(name="complete", verdict="pass", reason=f"The report is complete: {size}, all finite.{remark}")


def one_class(report: EvaluationReport, task: str) -> str:
    """The day's labels of a task, in words, where no model is compared by them: none, or all alike. Else empty."""
    row = report.index.get((task, report.windows[-1], ALL_TARGETS))
    if row is None:
        return ""
    if not row.targets:
        return f"No target of {report.date} has a label {row.task}"
    if report.kind(row.task) == "binary" and row.positives in (0, row.targets):
        count = "None" if not row.positives else "Every one"
        return f"{count} of the {row.targets:,} targets of {report.date} is positive for {row.task}"
    return ""


def _of_categories(report: EvaluationReport) -> set[str]:
    """The slices by a category: a model whose log schema declares no such field has none of them."""
    return {name for name in report.slices if category_of(name) is not None}


def _problems(report: EvaluationReport, policy: GatePolicy) -> Iterator[str]:
    if policy.task not in report.tasks or not report.windows:
        yield f"it has no row for the gate task {policy.task}"
        return
    fields = set(slice_groups(report.slices))
    for name in (ALL_TARGETS, *policy.protected_slices):
        category = category_of(name)
        is_rare = category is not None and category[0] in fields  # only the most frequent values have a slice
        if name not in report.slices and not is_rare:
            yield f"it lacks the slice {name}, which the policy requires"
    for name in ("scoring", "consistency", "quality"):
        if not getattr(report, name):
            yield f"it lacks {name}"
    for task in report.tasks:
        for window in report.windows:
            for name in report.slices:
                row = report.index.get((task, window, name))
                if row is None:
                    yield f"no row for {task} at window {window}, slice {name}"
                else:
                    yield from _row_problems(row, report.metrics(task))
    if not one_class(report, policy.task):  # that is no fault of the report
        yield from _decisive_problems(report, policy)


def _decisive_problems(report: EvaluationReport, policy: GatePolicy) -> Iterator[str]:
    decisive = report.index.get((policy.task, report.windows[-1], ALL_TARGETS))
    for metric in DECISIVE[report.kind(policy.task)] if decisive is not None else ():
        estimate = getattr(decisive, metric)
        if estimate.value is None:
            yield f"{metric} of {policy.task}, which decides, is undefined"
        elif len(estimate.draws) != report.bootstrap_draws:
            draws = f"{len(estimate.draws)} of {report.bootstrap_draws} draws"
            yield f"{metric} of {policy.task}, which decides, has {draws}"
    gains = {(gain.task, gain.slice_name) for gain in report.window_gains}
    if report.reference_window != report.windows[-1] and (policy.task, ALL_TARGETS) not in gains:
        yield "it lacks the gain of the longest window"


def _row_problems(row: MetricRow, metrics: Sequence[str]) -> Iterator[str]:
    place = f"of {row.task} at window {row.window}, slice {row.slice_name}"
    for metric in metrics:
        estimate = getattr(row, metric)
        numbers = [x for x in (estimate.value, estimate.low, estimate.high, *estimate.draws) if x is not None]
        if not all(math.isfinite(x) for x in numbers):
            yield f"{metric} {place} is not finite"
    always = "log_loss" if "log_loss" in metrics else "rmse"  # defined for any target, unless its prediction is NaN
    if row.targets and getattr(row, always).value is None:
        yield f"{always} {place} is not finite"


def data(report: EvaluationReport, policy: GatePolicy) -> GateResult:
    """The evaluated day passed its data checkpoint."""
    quality = report.quality
    if quality is None or not quality.passed:
        advice = f"`longreel ops status` and reports/{report.date} show the checks; evaluate on a valid day."
        reason = f"The samples of {report.date} did not pass their checkpoint. {advice}"
        return GateResult(name="data", verdict="fail", reason=reason)
    passed = f"The samples of {report.date} passed their checkpoint"
    if not quality.warnings:
        return GateResult(name="data", verdict="pass", reason=f"{passed} without a warning.")
    passed += f" with {len(quality.warnings)} warning(s), first: {quality.warnings[0]}"
    if policy.hold_on_data_warning:
        reason = f"{passed}. The next candidate is evaluated on another day."
        return GateResult(name="data", verdict="hold", reason=reason)
    return GateResult(name="data", verdict="pass", reason=f"{passed}.")


def consistency(report: EvaluationReport) -> GateResult:
    """All ways to compute a request's logits agree."""
    for check in report.consistency:
        if not check.passed:
            reason = (
                f"Logits differ by up to {check.largest:.2g} between the model and {check.name}, tolerated are "
                f"{check.tolerance:.2g} ({check.logits:,} compared): serving would differ from this evaluation."
            )
            return GateResult(name="consistency", verdict="fail", reason=reason)
    names = {check.name for check in report.consistency}
    if missing := [name for name in CHECKS if name not in names]:
        reason = (
            f"The model's logits were not compared with {' and '.join(missing)}: evaluate a registered version "
            "(`longreel model evaluate --version`) that this version of the code has trained."
        )
        return GateResult(name="consistency", verdict="hold", reason=reason)
    differences = ", ".join(f"{check.name} ({check.largest:.1g})" for check in report.consistency)
    return GateResult(name="consistency", verdict="pass", reason=f"Logits agree: {differences}.")


def champion_available(
    candidate: EvaluationReport, champion: EvaluationReport | UnevaluatedModel | None, policy: GatePolicy
) -> GateResult | None:
    """The result that replaces the comparison with the champion; None where they can be compared."""
    if champion is None:
        reason = "There is no champion yet; the absolute gates alone decide."
        return GateResult(name="champion", verdict="pass", reason=reason)
    if isinstance(champion, UnevaluatedModel):
        reason = f"The champion cannot be evaluated on this day: {champion.reason}."
        if policy.replace_unevaluated_champion:
            reason += " The policy lets the absolute gates alone decide."
            return GateResult(name="champion", verdict="pass", reason=reason)
        reason += " To let the absolute gates alone decide, set replace_unevaluated_champion = true in gates.toml."
        return GateResult(name="champion", verdict="hold", reason=reason)
    if candidate.model_digest == champion.model_digest:
        reason = f"The candidate is the champion itself (model digest {candidate.model_digest}); nothing would change."
        return GateResult(name="champion", verdict="hold", reason=reason)
    problem = next(_problems(champion, policy), None)
    if problem is not None:
        reason = f"The champion's own report is not usable ({problem}); evaluate it again, or roll it back."
        return GateResult(name="champion", verdict="hold", reason=reason)
    return None
