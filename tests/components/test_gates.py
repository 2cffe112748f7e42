"""Gates: every outcome, from reports whose truth is known."""

import dataclasses
import json
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from longreel.components.gates.decide import decide
from longreel.components.gates.difference import POWER, Difference
from longreel.contracts.decision import STOPPING, Decision, GateResult
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import Budget, GatePolicy
from longreel.contracts.report import CHECKS, DataQuality, Estimate, EvaluationReport, WindowGain, paired_gain
from longreel.model.evaluation.bootstrap import bootstrap_weights

Report = Callable[..., EvaluationReport]
POLICY = GatePolicy()


def gate(decision: Decision, name: str) -> GateResult:
    return next(g for g in decision.gates if g.name == name)


def not_passed(decision: Decision) -> dict[str, str]:
    return {g.name: g.verdict for g in decision.gates if g.verdict in STOPPING}


def with_estimate(
    report: EvaluationReport, task: str, window: int, metric: str, estimate: Estimate, slice_name: str = "all"
) -> EvaluationReport:
    """The report with one number replaced."""
    rows = tuple(
        dataclasses.replace(row, **{metric: estimate})
        if (row.task, row.window, row.slice_name) == (task, window, slice_name)
        else row
        for row in report.rows
    )
    return dataclasses.replace(report, rows=rows)


# No champion, and a worse champion


def test_without_a_champion_the_absolute_gates_alone_promote(report: Report) -> None:
    decision = decide(report(), None, POLICY)
    assert decision.outcome == "promote"
    assert decision.champion_digest is None
    assert "no champion" in gate(decision, "champion").reason


def test_a_clear_gain_is_promoted_though_the_two_intervals_overlap(report: Report) -> None:
    candidate, champion = report(0.004), report(model="champion")
    ours, theirs = (r.row("click", 512).auc for r in (candidate, champion))
    assert ours.low < theirs.high  # type: ignore[operator]  # unpaired, this gain could not be distinguished from noise
    decision = decide(candidate, champion, POLICY)
    assert decision.outcome == "promote"
    assert "AUC of click is 0.0040 better" in gate(decision, "champion/superiority").reason


def test_better_log_loss_promotes_where_a_loss_of_auc_is_ruled_out(report: Report) -> None:
    decision = decide(report(log_loss=0.48), report(model="champion", own_noise=0.0001), POLICY)
    assert decision.outcome == "promote"
    assert "by log loss" in gate(decision, "champion/superiority").reason
    only_auc = dataclasses.replace(POLICY, superiority_metrics=("auc",))
    assert decide(report(log_loss=0.48), report(model="champion"), only_auc).outcome == "hold"


def test_better_log_loss_does_not_pay_for_a_worse_auc(report: Report) -> None:
    rows = tuple(
        dataclasses.replace(
            row, log_loss=dataclasses.replace(row.log_loss, value=0.4, draws=tuple(d - 0.1 for d in row.log_loss.draws))
        )
        for row in report(-0.004).rows
    )
    decision = decide(dataclasses.replace(report(-0.004), rows=rows), report(model="champion"), POLICY)
    assert gate(decision, "champion/superiority").verdict == "pass"
    assert decision.outcome != "promote"
    assert "champion/auc/click" in not_passed(decision)


# Ties, losses and required sample sizes


def test_a_tie_within_noise_is_held_and_names_the_required_sample_size(report: Report) -> None:
    decision = decide(report(0.001), report(model="champion"), POLICY)
    assert decision.outcome == "hold"
    better = gate(decision, "champion/superiority")
    assert better.verdict == "hold"
    assert "If the difference holds, about" in better.reason
    assert better.required_sample_factor is not None
    users = 200 * better.required_sample_factor
    assert f"({users:,.0f}) resolve it 80% of the time" in better.reason
    assert decision.required_sample_factor == better.required_sample_factor


def test_a_candidate_that_is_behind_names_no_required_sample_size(report: Report) -> None:
    better = gate(decide(report(-0.0005), report(model="champion"), POLICY), "champion/superiority")
    assert better.verdict == "hold"
    assert better.required_sample_factor is None
    assert "more users would not change that" in better.reason


