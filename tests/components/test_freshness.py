"""Freshness policy: when a training is due, and when a day is rejected."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import pytest

from longreel.cli import main
from longreel.components import should_retrain as should_retrain_command
from longreel.components.freshness import FreshnessState, require_recent, should_retrain
from longreel.components.should_retrain import NOT_DUE, today
from longreel.contracts.config import RetrainPolicy
from longreel.contracts.errors import LongreelError
from longreel.lake.home import CONFIG_FILE, Home

POLICY = RetrainPolicy(min_train_days=3, every_new_days=2)
DAYS = [date(2026, 1, 1) + timedelta(days=i) for i in range(8)]
TODAY = DAYS[7] + timedelta(days=1)


def state(published: list[date], last_evaluated: date | None = None, **more: object) -> FreshnessState:
    return replace(FreshnessState(published=frozenset(published), today=TODAY, last_evaluated=last_evaluated), **more)


@pytest.mark.parametrize(
    ("day", "published", "last_evaluated", "expected", "reason"),
    [
        (DAYS[3], DAYS[:3], None, False, "not published"),
        (DAYS[2], DAYS[:3], None, False, "2 published days lie before"),
        (DAYS[3], DAYS[:4], None, True, "No candidate was ever evaluated"),
        (DAYS[4], DAYS[:5], DAYS[3], False, "1 new published day since"),
        (DAYS[5], DAYS[:6], DAYS[3], True, "2 new published days since"),
        (DAYS[5], [*DAYS[:4], DAYS[5]], DAYS[3], False, "1 new published day since"),  # DAYS[4] never came
        (DAYS[4], DAYS, DAYS[6], False, "a rebuild or a backfill"),
        (DAYS[6], DAYS, DAYS[6], False, "a rebuild or a backfill"),
        (DAYS[3], [], None, False, "not published"),
    ],
)
def test_the_policy_counts_published_days(
    day: date, published: list[date], last_evaluated: date | None, expected: bool, reason: str
) -> None:
    answer = should_retrain(day, state(published, last_evaluated), POLICY)
    assert answer.is_due is expected
    assert reason in answer.reason


def test_only_the_newest_day_is_trained_for_unless_a_log_is_replayed() -> None:
    """Ten days that come at once are one training, for the newest; a replayed log is evaluated day by day."""
    answer = should_retrain(DAYS[5], state(DAYS, DAYS[3]), POLICY)
    assert not answer.is_due
    assert f"only the newest, {DAYS[7]}, is trained for" in answer.reason
    assert should_retrain(DAYS[7], state(DAYS, DAYS[3]), POLICY).is_due
    replay = replace(POLICY, replay=True)
    assert should_retrain(DAYS[5], state(DAYS, DAYS[3]), replay).is_due
    assert not should_retrain(
        DAYS[4], state(DAYS, DAYS[3]), replay
    ).is_due  # days after the asked one are not new to it


def test_an_old_champion_starts_a_training_before_enough_new_days() -> None:
    policy = replace(POLICY, every_new_days=9, max_champion_age_days=4)
    assert not should_retrain(DAYS[6], state(DAYS[:7], DAYS[3], watermark=DAYS[2]), policy).is_due  # 4 days
    answer = should_retrain(DAYS[7], state(DAYS, DAYS[3], watermark=DAYS[2]), policy)
    assert answer.is_due
    assert f"trained through {DAYS[2]}, 5 days before {DAYS[7]}; the policy allows 4" in answer.reason
    assert not should_retrain(
        DAYS[7], state(DAYS, DAYS[3], watermark=DAYS[2]), replace(policy, max_champion_age_days=0)
    ).is_due
    assert not should_retrain(
        DAYS[7], state(DAYS, DAYS[7], watermark=DAYS[2]), policy
    ).is_due  # this day was evaluated already


def test_a_warned_day_starts_a_training_once_a_later_day_can_evaluate_it() -> None:
    policy = replace(POLICY, every_new_days=9)

    def is_due(day: date, last_evaluated: date, warned: date) -> bool:
        state_now = state([d for d in DAYS if d <= day], last_evaluated, warned=frozenset({warned}))
        return should_retrain(day, state_now, policy).is_due

    assert not is_due(DAYS[5], DAYS[3], warned=DAYS[5])  # a warned day promotes no version
    assert is_due(DAYS[6], DAYS[3], warned=DAYS[5])
    assert is_due(DAYS[4], DAYS[3], warned=DAYS[3])  # the last evaluated day was not trained on
    assert not is_due(DAYS[6], DAYS[3], warned=DAYS[2])  # an earlier one was
    off = replace(policy, on_warning=False)
    assert not should_retrain(DAYS[6], state(DAYS[:7], DAYS[3], warned=frozenset({DAYS[5]})), off).is_due


def test_nothing_is_trained_on_data_older_than_the_limit() -> None:
    policy = replace(POLICY, max_data_age_days=2)
    answer = should_retrain(DAYS[5], state(DAYS[:6], DAYS[3]), policy)  # three days back
    assert not answer.is_due
    assert "lies 3 days back; [retrain] max_data_age_days allows 2" in answer.reason
    assert should_retrain(DAYS[6], state(DAYS[:7], DAYS[3]), policy).is_due
    with pytest.raises(LongreelError, match=r"lies 3 days back.*--force"):
        require_recent(DAYS[5], TODAY, policy)
    require_recent(DAYS[6], TODAY, policy)
    require_recent(DAYS[0], TODAY, POLICY)


def test_a_backfill_or_a_correction_starts_no_training_and_a_person_can_force_one(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3)
    words = ["ops", "should-retrain", "--home", str(home.path), "--date", "2026-01-03"]
    assert main(words) == 0
    assert main([*words, "--trigger", "backfill"]) == NOT_DUE
    assert "a backfill, which starts no training" in capsys.readouterr().out
    assert main([*words, "--trigger", "correction"]) == NOT_DUE
    assert "published again, because it or an earlier day was corrected or came late, which" in capsys.readouterr().out
    words[-1] = "2026-01-02"
    assert main([*words, "--trigger", "manual"]) == NOT_DUE
    assert "(force trains anyway)" in capsys.readouterr().out
    assert main([*words, "--trigger", "manual", "--force"]) == 0


def test_a_retrain_on_old_data_is_rejected_before_training(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3)
    path = home.path / CONFIG_FILE
    path.write_text(f"{path.read_text()}max_data_age_days = 30\n")
    assert main(["ops", "retrain", "--home", str(home.path), "--date", "2026-01-03"]) == 2
    assert "days back; [retrain] max_data_age_days allows 30" in capsys.readouterr().err
    assert not home.work.exists()


def test_warnings_of_events_and_of_samples_both_count(
    make_home: Callable[..., Home], publish: Callable[..., None]
) -> None:
    home = make_home(4)
    for dataset, day in (("events", 2), ("samples", 3)):
        writer = home.lake.writer(dataset, date(2026, 1, day))
        writer.commit(digest=f"of {day}", inputs={}, details={"warnings": ["like rate"]})
    state_now = should_retrain_command.freshness_state(home, date(2026, 1, 1), None)
    assert state_now.warned == {date(2026, 1, 2), date(2026, 1, 3)}
    assert should_retrain_command.freshness_state(home, date(2026, 1, 3), None).warned == {date(2026, 1, 3)}


def test_today_is_by_the_clock_of_the_log(make_home: Callable[..., Home]) -> None:
    home = make_home()
    path = home.path / CONFIG_FILE
    path.write_text(f"{path.read_text()}[source]\ntime_zone = 'Etc/GMT-14'\n")
    ahead = today(home.config)
    path.write_text(path.read_text().replace("GMT-14", "GMT+12"))
    assert (ahead - today(home.config)).days in (1, 2)  # 26 hours lie between them
