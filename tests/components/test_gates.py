"""Every outcome of the gates, from reports whose truth is known."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from components.gates import decide, paired_difference
from contracts.config import GatePolicy
from contracts.decision import Decision, Gate
from contracts.errors import LongreelError
from contracts.report import Estimate, EvaluationReport

Report = Callable[..., EvaluationReport]
POLICY = GatePolicy()


def gate(decision: Decision, name: str) -> Gate:
    return next(g for g in decision.gates if g.name == name)


def with_estimate(
    report: EvaluationReport, task: str, window: int, metric: str, estimate: Estimate
) -> EvaluationReport:
    """The report with one number replaced."""
    rows = tuple(
        dataclasses.replace(row, **{metric: estimate})
        if (row.task, row.window, row.slice) == (task, window, "all")
        else row
        for row in report.rows
    )
    return dataclasses.replace(report, rows=rows)


def test_without_a_champion_the_floors_alone_promote(report: Report) -> None:
    decision = decide(report(), None, POLICY)
    assert decision.outcome == "promote"
    assert decision.champion_digest is None
    assert "no champion" in gate(decision, "champion").reason


def test_a_clear_gain_is_promoted_though_the_two_intervals_overlap(report: Report) -> None:
    candidate, champion = report(0.004), report(model="champion")
    ours, theirs = (r.row("click", 512).auc for r in (candidate, champion))
    assert ours.low is not None
    assert theirs.high is not None
    assert ours.low < theirs.high  # unpaired, this gain could not be told from noise
    decision = decide(candidate, champion, POLICY)
    assert decision.outcome == "promote"
    assert "+0.0040" in gate(decision, "champion/auc").reason


def test_a_tie_within_noise_is_held(report: Report) -> None:
    decision = decide(report(0.0005), report(model="champion"), POLICY)
    assert decision.outcome == "hold"
    assert gate(decision, "champion/auc").verdict == "hold"
    assert "not enough evidence" in decision.reasons[0]


def test_a_clear_loss_is_rejected(report: Report) -> None:
    decision = decide(report(-0.01), report(model="champion"), POLICY)
    assert decision.outcome == "reject"
    assert gate(decision, "champion/auc").verdict == "fail"


def test_a_loss_within_tolerance_is_held_not_rejected(report: Report) -> None:
    assert decide(report(-0.0015), report(model="champion"), POLICY).outcome == "hold"


def test_a_log_loss_rise_rejects_a_candidate_with_a_better_auc(report: Report) -> None:
    decision = decide(report(0.02, log_loss=0.55), report(model="champion"), POLICY)
    assert gate(decision, "champion/auc").verdict == "pass"
    assert gate(decision, "champion/log_loss/like").verdict == "fail"
    assert decision.outcome == "reject"


def test_the_champion_judged_against_itself_is_held(report: Report) -> None:
    decision = decide(report(), report(), POLICY)
    assert decision.outcome == "hold"
    assert "champion itself" in decision.reasons[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("metric", ["auc", "log_loss", "calibration"])
def test_a_number_that_is_not_finite_rejects(report: Report, metric: str, value: float) -> None:
    broken = with_estimate(report(), "like", 128, metric, Estimate(value=value, low=0.1, high=0.9))
    decision = decide(broken, report(model="champion"), POLICY)
    assert decision.outcome == "reject"
    assert f"{metric} of like at window 128 is not finite" in decision.reasons[0]


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


def test_a_missing_line_rejects(report: Report) -> None:
    whole = report()
    rows = tuple(r for r in whole.rows if (r.task, r.window, r.slice) != ("like", 128, "all"))
    decision = decide(dataclasses.replace(whole, rows=rows), None, POLICY)
    assert decision.outcome == "reject"
    assert "no line for like at window 128" in decision.reasons[0]


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
    champion = dataclasses.replace(report(model="champion"), **stale)  # type: ignore[arg-type]
    with pytest.raises(LongreelError, match="evaluate the champion again"):
        decide(report(), champion, POLICY)


def test_longer_windows_that_hurt_reject_even_without_a_champion(report: Report) -> None:
    decision = decide(report(by_window=(0.0, 0.02, 0.0)), None, POLICY)
    assert decision.outcome == "reject"
    assert "Reading 512 instead of 128" in gate(decision, "windows").reason


def test_longer_windows_that_may_hurt_hold(report: Report) -> None:
    noisy = report(by_window=(0.0, 0.02, 0.014), own_noise=0.01)
    assert decide(noisy, None, POLICY).outcome == "hold"


def test_a_floor_not_surely_passed_holds_and_one_missed_rejects(report: Report) -> None:
    assert gate(decide(report(), None, GatePolicy(min_auc=0.71)), "floor").verdict == "hold"
    assert gate(decide(report(), None, GatePolicy(min_auc=0.73)), "floor").verdict == "fail"


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, "pass"), (1.255, "hold"), (1.6, "fail"), (0.5, "fail")])
def test_calibration_outside_its_band(report: Report, ratio: float, verdict: str) -> None:
    decision = decide(report(calibration=ratio), None, POLICY)
    assert gate(decision, "calibration/click").verdict == verdict


def test_the_same_arguments_give_the_same_decision(report: Report) -> None:
    first, second = (decide(report(0.003), report(model="champion"), POLICY) for _ in range(2))
    assert first.digest() == second.digest()
    assert Decision.from_json(first.to_json()) == first
    stricter = decide(report(0.003), report(model="champion"), GatePolicy(min_auc=0.4))
    assert stricter.policy_digest != first.policy_digest
    assert stricter.digest() != first.digest()


def test_latency_does_not_change_a_decision(report: Report) -> None:
    slow = dataclasses.replace(report(), latency_ms=99.0, peak_memory_mib=1.0)
    assert decide(slow, None, POLICY).digest() == decide(report(), None, POLICY).digest()


def test_the_paired_interval_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(3)
    theirs = rng.normal(0.7, 0.05, 500)
    ours = theirs + rng.normal(0.01, 0.001, 500)
    made = [Estimate(value=float(d.mean()), low=0.0, high=1.0, draws=tuple(map(float, d))) for d in (ours, theirs)]
    gain = paired_difference(made[0], made[1], 0.9)
    by_hand = sorted(a - b for a, b in zip(ours, theirs, strict=True))
    assert gain.low == pytest.approx(by_hand[25], abs=2e-4)
    assert gain.high == pytest.approx(by_hand[474], abs=2e-4)
    assert gain.high - gain.low < 0.01
    with pytest.raises(LongreelError, match="cannot pair"):
        paired_difference(made[0], dataclasses.replace(made[1], draws=made[1].draws[:-1]), 0.9)