@pytest.mark.parametrize(("loss", "side"), [(-0.006, "passes"), (-0.014, "fails")])
def test_the_required_sample_of_a_protected_slice_depends_on_its_side_of_the_tolerance(
    report: Report, loss: float, side: str
) -> None:
    """Within the tolerance the pass is what lacks evidence, beyond it the failure."""
    noisy = {"own_noise": 0.004}
    candidate = report(0.02, by_slice={"history<32": loss - 0.02}, **noisy)
    decision = decide(candidate, report(model="champion", **noisy), POLICY)
    held = gate(decision, "slice/auc/history<32")
    assert held.verdict == "hold"
    assert held.required_sample_factor is not None
    ours, theirs = (r.row("click", 512, "history<32") for r in (candidate, report(model="champion", **noisy)))
    gain = Difference.of("auc", ours.auc, theirs.auc, ours.users)
    places = 3 * len(candidate.tasks) + 2 * (len(candidate.slices) - 1)
    level = POLICY.missed_regression_rate if side == "passes" else POLICY.false_rejection_rate / places
    assert held.required_sample_factor == gain.required_sample_factor(-POLICY.slice_tolerance, level)
    assert held.required_sample_factor > 1


@pytest.mark.parametrize("gain", [0.0, 0.01])
def test_the_required_sample_resolves_a_hold_with_the_stated_power(gain: float) -> None:
    """Users of known spread, drawn 400 times; two hundred of them leave the comparison open."""
    spread, level, few, limit = 0.1, 0.025, 200, gain - 0.01
    factor = Difference(value=gain, sd=spread / math.sqrt(few), users=few).required_sample_factor(limit, level)
    assert factor == pytest.approx((1.96 + 0.8416) ** 2 / 2, rel=1e-3)  # the gap is sqrt(2) standard deviations
    assert factor is not None
    users, rng, settled = round(factor * few), np.random.default_rng(5), 0
    weights = bootstrap_weights(users, 200, 0).astype(np.float64) / users
    for _ in range(400):
        ours, theirs = rng.normal(gain, spread / math.sqrt(2), users), rng.normal(0, spread / math.sqrt(2), users)
        estimates = [Estimate(value=float(x.mean()), low=0, high=0, draws=tuple(weights @ x)) for x in (ours, theirs)]
        settled += Difference.of("auc", estimates[0], estimates[1], users).low(level) > limit
    assert settled / 400 == pytest.approx(POWER, abs=0.05)  # 2.5 standard deviations


def test_a_difference_on_the_limit_has_no_required_sample_size() -> None:
    assert Difference(value=0.002, sd=0.004, users=100).required_sample_factor(0.002, 0.025) is None


def test_a_clear_loss_is_rejected(report: Report) -> None:
    decision = decide(report(-0.01), report(model="champion"), POLICY)
    assert decision.outcome == "reject"
    assert gate(decision, "champion/auc/click").verdict == "fail"


def test_a_loss_within_tolerance_is_held_not_rejected(report: Report) -> None:
    assert decide(report(-0.0015), report(model="champion"), POLICY).outcome == "hold"


def test_a_log_loss_rise_rejects_a_candidate_with_a_better_auc(report: Report) -> None:
    decision = decide(report(0.02, log_loss=0.55), report(model="champion"), POLICY)
    assert gate(decision, "champion/superiority").verdict == "pass"
    assert gate(decision, "champion/log_loss/like").verdict == "fail"
    assert decision.outcome == "reject"


def test_the_champion_compared_with_itself_is_held(report: Report) -> None:
    decision = decide(report(), report(), POLICY)
    assert decision.outcome == "hold"
    assert "champion itself" in decision.reasons[0]


def test_too_few_users_hold_the_candidate(report: Report) -> None:
    careful = dataclasses.replace(POLICY, min_users=1_000)
    decision = decide(report(0.05), report(model="champion"), careful)
    assert decision.outcome == "hold"
    assert gate(decision, "champion/superiority").required_sample_factor == 5
    assert "fewer users than the 1,000" in decision.reasons[0]


@pytest.mark.parametrize("few", [{}, {"calibration": 9.0}, {"by_window": (-0.4, -0.4, -0.4)}], ids=str)
def test_too_few_users_make_no_first_champion_and_reject_no_candidate(report: Report, few: dict[str, Any]) -> None:
    decision = decide(report(**few), None, dataclasses.replace(POLICY, min_users=1_000))
    assert decision.outcome == "hold"
    assert not_passed(decision) == {"min_auc": "hold"}
    assert decision.required_sample_factor == 5
    assert "calibration/click" in decision.not_evaluated


# Slices


def test_a_slice_that_regresses_rejects_a_candidate_that_is_better_on_the_whole(report: Report) -> None:
    champion = report(model="champion")
    for name in ("history<32", "history>=32", "surface=0"):
        decision = decide(report(0.01, by_slice={name: -0.04}), champion, POLICY)
        assert decision.outcome == "reject"
        assert not_passed(decision) == {f"slice/auc/{name}": "fail"}
        assert f"in slice {name}" in decision.reasons[0]


