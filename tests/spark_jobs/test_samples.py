"""Spark's samples against the plain-Python twin, on small random logs full of ties, late rows and crowded requests."""

import random
from datetime import timedelta
from typing import Any

import pytest
from brute_force_samples import samples_of
from spark_helpers import DAY, MIDNIGHT_MS, longreel, row, write_raw

HOUR = 3_600_000


def random_day(rng: random.Random, number: int, ids: bool) -> list[dict[str, Any]]:
    """A log day `number` days after DAY: few users, few distinct times, some stamped before its midnight."""
    rows = []
    for _ in range(rng.randint(0, 60)):
        at = number * 24 * HOUR + rng.choice(
            [-1, 0, 1, 2, 3, 5, 60_000, 60_001, -HOUR, 20 * HOUR, rng.randint(0, HOUR)]
        )
        fields = {"author_id": rng.choice([None, 7]), "tag": rng.choice([None, 3]), "like": rng.randint(0, 1)}
        fields |= {"click": rng.randint(0, 1), "play_ms": rng.choice([0, 3_000, 3_001, 9_000]), "duration_ms": 9_000}
        if ids:
            fields["request_id"] = rng.choice([None, "a", "b"])
        rows.append(row(rng.randint(1, 4), rng.randint(1, 5), at, **fields))
    return rows


def published(home: Any, dataset: str, day: Any) -> list[dict[str, Any]]:
    return home.lake.read(home.lake.require(dataset, day)).to_pylist()


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (0, {}),
        (1, {"max_history": 7, "compact_every_days": 2}),
        (2, {"max_history": 3, "samples": "max_targets = 2"}),
        (3, {"samples": 'request_rule = "gap"\ngap_ms = 60000'}),
        (4, {"samples": 'request_rule = "delivery_time"\nmax_targets = 3', "compact_every_days": 1}),
    ],
)
def test_spark_samples_equal_plain_python(spark: Any, make_home: Any, seed: int, settings: dict[str, Any]) -> None:
    home, rng = make_home(**settings), random.Random(seed)
    days = [DAY + timedelta(days=number) for number in range(4)]
    for number, day in enumerate(days):
        write_raw(home, day, random_day(rng, number, ids="samples" not in settings))
    assert longreel(home, "ingest", "--start", str(days[0]), "--end", str(days[-1])) == 0
    assert longreel(home, "build-samples", "--start", str(days[0]), "--end", str(days[-1])) == 0

    config = home.config.samples
    rule = {"max_history": config.max_history, "max_targets": config.max_targets}
    rule |= {"rule": config.request_rule, "gap_ms": config.gap_ms}
    for number, day in enumerate(days):
        earlier = [event for before in days[:number] for event in published(home, "events", before)]
        expected = samples_of(earlier, published(home, "events", day), **rule)
        found = sorted(published(home, "samples", day), key=lambda r: r["user_id"])
        assert [{k: v for k, v in r.items() if k != "user_features"} for r in found] == expected
        assert home.lake.require("samples", day).counts["targets"] == home.lake.require("events", day).rows


def test_a_request_never_sees_its_own_millisecond_nor_later_ones(spark: Any, make_home: Any) -> None:
    home, tomorrow = make_home(), DAY + timedelta(days=1)
    # The first day's log holds an event at 23:59:59.999 and the next day's a request stamped at that very time.
    last = 24 * HOUR - 1
    write_raw(home, DAY, [row(item=1, at=last - 1), row(item=2, at=last)])
    write_raw(home, tomorrow, [row(item=3, at=last), row(item=4, at=last + 1), row(item=5, at=last + 2)])
    assert longreel(home, "ingest", "--start", str(DAY), "--end", str(tomorrow)) == 0
    assert longreel(home, "build-samples", "--date", str(tomorrow)) == 0
    (sample,) = published(home, "samples", tomorrow)
    assert sample["history_item_id"] == [1, 2, 3, 4, 5]
    assert [t - MIDNIGHT_MS - last for t in sample["request_time_ms"]] == [0, 1, 2]
    assert sample["request_history_end"] == [1, 3, 4]


def test_users_with_one_event_and_requests_without_history(spark: Any, make_home: Any) -> None:
    home = make_home()
    write_raw(home, DAY, [row(user=1, at=5), row(user=2, at=7, click=0)])
    assert longreel(home, "ingest", "--date", str(DAY)) == 0
    assert longreel(home, "build-samples", "--date", str(DAY)) == 0
    one, two = sorted(published(home, "samples", DAY), key=lambda r: r["user_id"])
    assert (one["history_item_id"], one["request_history_end"], one["target_labels"]) == ([10], [0], [1])
    assert (two["history_item_id"], two["request_history_end"], two["target_labels"]) == ([], [0], [512])
