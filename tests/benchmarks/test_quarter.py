"""The quarter's machinery on few users: planted faults are stopped, the truth is known, and the page is written."""

import csv
from pathlib import Path

import pytest

from benchmarks.gates import quarter, world
from benchmarks.gates.quarter import POLICY, Planned, Step, auc, noise, plan, resolve_holds, should, walk
from benchmarks.gates.results import write
from benchmarks.gates.world import Day, Model, evaluate
from longreel.components.gates.decide import decide

USERS = 600
FAULTS = {
    17: "slice regression",
    24: "broken feature in training",
    33: "broken feature in the day",
    35: "logits that are no numbers",
    38: "labels shifted for three days",
    44: "long windows hurt",
    50: "too slow",
    78: "labels shifted for good, not learned yet",
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer replicates, and a truth measured on fewer users, kept apart from the benchmark's own."""
    monkeypatch.setattr(world, "DRAWS", 100)
    monkeypatch.setattr(world, "TRUE_USERS", 4_000)
    world.truth.cache_clear()


@pytest.fixture
def plans() -> list[Planned]:
    return plan(USERS)


def test_the_plan_is_ninety_days_with_every_event(plans: list[Planned]) -> None:
    assert len(plans) == quarter.DAYS == len({p.day.name for p in plans})
    assert {n: plans[n].event for n in FAULTS} == FAULTS
    assert all(plans[n].fault for n in FAULTS)
    healthy = {p.event for p in plans if not p.fault}
    assert {"real improvement", "retrained, no better", "the world moves: champion goes stale"} <= healthy


def test_gates_stop_every_planted_fault_and_say_which(plans: list[Planned]) -> None:
    """Each against a champion with the same settings and without the fault."""
    why = {17: "slice/auc/history<32", 24: "champion/auc", 33: "data", 35: "complete", 38: "calibration", 44: "windows"}
    why |= {50: "cost", 78: "calibration"}
    for n, event in FAULTS.items():
        planned = plans[n]
        champion = evaluate(Model("champion", 0.9, planned.candidate.drift), planned.day)
        decision = decide(evaluate(planned.candidate, planned.day), champion, POLICY)
        assert decision.outcome != "promote", event
        stopped = {gate.name for gate in decision.gates if gate.verdict != "pass"}
        assert any(name.startswith(why[n]) for name in stopped), (event, stopped)


def test_a_walk_promotes_the_first_and_lives_with_its_own_champion(plans: list[Planned], tmp_path: Path) -> None:
    few = [plans[n] for n in (0, 1, 24, 35, 50)]
    walks = {name: walk(name, few, evaluate) for name in quarter.RULES}
    by_gates, naive = walks["gates"], walks["AUC >= champion's"]
    assert by_gates[0].outcome == by_gates[0].should == "promote"
    assert [step.live.name for step in by_gates[2:]] == [by_gates[1].live.name] * 3
    assert naive[-1].live.name == "m50"  # too slow, which AUC does not show
    assert all(step.should == "keep" for step in by_gates[2:])
    assert all(step.decision is not None for step in by_gates)
    write(tmp_path, walks, [noise(USERS, 0.0, 2)], [resolve_holds(USERS, 0.5, 2)], USERS, POLICY, 1.0)
    page = (tmp_path / "results.md").read_text()
    assert "| too slow | 1 | 0 | 0 | 0 | 1 | 0 | 0 |" in page
    assert "| broken feature in training | 1 | 0 | 0 | 0 | 1 | 0 | 0 |" in page
    assert (tmp_path / "quarter.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "quarter.csv").open()))
    assert [row["gates: did"] for row in rows] == [step.outcome for step in by_gates]


def test_should_knows_the_truth(plans: list[Planned]) -> None:
    day = Day("2026-01-02", 1, USERS)
    better, worse = Model("better", 0.6), Model("worse", 0.9)
    assert should(Planned(day, better, "", ""), worse) == "promote"
    assert should(Planned(day, worse, "", ""), better) == "keep"
    assert should(Planned(day, better, "", "broken"), worse) == "keep"
    short = Model("short", 0.5, short_error=1.5)  # better for most, much worse for short histories
    assert should(Planned(day, short, "", ""), worse) == "keep"


def test_the_world_gives_equal_reports_to_equal_arguments_and_a_better_auc_to_a_smaller_error() -> None:
    day = Day("2026-01-02", 1, USERS)
    assert evaluate(Model("a", 0.9), day).digest() == evaluate(Model("a", 0.9), day).digest()
    assert auc(evaluate(Model("a", 0.1), day)) > auc(evaluate(Model("a", 1.5), day)) + 0.02
    kin = [auc(evaluate(Model(name, 0.9, kin=1.0), day)) for name in "ab"]
    assert kin[0] == pytest.approx(kin[1])  # all of their errors in common


def test_steps_that_are_wrong_or_missed_are_counted_so(plans: list[Planned]) -> None:
    from benchmarks.gates.results import _missed, _wrong

    steps = [
        Step(plans[0], outcome, expected, plans[0].candidate, None)
        for outcome, expected in (("promote", "keep"), ("hold", "promote"), ("reject", "keep"), ("promote", "promote"))
    ]
    assert (_wrong(steps), _missed(steps)) == (1, 1)