def test_a_loss_in_a_protected_slice_must_be_ruled_out_and_is_only_a_guardrail_in_other_slices(report: Report) -> None:
    champion = report(model="champion")
    loss = -0.01 - 0.0095  # within the tolerance, but not surely
    assert not_passed(decide(report(0.01, by_slice={"history<32": loss}), champion, POLICY)) == {
        "slice/auc/history<32": "hold"
    }
    assert decide(report(0.01, by_slice={"history>=32": loss}), champion, POLICY).outcome == "promote"


def test_a_guardrail_does_not_stop_a_candidate_for_a_loss_that_may_be_noise(report: Report) -> None:
    champion = report(model="champion", own_noise=0.004)
    candidate = report(0.02, own_noise=0.004, by_slice={"history>=32": -0.02 - 0.012})  # two standard deviations
    decision = decide(candidate, champion, POLICY)
    assert decision.outcome == "promote"
    assert "not a significant loss" in gate(decision, "slice/auc/history>=32").reason
    sure = report(0.02, own_noise=0.0015, by_slice={"history>=32": -0.02 - 0.012})
    assert not_passed(decide(sure, report(model="champion", own_noise=0.0015), POLICY)) == {
        "slice/auc/history>=32": "hold"
    }


def test_a_missing_slice_rejects(report: Report) -> None:
    whole = report(0.01)
    rows = tuple(r for r in whole.rows if (r.task, r.window, r.slice_name) != ("like", 128, "new users"))
    decision = decide(dataclasses.replace(whole, rows=rows), None, POLICY)
    assert decision.outcome == "reject"
    assert "no row for like at window 128, slice new users" in decision.reasons[0]


def test_a_slice_that_only_the_champion_has_or_that_the_policy_names_rejects(report: Report) -> None:
    whole = report(0.01)
    for name, reason in (("new users", "which the champion's report"), ("history<32", "which the policy requires")):
        rows = tuple(r for r in whole.rows if r.slice_name != name)
        less = dataclasses.replace(whole, rows=rows, slices=tuple(s for s in whole.slices if s != name))
        decision = decide(less, report(model="champion"), POLICY)
        assert decision.outcome == "reject"
        assert f"lacks the slice {name}, {reason}" in decision.reasons[0]


def test_a_slice_by_a_field_that_one_of_the_models_does_not_know_is_not_evaluated(report: Report) -> None:
    """Adding a field to the log schema, or removing one, does not make the next candidate unusable."""

    def without(whole: EvaluationReport, name: str) -> EvaluationReport:
        rows = tuple(r for r in whole.rows if r.slice_name != name)
        gains = tuple(g for g in whole.window_gains if g.slice_name != name)
        slices = tuple(s for s in whole.slices if s != name)
        return dataclasses.replace(whole, rows=rows, slices=slices, window_gains=gains)

    added = decide(report(0.01), without(report(model="champion"), "surface=0"), POLICY)
    assert added.outcome == "promote"
    assert "champion's log schema does not declare its field" in gate(added, "slice/surface=0").reason
    removed = decide(without(report(0.01), "surface=0"), report(model="champion"), POLICY)
    assert removed.outcome == "promote"
    assert not any("surface" in g.name for g in removed.gates)


def test_a_protected_category_that_is_rare_on_a_day_is_not_evaluated_and_one_of_no_field_rejects(
    report: Report,
) -> None:
    champion = report(model="champion")
    rare = decide(report(0.01), champion, dataclasses.replace(POLICY, protected_slices=("surface=7",)))
    assert rare.outcome == "promote"
    assert "slice/surface=7" in rare.not_evaluated
    wrong = decide(report(0.01), champion, dataclasses.replace(POLICY, protected_slices=("surfaces=0",)))
    assert "it lacks the slice surfaces=0, which the policy requires" in wrong.reasons[0]


def test_an_empty_slice_is_named_and_not_evaluated(report: Report) -> None:
    nothing = Estimate(value=None, low=None, high=None)

    def emptied(whole: EvaluationReport) -> EvaluationReport:
        empty = {"users": 0, "requests": 0, "targets": 0, "positives": 0, "auc": nothing, "gauc": nothing}
        empty |= {"log_loss": nothing, "calibration": nothing, "ece": nothing}
        rows = tuple(dataclasses.replace(r, **empty) if r.slice_name == "new users" else r for r in whole.rows)
        return dataclasses.replace(whole, rows=rows)

    decision = decide(emptied(report(0.01)), emptied(report(model="champion")), POLICY)
    assert decision.outcome == "promote"
    empty = gate(decision, "slice/new users")
    assert (empty.verdict, "was not evaluated: 0 users" in empty.reason) == ("not_evaluated", True)
    assert "slice/new users" in decision.not_evaluated
    stopped = decide(emptied(report(-0.01)), emptied(report(model="champion")), POLICY)
    assert stopped.outcome == "reject"
    assert not any("not evaluated" in reason for reason in stopped.reasons)


