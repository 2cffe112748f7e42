"""Gates as data: which number is tested how, and how large a loss is tolerated.

Four tests. Each has an error rate that the policy states.
  superiority      one of the metrics is significantly better: only this promotes (false_promotion_rate)
  non_inferiority  a loss above the tolerance must be ruled out, or the candidate is held (missed_regression_rate)
  guardrail        only a significant loss stops the candidate (false_rejection_rate, shared by all guardrails of the
                   windows, and by all comparisons with the champion)
  absolute         the candidate's own numbers lie within limits
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from longreel.contracts.policy import Budget, GatePolicy
from longreel.contracts.report import ALL_TARGETS, EvaluationReport, TaskKind

Test = Literal["superiority", "non_inferiority", "guardrail", "absolute"]
Baseline = Literal["champion", "reference window"]
Tests = Mapping[str, tuple[Test, Test, str]]
# Metrics of the gate task without which a report is not usable
DECISIVE: dict[TaskKind, tuple[str, ...]] = {"binary": ("auc", "log_loss"), "number": ("rmse", "r2")}
# Metric: test of the gate task, test of the other tasks, tolerance (a setting of the policy)
TASK_TESTS: dict[TaskKind, Tests] = {
    "binary": {
        "auc": ("non_inferiority", "guardrail", "max_auc_loss"),
        "log_loss": ("non_inferiority", "guardrail", "max_log_loss_rise"),
        "gauc": ("guardrail", "guardrail", "max_auc_loss"),
    },
    "number": {"rmse": ("non_inferiority", "guardrail", "max_rmse_rise")},
}
# Metric of the gate task: test of a protected slice, test of the other slices, tolerance
SLICE_TESTS: dict[TaskKind, Tests] = {
    "binary": {
        "auc": ("non_inferiority", "guardrail", "slice_tolerance"),
        "log_loss": ("guardrail", "guardrail", "max_log_loss_rise"),
    },
    "number": {"rmse": ("non_inferiority", "guardrail", "max_rmse_rise")},
}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One test of the policy.

    Attributes:
        metrics: what is tested; superiority needs one of them, an absolute gate all.
        task, part: whose metrics, over which slice; task "" stands for the cost of scoring.
        baseline: what a difference is taken to.
        tolerance: the loss that is tolerated, or the margin that superiority must exceed.
        limits: of an absolute gate, the range of each metric.
        level: one-sided error rate of the bound that stops the candidate; of superiority, of the bound that promotes.
        pass_level: one-sided error rate of the bound by which non-inferiority passes.
        required: with too few users the candidate is held; a gate that is not required is not evaluated then.
    """

    name: str
    test: Test
    metrics: tuple[str, ...]
    task: str = ""
    part: str = ALL_TARGETS
    baseline: Baseline = "champion"
    tolerance: float = 0.0
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    level: float = 0.0
    pass_level: float = 0.0
    required: bool = False


def absolute_gates(report: EvaluationReport, policy: GatePolicy) -> Iterator[Gate]:
    """The gate task's smallest AUC or R2, and every task's calibration: as a ratio, and of a probability at every level
    of prediction too."""
    metric, least = ("r2", policy.min_r2) if report.kind(policy.task) == "number" else ("auc", policy.min_auc)
    yield Gate(
        name=f"min_{metric}",
        test="absolute",
        task=policy.task,
        metrics=(metric,),
        limits={metric: (least, inf)},
        level=(1 - report.interval) / 2,
        required=True,
    )
    low, high = policy.calibration
    limits = {"calibration": (low, high), "ece": (-inf, policy.max_ece)}
    for task in report.tasks:
        metrics = tuple(metric for metric in limits if metric in report.metrics(task))
        yield Gate(name=f"calibration/{task}", test="absolute", task=task, metrics=metrics, limits=limits)


def window_gates(report: EvaluationReport, policy: GatePolicy) -> Iterator[Gate]:
    """Reading the longest window instead of the reference one makes no task worse, nor the gate task in any slice."""
    places = [(task, ALL_TARGETS) for task in report.tasks]
    places += [(policy.task, part) for part in report.slices if part != ALL_TARGETS]
    defined = {(gain.task, gain.slice_name) for gain in report.window_gains}
    level = policy.false_rejection_rate / max(1, sum(place in defined for place in places))
    for task, part in places:
        is_number = report.kind(task) == "number"
        yield Gate(
            name=f"windows/{task}" + ("" if part == ALL_TARGETS else f"/{part}"),
            test="guardrail",
            task=task,
            part=part,
            metrics=(report.primary(task),),
            baseline="reference window",
            tolerance=policy.max_rmse_rise if is_number else policy.max_window_loss,
            level=level,
        )


def cost_gate(budget: Budget | None) -> Gate:
    """Latency and memory of scoring within a budget; without one they are only reported."""
    metrics = ("latency_ms", "peak_memory_mib")
    largest = (inf, inf) if budget is None else (budget.latency_ms, budget.memory_mib)
    limits = {metric: (-inf, limit) for metric, limit in zip(metrics, largest, strict=True)}
    return Gate(name="cost", test="absolute", metrics=metrics, limits=limits)


def champion_gates(report: EvaluationReport, policy: GatePolicy, slices: list[str]) -> Iterator[Gate]:
    """Superiority on the gate task, and no loss elsewhere: in every task, and in those `slices` with enough users."""
    kind = report.kind(policy.task)
    superiority_metrics = ("rmse",) if kind == "number" else policy.superiority_metrics
    yield Gate(
        name="champion/superiority",
        test="superiority",
        task=policy.task,
        metrics=superiority_metrics,
        tolerance=policy.superiority_margin,
        level=policy.promotion_level(len(superiority_metrics)),
        required=True,
    )
    comparisons = sum(len(TASK_TESTS[report.kind(task)]) for task in report.tasks) + len(slices) * len(
        SLICE_TESTS[kind]
    )
    level = policy.false_rejection_rate / comparisons
    for task in report.tasks:
        for metric, (gate_task_test, other_test, tolerance) in TASK_TESTS[report.kind(task)].items():
            yield Gate(
                name=f"champion/{metric}/{task}",
                test=gate_task_test if task == policy.task else other_test,
                task=task,
                metrics=(metric,),
                tolerance=getattr(policy, tolerance),
                level=level,
                pass_level=policy.missed_regression_rate,
            )
    for part in slices:
        for metric, (protected_test, other_test, tolerance) in SLICE_TESTS[kind].items():
            yield Gate(
                name=f"slice/{metric}/{part}",
                test=protected_test if part in policy.protected_slices else other_test,
                task=policy.task,
                part=part,
                metrics=(metric,),
                tolerance=getattr(policy, tolerance),
                level=level,
                pass_level=policy.missed_regression_rate,
            )
