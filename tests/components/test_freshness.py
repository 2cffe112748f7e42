"""When the freshness policy asks for a training, and when it refuses one."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import pytest

from longreel.cli import main
from longreel.components import should_retrain as due_step
from longreel.components.freshness import Known, due, require_young
from longreel.components.should_retrain import NOT_DUE, today
from longreel.contracts.config import RetrainPolicy
from longreel.contracts.errors import LongreelError
from longreel.lake.home import CONFIG_FILE, Home

POLICY = RetrainPolicy(min_train_days=3, every_new_days=2)
DAYS = [date(2026, 1, 1) + timedelta(days=i) for i in range(8)]
TODAY = DAYS[7] + timedelta(days=1)


def known(published: list[date], last_judged: date | None = None, **more: object) -> Known:
    return replace(Known(published=frozenset(published), today=TODAY, last_judged=last_judged), **more)


@pytest.mark.parametrize(
    ("day", "published", "last_judged", "expected", "said"),
    [
        (DAYS[3], DAYS[:3], None, False, "not published"),
        (DAYS[2], DAYS[:3], None, False, "2 published days lie before"),
        (DAYS[3], DAYS[:4], None, True, "No candidate was ever judged"),
        (DAYS[4], DAYS[:5], DAYS[3], False, "1 new published day since"),
        (DAYS[5], DAYS[:6], DAYS[3], True, "2 new published days since"),
        (DAYS[5], [*DAYS[:4], DAYS[5]], DAYS[3], False, "1 new published day since"),  # DAYS[4] never came
        (DAYS[4], DAYS, DAYS[6], False, "a rebuild or a backfill"),
        (DAYS[6], DAYS, DAYS[6], False, "a rebuild or a backfill"),
        (DAYS[3], [], None, False, "not published"),
    ],
)
def test_due(day: date, published: list[date], last_judged: date | None, expected: bool, said: str) -> None:
    answer = due(day, known(published, last_judged), POLICY)
    assert answer.is_due is expected
    assert said in answer.reason


def test_a_day_that_newer_ones_have_overtaken_is_not_trained_for_unless_a_log_is_replayed() -> None:
    """Ten days that come at once are one training, for the newest; a replayed log is judged day by day."""
    answer = due(DAYS[5], known(DAYS, DAYS[3]), POLICY)
    assert not answer.is_due
    assert f"only the newest, {DAYS[7]}, is trained for" in answer.reason
    assert due(DAYS[7], known(DAYS, DAYS[3]), POLICY).is_due
    replay = replace(POLICY, replay=True)
    assert due(DAYS[5], known(DAYS, DAYS[3]), replay).is_due
    assert not due(DAYS[4], known(DAYS, DAYS[3]), replay).is_due  # days after the asked one are not new to it


def test_a_champion_that_has_seen_nothing_for_too_long_asks_before_enough_new_days_are_there() -> None:
    policy = replace(POLICY, every_new_days=9, max_champion_age_days=4)
    assert not due(DAYS[6], known(DAYS[:7], DAYS[3], watermark=DAYS[2]), policy).is_due  # 4 days
    answer = due(DAYS[7], known(DAYS, DAYS[3], watermark=DAYS[2]), policy)
    assert answer.is_due
    assert f"trained through {DAYS[2]}, 5 days before {DAYS[7]}; the policy allows 4" in answer.reason
    assert not due(DAYS[7], known(DAYS, DAYS[3], watermark=DAYS[2]), replace(policy, max_champion_age_days=0)).is_due
    assert not due(DAYS[7], known(DAYS, DAYS[7], watermark=DAYS[2]), policy).is_due  # this day was judged already


def test_a_warned_day_asks_for_a_training_on_it_once_a_later_day_can_judge_it() -> None:
    policy = replace(POLICY, every_new_days=9)

    def asked(day: date, last_judged: date, warned: date) -> bool:
        seen = known([d for d in DAYS if d <= day], last_judged, warned=frozenset({warned}))
        return due(day, seen, policy).is_due

    assert not asked(DAYS[5], DAYS[3], warned=DAYS[5])  # a warned day promotes nobody
    assert asked(DAYS[6], DAYS[3], warned=DAYS[5])
    assert asked(DAYS[4], DAYS[3], warned=DAYS[3])  # the last judged day was not trained on
    assert not asked(DAYS[6], DAYS[3], warned=DAYS[2])  # an earlier one was
    off = replace(policy, on_warning=False)
    assert not due(DAYS[6], known(DAYS[:7], DAYS[3], warned=frozenset({DAYS[5]})), off).is_due


def test_nothing_is_trained_on_data_older_than_the_limit() -> None:
    policy = replace(POLICY, max_data_age_days=2)
    answer = due(DAYS[5], known(DAYS[:6], DAYS[3]), policy)  # three days back
    assert not answer.is_due
    assert "lies 3 days back; [retrain] max_data_age_days allows 2" in answer.reason
    assert due(DAYS[6], known(DAYS[:7], DAYS[3]), policy).is_due
    with pytest.raises(LongreelError, match=r"lies 3 days back.*--force"):
        require_young(DAYS[5], TODAY, policy)
    require_young(DAYS[6], TODAY, policy)
    require_young(DAYS[0], TODAY, POLICY)


def test_a_backfill_or_a_correction_asks_for_nothing_and_a_person_is_told_how_to_insist(
    make_home: Callable[..., Home], capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(3)
    asked = ["ops", "should-retrain", "--home", str(home.path), "--date", "2026-01-03"]
    assert main(asked) == 0
    assert main([*asked, "--trigger", "backfill"]) == NOT_DUE
    assert "a backfill, which trains nothing" in capsys.readouterr().out
    assert main([*asked, "--trigger", "correction"]) == NOT_DUE
    assert "published again, as it or a day before it was corrected or came late, which" in capsys.readouterr().out
    asked[-1] = "2026-01-02"
    assert main([*asked, "--trigger", "manual"]) == NOT_DUE
    assert "(force trains all the same)" in capsys.readouterr().out
    assert main([*asked, "--trigger", "manual", "--force"]) == 0


def test_a_retrain_on_old_data_is_refused_before_anything_is_trained(
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
    seen = due_step.known_of(home, date(2026, 1, 1), None)
    assert seen.warned == {date(2026, 1, 2), date(2026, 1, 3)}
    assert due_step.known_of(home, date(2026, 1, 3), None).warned == {date(2026, 1, 3)}


def test_today_is_by_the_clock_of_the_log(make_home: Callable[..., Home]) -> None:
    home = make_home()
    path = home.path / CONFIG_FILE
    path.write_text(f"{path.read_text()}[source]\nutc_offset_hours = 14\n")
    ahead = today(home.config)
    path.write_text(path.read_text().replace("= 14", "= -12"))
    assert (ahead - today(home.config)).days in (1, 2)  # 26 hours lie between them