def with_users(whole: EvaluationReport, name: str, users: int) -> EvaluationReport:
    """The report with another number of users in a slice."""
    rows = tuple(dataclasses.replace(r, users=users) if r.slice_name == name else r for r in whole.rows)
    return dataclasses.replace(whole, rows=rows)


def test_a_slice_of_few_users_is_not_evaluated_protected_or_not(report: Report) -> None:
    """99 users prove neither a loss nor its absence."""
    ours = with_users(report(0.01, by_slice={"history<32": -0.2}), "history<32", 99)
    ours = dataclasses.replace(ours, window_gains=tuple(_window_loss(g) for g in ours.window_gains))
    decision = decide(ours, report(model="champion"), POLICY)
    assert decision.outcome == "promote"
    names = {g.name for g in decision.gates if g.verdict == "not_evaluated"}
    assert names == {"slice/history<32", "windows/click/history<32"}
    assert all(name in decision.not_evaluated for name in names)
    assert "which the policy protects, was not evaluated: 99 users" in gate(decision, "slice/history<32").reason
    enough = with_users(ours, "history<32", 100)
    assert decide(enough, report(model="champion"), POLICY).outcome == "reject"


def _window_loss(gain: WindowGain) -> WindowGain:
    lost = Estimate(value=-0.03, low=-0.032, high=-0.028)
    return dataclasses.replace(gain, gain=lost) if gain.slice_name == "history<32" else gain


def test_a_model_that_separates_users_better_and_their_items_worse_is_rejected(report: Report) -> None:
    """AUC over all users rises if a model knows who clicks much; GAUC measures the order within a user."""
    ours = report(0.01)
    worse = [dataclasses.replace(r, gauc=o.gauc) for r, o in zip(ours.rows, report(-0.01).rows, strict=True)]
    decision = decide(dataclasses.replace(ours, rows=tuple(worse)), report(model="champion"), POLICY)
    assert gate(decision, "champion/superiority").verdict == "pass"
    assert not_passed(decision) == {"champion/gauc/click": "fail", "champion/gauc/like": "fail"}


def test_a_slice_with_wrong_rates_rejects_though_it_is_ranked_well(report: Report) -> None:
    ours = report(0.01)
    wrong = [
        dataclasses.replace(r, log_loss=o.log_loss) if r.slice_name == "new users" else r
        for r, o in zip(ours.rows, report(0.01, log_loss=0.55).rows, strict=True)
    ]
    decision = decide(dataclasses.replace(ours, rows=tuple(wrong)), report(model="champion"), POLICY)
    assert not_passed(decision) == {"slice/log_loss/new users": "fail"}


# Windows, calibration, cost, data, consistency


def test_a_long_window_that_costs_accuracy_rejects(report: Report) -> None:
    decision = decide(report(by_window=(0.0, 0.02, -0.02)), None, POLICY)
    assert decision.outcome == "reject"
    assert gate(decision, "windows/click").verdict == "fail"
    assert decide(report(windows=(32, 128), by_window=(0.0, 0.02)), None, POLICY).outcome == "promote"


def test_an_undefined_window_gain_is_not_evaluated(report: Report) -> None:
    """For example, of a task with so few positives that a replicate has none."""
    whole = report()
    missing = {("like", "all"), ("click", "new users")}
    gains = tuple(g for g in whole.window_gains if (g.task, g.slice_name) not in missing)
    decision = decide(dataclasses.replace(whole, window_gains=gains), None, POLICY)
    assert decision.outcome == "promote"
    assert {g.name for g in decision.gates if g.verdict == "not_evaluated"} == {
        "windows/like",
        "windows/click/new users",
    }


def test_a_long_window_that_costs_one_slice_accuracy_rejects(report: Report) -> None:
    whole = report(0.01)
    gains = tuple(
        dataclasses.replace(g, gain=Estimate(value=-0.03, low=-0.032, high=-0.028))
        if (g.task, g.slice_name) == ("click", "history>=32")
        else g
        for g in whole.window_gains
    )
    decision = decide(dataclasses.replace(whole, window_gains=gains), None, POLICY)
    assert not_passed(decision) == {"windows/click/history>=32": "fail"}


@pytest.mark.parametrize(("ratio", "outcome"), [(1.0, "promote"), (1.255, "hold"), (1.4, "reject"), (0.7, "reject")])
def test_calibration_out_of_bounds(report: Report, ratio: float, outcome: str) -> None:
    assert decide(report(calibration=ratio), None, POLICY).outcome == outcome


@pytest.mark.parametrize(("ece", "outcome"), [(0.03, "promote"), (0.06, "hold"), (0.1, "reject")])
def test_calibration_error_out_of_bounds(report: Report, ece: float, outcome: str) -> None:
    decision = decide(report(ece=ece), None, POLICY)
    assert decision.outcome == outcome
    assert (outcome == "promote") != (
        ": the expected calibration error is" in gate(decision, "calibration/like").reason
    )


