"""Spark's samples against the plain-Python reference, on small random logs full of ties, late rows, large requests."""

import random
from datetime import timedelta
from typing import Any

import pytest
from brute_force_samples import plain, samples_of
from spark_helpers import DAY, MIDNIGHT_MS, event, longreel, publish_events, published

HOUR = 3_600_000
DAYS = [DAY + timedelta(days=number) for number in range(3)]


def random_day(rng: random.Random, number: int, ids: bool) -> list[dict[str, Any]]:
    """A log day `number` days after DAY: few users, few distinct times, some stamped before its midnight."""
    rows = []
    for _ in range(rng.randint(20, 70)):
        at = number * 24 * HOUR + rng.choice(
            [-1, 0, 1, 2, 3, 5, 60_000, 60_001, -HOUR, 20 * HOUR, rng.randint(0, HOUR)]
        )
        fields = {
            "author_id": rng.choice([-1, 7]),
            "tag": rng.choice([-1, 3]),
            "actions": rng.choice([0, 1, 2, 32, 65]),
        }
        fields |= {"play_ms": rng.choice([0.0, 3_000.0, 3_001.0, 9_000.0]), "duration_ms": rng.choice([0.0, 9_000.0])}
        request_id = rng.choice([None, "a", "b"]) if ids else None
        rows.append(event(rng.randint(1, 4), rng.randint(1, 5), at, request_id=request_id, **fields))
    return rows


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (1, {"max_history": 7, "compact_every_days": 2}),
        (2, {"max_history": 3, "samples": "max_targets = 2"}),
        (3, {"samples": 'request_rule = "gap"\ngap_ms = 60000'}),
        (4, {"samples": 'request_rule = "delivery_time"\nmax_targets = 3', "compact_every_days": 1}),
    ],
)
def test_spark_samples_equal_plain_python(spark: Any, make_home: Any, seed: int, settings: dict[str, Any]) -> None:
    home, rng = make_home(**settings), random.Random(seed)
    logs = [random_day(rng, number, ids=seed <= 2) for number in range(len(DAYS))]
    for day, rows in zip(DAYS, logs, strict=True):
        publish_events(home, day, rows)
    assert longreel(home, "data build-samples", "--start", str(DAYS[0]), "--end", str(DAYS[-1])) == 0

    config = home.config.samples
    rule = {"max_history": config.max_history, "max_targets": config.max_targets}
    rule |= {"rule": config.request_rule, "gap_ms": config.gap_ms}
    for number, day in enumerate(DAYS):
        expected = samples_of([e for log in logs[:number] for e in log], logs[number], **rule)
        assert plain(published(home, "samples", day)) == plain(expected)
        assert home.lake.require("samples", day).counts["targets"] == len(logs[number])


def test_a_request_never_sees_its_own_millisecond_nor_later_ones(spark: Any, make_home: Any) -> None:
    home, last = make_home(), 24 * HOUR - 1
    # The first day's log holds an event at 23:59:59.999 and the next day's a request stamped at that very time.
    publish_events(home, DAYS[0], [event(item=1, at=last - 1), event(item=2, at=last)])
    publish_events(home, DAYS[1], [event(item=3, at=last), event(item=4, at=last + 1), event(item=5, at=last + 2)])
    assert longreel(home, "data build-samples", "--date", str(DAYS[1])) == 0
    (sample,) = published(home, "samples", DAYS[1])
    assert sample["history_item_id"] == [1, 2, 3, 4, 5]
    assert [t - MIDNIGHT_MS - last for t in sample["request_time_ms"]] == [0, 1, 2]
    assert sample["request_history_end"] == [1, 3, 4]


def test_users_with_one_event_and_requests_without_history(spark: Any, make_home: Any) -> None:
    home = make_home()
    publish_events(home, DAY, [event(user=1, at=5), event(user=2, at=7, actions=0)])
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    one, two = published(home, "samples", DAY)
    assert (one["history_item_id"], one["request_history_end"], one["target_labels"]) == ([10], [0], [1])
    assert (two["history_item_id"], two["request_history_end"], two["target_labels"]) == ([], [0], [512])


def test_a_rule_that_needs_request_ids_rejects_a_day_without(make_home: Any, capsys: Any) -> None:
    home = make_home(samples='request_rule = "request_id"')
    publish_events(home, DAY, [event(request_id="a"), event(item=11)])
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 2
    assert "1 of 2 events" in capsys.readouterr().err
