"""When the freshness policy asks for a training."""

from datetime import date, timedelta

import pytest

from components.freshness import due
from contracts.config import RetrainPolicy

POLICY = RetrainPolicy(min_train_days=3, every_new_days=2)
DAYS = [date(2026, 1, 1) + timedelta(days=i) for i in range(8)]


@pytest.mark.parametrize(
    ("day", "published", "last_evaluated", "expected", "said"),
    [
        (DAYS[3], DAYS[:3], None, False, "not published"),
        (DAYS[2], DAYS[:3], None, False, "2 published days lie before"),
        (DAYS[3], DAYS[:4], None, True, "No candidate was ever judged"),
        (DAYS[4], DAYS[:5], DAYS[3], False, "1 new published day since"),
        (DAYS[5], DAYS[:6], DAYS[3], True, "2 new published days since"),
        (DAYS[5], [*DAYS[:4], DAYS[5]], DAYS[3], False, "1 new published day since"),  # DAYS[4] never came
        (DAYS[4], DAYS, DAYS[6], False, "a rebuild or a backfill"),
        (DAYS[6], DAYS, DAYS[6], False, "a rebuild or a backfill"),
        (DAYS[5], DAYS, DAYS[3], True, "2 new published days since"),  # days after the asked one do not count
        (DAYS[3], [], None, False, "not published"),
    ],
)
def test_due(day: date, published: list[date], last_evaluated: date | None, expected: bool, said: str) -> None:
    answer = due(day, reversed(published), last_evaluated, POLICY)
    assert answer.is_due is expected
    assert said in answer.reason


def test_days_after_the_asked_one_are_not_new_to_it() -> None:
    assert not due(DAYS[4], DAYS, DAYS[3], POLICY).is_due