def test_wrong_rates_are_shown_next_to_the_champions_of_the_same_day(report: Report) -> None:
    """They show whether the model or the day changed."""
    decision = decide(report(0.01, calibration=1.4), report(model="champion", calibration=1.39), POLICY)
    reason = gate(decision, "calibration/click").reason
    assert "the predicted over observed rate is outside. The champion's values on the same day are 1.390" in reason


@pytest.mark.parametrize(("auc", "outcome"), [(0.0, "promote"), (-0.21, "hold"), (-0.25, "reject")])
def test_auc_near_or_below_its_minimum(report: Report, auc: float, outcome: str) -> None:
    assert decide(report(auc), None, POLICY).outcome == outcome


@pytest.mark.parametrize(
    ("budget", "outcome", "reason"),
    [
        (Budget(device="H200", latency_ms=2.1, memory_mib=1_000), "promote", "allowed up to 2.1 ms"),
        (Budget(device="H200", latency_ms=1.95, memory_mib=1_000), "hold", "Repeat the measurement"),
        (Budget(device="H200", latency_ms=1.5, memory_mib=1_000), "reject", "2.0 ms"),
        (Budget(device="H200", latency_ms=2.1, memory_mib=800), "reject", "900 MiB"),
        (
            Budget(device="H100", latency_ms=9.0, memory_mib=9_000),
            "hold",
            "no budget for NVIDIA H200, only for H100: add one",
        ),
    ],
)
def test_the_cost_on_a_device_must_fit_its_budget(report: Report, budget: Budget, outcome: str, reason: str) -> None:
    decision = decide(report(), None, dataclasses.replace(POLICY, budgets=(budget,)))
    assert decision.outcome == outcome
    assert reason in gate(decision, "cost").reason


def test_of_several_budgets_the_first_that_fits_the_device_counts(report: Report) -> None:
    exact, wide = (
        Budget(device="H200", latency_ms=9.0, memory_mib=950),
        Budget(device="NVIDIA", latency_ms=1, memory_mib=1),
    )
    assert decide(report(), None, dataclasses.replace(POLICY, budgets=(exact, wide))).outcome == "promote"
    assert decide(report(), None, dataclasses.replace(POLICY, budgets=(wide, exact))).outcome == "reject"


def test_a_data_warning_holds_unless_the_policy_allows_it(report: Report) -> None:
    warned = report(quality=DataQuality(passed=True, warnings=("like rate: got [0.2]",)))
    assert not_passed(decide(warned, None, POLICY)) == {"data": "hold"}
    assert "like rate" in gate(decide(warned, None, POLICY), "data").reason
    assert decide(warned, None, dataclasses.replace(POLICY, hold_on_data_warning=False)).outcome == "promote"
    failed = report(quality=DataQuality(passed=False))
    assert not_passed(decide(failed, None, POLICY)) == {"data": "fail"}


@pytest.mark.parametrize("largest", [0.01, float("nan"), float("inf")])
def test_logits_that_do_not_agree_reject(report: Report, largest: float) -> None:
    whole = report()
    broken = dataclasses.replace(whole, consistency=(dataclasses.replace(whole.consistency[0], largest=largest),))
    assert not_passed(decide(broken, None, POLICY)) == {"consistency": "fail"}


@pytest.mark.parametrize("name", CHECKS)
def test_logits_that_were_not_compared_hold_with_advice(report: Report, name: str) -> None:
    whole = report()
    less = dataclasses.replace(whole, consistency=tuple(check for check in whole.consistency if check.name != name))
    decision = decide(less, None, POLICY)
    assert not_passed(decision) == {"consistency": "hold"}
    assert f"not compared with {name}: evaluate a registered version" in decision.reasons[0]


@pytest.mark.parametrize("missing", [{"scoring": None}, {"consistency": ()}, {"quality": None}, {"window_gains": ()}])
def test_an_incomplete_report_rejects(report: Report, missing: dict[str, object]) -> None:
    decision = decide(report(**missing), None, POLICY)
    assert decision.outcome == "reject"
    assert "it lacks" in decision.reasons[0]


# Numbers that are not finite, and reports that do not fit


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("metric", ["auc", "log_loss", "calibration", "ece"])
def test_a_number_that_is_not_finite_rejects(report: Report, metric: str, value: float) -> None:
    broken = with_estimate(report(), "like", 128, metric, Estimate(value=value, low=0.1, high=0.9))
    decision = decide(broken, report(model="champion"), POLICY)
    assert decision.outcome == "reject"
    assert f"{metric} of like at window 128, slice all is not finite" in decision.reasons[0]


def test_a_draw_that_is_not_finite_rejects(report: Report) -> None:
    good = report().row("click", 512).auc
    bad = dataclasses.replace(good, draws=(float("nan"), *good.draws[1:]))
    assert decide(with_estimate(report(), "click", 512, "auc", bad), None, POLICY).outcome == "reject"


def test_an_undefined_gate_metric_rejects_and_another_task_is_only_mentioned(report: Report) -> None:
    undefined = Estimate(value=None, low=None, high=None)
    assert decide(with_estimate(report(), "click", 512, "auc", undefined), None, POLICY).outcome == "reject"
    other = decide(with_estimate(report(), "like", 512, "auc", undefined), None, POLICY)
    assert other.outcome == "promote"
    assert "AUC of like is undefined" in gate(other, "complete").reason


@pytest.mark.parametrize(("positives", "words"), [(0, "None"), (2_000, "Every one")])
def test_a_day_with_labels_of_one_class_holds_and_says_so(report: Report, positives: int, words: str) -> None:
    """The AUC is undefined for any model, and evaluating again would not help."""
    undefined, day = Estimate(value=None, low=None, high=None), report()
    rows = tuple(
        dataclasses.replace(row, positives=positives, auc=undefined, gauc=undefined) if row.task == "click" else row
        for row in day.rows
    )
    gains = tuple(gain for gain in day.window_gains if gain.task != "click")
    decision = decide(dataclasses.replace(day, rows=rows, window_gains=gains), report(model="champion"), POLICY)
    assert decision.outcome == "hold"
    (reason,) = decision.reasons
    assert f"{words} of the 2,000 targets of 2026-01-03 is positive for click, so AUC" in reason
    assert "correct it and ingest the day again; otherwise evaluate on another day" in reason
    assert "Evaluate the candidate again" not in reason


def test_log_loss_that_is_undefined_though_there_are_targets_rejects(report: Report) -> None:
    """As a NaN logit leaves it."""
    undefined = Estimate(value=None, low=None, high=None)
    decision = decide(with_estimate(report(), "like", 32, "log_loss", undefined, "surface=0"), None, POLICY)
    assert decision.outcome == "reject"


def test_a_broken_champion_report_holds(report: Report) -> None:
    champion = with_estimate(
        report(model="champion"), "click", 512, "auc", Estimate(value=float("nan"), low=0.1, high=0.9)
    )
    decision = decide(report(0.05), champion, POLICY)
    assert decision.outcome == "hold"
    assert "champion's own report" in decision.reasons[0]


@pytest.mark.parametrize(
    "stale",
    [
        {"data_digest": "other"},
        {"bootstrap_seed": 1},
        {"bootstrap_draws": 100},
        {"date": "2026-01-02"},
        {"tasks": ("like", "click")},
    ],
)
def test_a_stale_champion_report_is_refused(report: Report, stale: dict[str, object]) -> None:
    with pytest.raises(LongreelError, match=r"stale: its .*`longreel model evaluate --champion`"):
        decide(report(), report(model="champion", **stale), POLICY)


# A decision is a function of its arguments


def test_the_same_arguments_give_the_same_decision_and_another_policy_another(report: Report) -> None:
    first, again = (decide(report(0.003), report(model="champion"), POLICY) for _ in range(2))
    assert first == again
    assert first.digest() == again.digest()
    assert Decision.from_json(first.to_json()) == first
    stricter = decide(report(0.003), report(model="champion"), dataclasses.replace(POLICY, superiority_margin=0.01))
    assert (first.outcome, stricter.outcome) == ("promote", "hold")
    assert stricter.policy_digest != first.policy_digest
    renamed = decide(report(0.003), report(model="champion"), dataclasses.replace(POLICY, version="2"))
    assert renamed.outcome == first.outcome
    assert (renamed.policy_version, renamed.digest() != first.digest()) == ("2", True)


def test_cost_that_changes_no_verdict_does_not_change_a_decisions_digest(report: Report) -> None:
    slow = dataclasses.replace(report(), scoring=dataclasses.replace(report().scoring, latency_ms=99.0))  # type: ignore[type-var]
    assert decide(slow, None, POLICY).digest() == decide(report(), None, POLICY).digest()


def test_reasons_are_of_the_gates_that_stopped_it_failures_first(report: Report) -> None:
    decision = decide(report(-0.01, calibration=1.255), report(model="champion"), POLICY)
    stopped = not_passed(decision)
    assert decision.outcome == "reject"
    assert len(decision.reasons) == len(stopped) > 3
    verdicts = [next(g.verdict for g in decision.gates if g.reason == reason) for reason in decision.reasons]
    assert verdicts == sorted(verdicts, key=lambda v: v != "fail")


# Statistics


def test_the_paired_interval_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(3)
    theirs = rng.normal(0.7, 0.05, 500)
    ours = theirs + rng.normal(0.01, 0.001, 500)
    estimates = [Estimate(value=float(d.mean()), low=0.0, high=1.0, draws=tuple(map(float, d))) for d in (ours, theirs)]
    gain = paired_gain("auc", estimates[0], estimates[1], 0.9)
    by_hand = sorted(a - b for a, b in zip(ours, theirs, strict=True))
    assert gain.low == pytest.approx(by_hand[25], abs=2e-4)
    assert gain.high == pytest.approx(by_hand[474], abs=2e-4)
    assert gain.high - gain.low < 0.01
    with pytest.raises(LongreelError, match="cannot pair"):
        paired_gain("auc", estimates[0], dataclasses.replace(estimates[1], draws=estimates[1].draws[:-1]), 0.9)


def test_a_differences_bounds_are_those_of_its_own_draws_and_turned_so_that_more_is_better() -> None:
    rng = np.random.default_rng(4)
    theirs = rng.normal(0.5, 0.05, 4_000)
    ours = theirs + rng.normal(-0.01, 0.002, 4_000)
    estimates = [Estimate(value=float(d.mean()), low=0.0, high=1.0, draws=tuple(map(float, d))) for d in (ours, theirs)]
    gain = Difference.of("log_loss", estimates[0], estimates[1], 1_000_000)
    assert gain.value == pytest.approx(0.01, abs=2e-4)
    assert gain.low(0.05) == pytest.approx(np.quantile(theirs - ours, 0.05), abs=2e-4)
    assert gain.high(0.05) == pytest.approx(np.quantile(theirs - ours, 0.95), abs=2e-4)
    z = NormalDist().inv_cdf(0.975)
    kept = Difference.within(Estimate(value=0.0, low=-z, high=z), 0.95, 101)
    assert kept is not None
    assert kept.sd == pytest.approx(math.sqrt(101 / 100))


# Tasks that predict a number

SPENT: dict[str, Any] = {"tasks": ("spent", "click"), "number_tasks": ("spent",), "by_window": (0.0, 0.02, 0.04)}
SPENT_POLICY = dataclasses.replace(POLICY, task="spent")


def test_a_number_gate_task_promotes_by_the_share_of_rmse_that_it_saves(report: Report) -> None:
    decision = decide(report(0.01, **SPENT), report(model="champion", **SPENT), SPENT_POLICY)
    assert decision.outcome == "promote"
    names = {g.name for g in decision.gates if g.group in ("min_r2", "champion", "windows", "slice")}
    assert {"min_r2", "champion/rmse/spent", "champion/auc/click", "windows/spent", "slice/rmse/history<32"} <= names
    assert not any("auc/spent" in name or "slice/auc" in name for name in names)
    # RMSE falls from 3 x .96 to 3 x .95
    assert "RMSE of spent is 1.04% better" in gate(decision, "champion/superiority").reason
    assert "a loss above 1.00% is ruled out" in gate(decision, "champion/rmse/spent").reason
    assert "predicted over observed mean is 1.000" in gate(decision, "calibration/spent").reason
    assert "calibration error" not in gate(decision, "calibration/spent").reason


def test_superiority_by_one_metric_is_tested_at_the_whole_rate_and_by_two_at_half_of_it(report: Report) -> None:
    number = decide(report(**SPENT), report(model="champion", **SPENT), SPENT_POLICY)
    assert "(90% interval" in gate(number, "champion/superiority").reason
    assert "(95% interval" in gate(decide(report(), report(model="champion"), POLICY), "champion/superiority").reason


@pytest.mark.parametrize(("gain", "outcome"), [(0.0, "hold"), (-0.03, "reject")])
def test_a_number_gate_task_that_gains_nothing_is_held_and_one_that_loses_is_rejected(
    report: Report, gain: float, outcome: str
) -> None:
    decision = decide(report(gain, **SPENT), report(model="champion", **SPENT), SPENT_POLICY)
    assert decision.outcome == outcome
    assert (gate(decision, "champion/rmse/spent").verdict == "fail") == (outcome == "reject")


def test_another_task_that_predicts_a_number_is_a_guardrail(report: Report) -> None:
    def worse(rise: float) -> Decision:
        ours, lost = report(0.01, **SPENT), report(-rise, **SPENT)
        rows = (dataclasses.replace(o, rmse=r.rmse) for o, r in zip(ours.rows, lost.rows, strict=True))
        return decide(dataclasses.replace(ours, rows=tuple(rows)), report(model="champion", **SPENT), POLICY)

    assert not_passed(worse(0.03)) == {"champion/rmse/spent": "fail"}
    assert worse(0.005).outcome == "promote"
    assert "within the tolerated loss of 1.00%" in gate(worse(0.005), "champion/rmse/spent").reason


def test_a_long_window_or_a_slice_that_raises_rmse_rejects(report: Report) -> None:
    lost = decide(report(**SPENT | {"by_window": (0.0, 0.04, 0.0)}), None, SPENT_POLICY)
    assert gate(lost, "windows/spent").verdict == "fail"
    sliced = report(0.05, by_slice={"surface=0": -0.1}, **SPENT)
    decision = decide(sliced, report(model="champion", **SPENT), SPENT_POLICY)
    assert not_passed(decision) == {"slice/rmse/surface=0": "fail"}


def test_a_first_champion_of_a_number_task_beats_the_mean_label(report: Report) -> None:
    assert not_passed(decide(report(r2=-0.1, **SPENT), None, SPENT_POLICY)) == {"min_r2": "fail"}
    assert decide(report(r2=0.1, **SPENT), None, SPENT_POLICY).outcome == "promote"


def test_a_mean_label_near_zero_has_no_calibration_and_stops_nothing(report: Report) -> None:
    nothing = Estimate(value=None, low=None, high=None)
    decision = decide(with_estimate(report(**SPENT), "spent", 512, "calibration", nothing), None, SPENT_POLICY)
    assert decision.outcome == "promote"
    reason = gate(decision, "calibration/spent").reason
    assert "Calibration of spent was not evaluated: 200 users, 2,000 targets with a label; its mean label" in reason
    wrong = decide(report(calibration=1.4, **SPENT), None, SPENT_POLICY)
    assert gate(wrong, "calibration/spent").verdict == "fail"


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
def test_a_number_metric_that_is_not_finite_rejects(report: Report, metric: str) -> None:
    estimate = Estimate(value=float("nan"), low=0.1, high=0.9)
    decision = decide(with_estimate(report(**SPENT), "spent", 128, metric, estimate), None, SPENT_POLICY)
    assert decision.outcome == "reject"
    assert f"{metric} of spent at window 128, slice all is not finite" in decision.reasons[0]


def test_an_rmse_that_is_undefined_though_there_are_targets_rejects(report: Report) -> None:
    nothing = Estimate(value=None, low=None, high=None)
    broken = with_estimate(report(**SPENT), "spent", 32, "rmse", nothing, "surface=0")
    assert decide(broken, None, POLICY).outcome == "reject"


def test_a_task_that_was_binary_for_the_champion_is_not_compared(report: Report) -> None:
    with pytest.raises(LongreelError, match="stale: its number_tasks"):
        decide(report(**SPENT), report(model="champion", tasks=("spent", "click")), POLICY)


def test_a_report_stores_the_metrics_of_each_tasks_kind_and_no_others(report: Report) -> None:
    whole = report(**SPENT)
    rows = json.loads(whole.to_json())["rows"]
    assert {frozenset(row) & {"auc", "rmse", "calibration"} for row in rows if row["task"] == "spent"} == {
        frozenset({"rmse", "calibration"})
    }
    assert not any({"rmse", "mae", "r2"} & set(row) for row in rows if row["task"] == "click")
    assert EvaluationReport.from_json(whole.to_json()) == whole


def test_the_gain_of_a_number_task_is_the_paired_share_of_rmse(report: Report) -> None:
    ours, theirs = report(0.05, **SPENT), report(model="champion", **SPENT)
    gain, a, b = ours.gain(theirs, "spent", 512), ours.row("spent", 512).rmse, theirs.row("spent", 512).rmse
    assert gain.value == pytest.approx(0.05 / 0.96)
    assert gain.draws == pytest.approx(1 - np.array(a.draws) / np.array(b.draws), abs=1e-8)
    perfect = dataclasses.replace(b, value=0.0, low=0.0, high=0.0, draws=(0.0,) * 200)
    with pytest.raises(LongreelError, match="RMSE of 0 cannot be improved"):
        paired_gain("rmse", a, perfect, 0.95)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_on_reading(report: Report, number: str) -> None:
    text = report().to_json()
    draw = text.replace('"draws": "', f'"draws": "{number} ', 1)
    for changed in (text.replace('"latency_ms": 2.0', f'"latency_ms": {number}'), draw):
        assert changed != text
        with pytest.raises(LongreelError, match="expected finite numbers"):
            EvaluationReport.from_json(changed)
    decision = decide(report(), None, POLICY).to_json()
    changed = decision.replace('"required_sample_factor": null', f'"required_sample_factor": {number}', 1)
    assert changed != decision
    with pytest.raises(LongreelError, match="expected finite numbers"):
        Decision.from_json(changed)
