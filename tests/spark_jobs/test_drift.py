"""A day unlike the days before it warns or stops, by how much it differs and how sure that is; others pass."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spark_helpers import DAY, MIDNIGHT_MS, event, longreel, new_home, publish_events, write_raw

from longreel.contracts.config import DriftPolicy
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest
from longreel.spark_jobs.drift import Measure, event_drift, sample_measures
from longreel.spark_jobs.simulated_day import simulate_day
from longreel.spark_jobs.simulated_world import WorldSettings, make_world
from tests.short_video import SHORT_VIDEO

POLICY = DriftPolicy()
ACTIONS, LABELS = SHORT_VIDEO.action_names, SHORT_VIDEO.binary_labels
TODAY = DAY + timedelta(days=3)
DAY_MS = 86_400_000
CLICKS_AND_LIKES = """
[actions]
click = "click"
like = "like"
[history]
events = "click OR like"
[labels]
click = "click"
like = "like"
"""
Change = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


def verdicts(counts: dict[str, int], past: list[dict[str, int]], **more: Any) -> dict[str, str]:
    """The worst level that each measure of a day's events fails, by column; trailing days are given by their counts."""
    manifests = [
        Manifest(dataset="events", date="", digest="", rows=counted["events"], files=(), counts=counted)
        for counted in past
    ]
    new_items = more.pop("new_item_events", None)
    stats, checks = event_drift(POLICY, DAY, counts, new_items, manifests, actions=ACTIONS, **more)
    failed = {}
    for check in checks:  # the check that warns comes first
        if not (check.low or 0) <= stats[check.column] <= check.high:  # type: ignore[operator]
            failed[check.column] = check.level
    return failed


def counts_of(events: int = 20_000, users: int = 4_000, like: float = 0.02, **more: int) -> dict[str, int]:
    return {"events": events, "users": users, "action_like": round(events * like)} | more


@pytest.mark.parametrize(
    ("today", "failed"),
    [
        (counts_of(), {}),
        (counts_of(events=29_000, users=5_000, like=0.025), {}),  # a holiday
        (counts_of(events=10_000), {"events_a_day": "stop"}),
        (counts_of(events=12_500), {"events_a_day": "warn"}),
        (counts_of(events=40_000), {"events_a_day": "stop"}),
        (counts_of(users=2_000), {"users_a_day": "stop"}),
        (counts_of(like=0.04), {"like_rate": "stop"}),
        (counts_of(like=0.032), {"like_rate": "warn"}),
        (counts_of(like=0.01), {"like_rate": "stop"}),
        (counts_of(like=0.0), {"like_rate": "stop"}),
        (counts_of(events=0, users=0), {"events_a_day": "stop", "users_a_day": "stop"}),
        (counts_of(action_hate=400), {}),  # no trailing day counted it
    ],
)
def test_levels_follow_the_ratio(today: dict[str, int], failed: dict[str, str]) -> None:
    assert verdicts(today, [counts_of()] * 7) == failed
    stops_accepted = {name: level.replace("stop", "accepted") for name, level in failed.items()}
    assert verdicts(today, [counts_of()] * 7, accepted=True) == stops_accepted


def test_a_deviation_within_chance_passes() -> None:
    small = [counts_of(events=50, users=20)] * 7
    assert verdicts(counts_of(events=50, users=20, like=0.12), small) == {}  # 6 likes where 1 is usual
    assert verdicts(counts_of(events=25, users=10), small) == {}
    assert "like_rate" not in verdicts(counts_of(events=50, users=20, like=0.04), [counts_of()] * 7)
    assert verdicts(counts_of(events=50, users=20, like=0.5), small) == {"like_rate": "stop"}


def test_a_measure_that_varies_from_day_to_day_passes() -> None:
    rates = (0.5, 2.0, 0.8, 1.5, 0.6, 1.3, 1.0)  # a log of few users, where one of them makes a day
    restless = [counts_of(like=0.02 * rate) for rate in rates]
    assert verdicts(counts_of(like=0.05), restless) == {}
    assert verdicts(counts_of(like=0.05), [counts_of()] * 7) == {"like_rate": "stop"}
    assert verdicts(counts_of(like=0.4), restless) == {"like_rate": "stop"}


def test_a_label_that_was_never_there_only_warns() -> None:
    past = [counts_of(action_hate=0)] * 7
    assert verdicts(counts_of(action_hate=3), past) == {}
    assert verdicts(counts_of(action_hate=900), past) == {"hate_rate": "warn"}
    assert verdicts(counts_of(action_hate=0), past) == {}


def test_few_trailing_days_and_days_without_the_counts_check_nothing() -> None:
    wild = counts_of(events=90_000, like=0.2)
    assert verdicts(wild, [counts_of()] * 2) == {}
    old = {name: value for name, value in counts_of().items() if name != "action_like"}
    assert verdicts(wild, [old] * 5 + [counts_of()] * 2) == {"events_a_day": "stop"}


def test_one_odd_day_among_the_trailing_ones_moves_nothing() -> None:
    assert verdicts(counts_of(), [*[counts_of()] * 4, counts_of(events=200_000, users=90_000, like=0.4)]) == {}
    odd = [*[counts_of()] * 6, counts_of(events=200_000, users=90_000, like=0.4)]
    assert verdicts(counts_of(like=0.04), odd) == {"like_rate": "stop"}


def test_simulated_days_are_ordinary() -> None:
    for users, items in ((240, 8_000), (60, 200)):
        world, past, shown = make_world(WorldSettings(users=users, items=items)), [], []
        for number in range(14):
            rows = simulate_day(world, date(2026, 1, 5) + timedelta(days=number))
            counts = {"events": len(rows.item), "users": len(np.unique(rows.user))}
            counts |= {f"action_{name}": int(taken.sum()) for name, taken in rows.acted.items()}
            new = int(np.isin(rows.item, np.concatenate(shown[-7:]), invert=True).sum()) if shown else None
            assert verdicts(counts, past[-7:], new_item_events=new) == {}
            past.append(counts)
            shown.append(rows.item)


def test_histories_may_grow_as_a_young_log_does_but_not_shrink_or_jump() -> None:
    def history(today: float, past: list[float]) -> Measure:
        counts = {"users": 5_000, "requests": 9_000, "targets": 0}
        common: dict[str, Any] = {"dataset": "samples", "date": "", "digest": "", "rows": 5_000, "files": ()}
        days = [Manifest(counts=counts | {"history_events": int(x * 5_000)}, **common) for x in past]
        measures = sample_measures(counts | {"history_events": int(today * 5_000)}, days, POLICY, LABELS)
        return next(measure for measure in measures if measure.column == "history_a_user")

    def passes(measure: Measure, level: float) -> bool:
        low, high = measure.limits(level)
        return (low or 0) <= measure.value <= high

    warn, stop = POLICY.history
    for number in range(4, 15):  # ten events a user and day
        assert passes(history(10 * number, [10.0 * n for n in range(max(1, number - 7), number)]), warn)
    settled = [700.0, 710.0, 705.0, 690.0]
    assert passes(history(705, settled), warn)
    assert not passes(history(400, settled), warn)
    assert not passes(history(300, settled), stop)
    assert not passes(history(1_600, settled), stop)


def raw_day(number: int, events: int = 4_000, first_item: int = 0, like: float = 0.1) -> list[dict[str, Any]]:
    """An ordinary log day, `number` days after DAY: 400 users, 500 items, everything drawn with the day as the seed."""
    rng = np.random.default_rng(number)
    users, items = rng.integers(0, 400, events), rng.integers(0, 500, events) + first_item
    times = MIDNIGHT_MS + number * DAY_MS + np.arange(events) * 1_000
    clicks, likes = rng.random(events) < 0.4, rng.random(events) < like
    names = ("user_id", "item_id", "time_ms", "click", "like")
    columns = (users, items, times, clicks.astype(int), likes.astype(int))
    return [dict(zip(names, values, strict=True)) for values in zip(*(c.tolist() for c in columns), strict=True)]


@pytest.fixture(scope="module")
def ordinary(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with three ordinary days before TODAY, where two suffice to compare with."""
    folder = tmp_path_factory.mktemp("home")
    home = new_home(folder, samples="[drift]\nmin_days = 2", schema=CLICKS_AND_LIKES)
    for number in range(3):
        write_raw(home, DAY + timedelta(days=number), raw_day(number))
    assert longreel(home, "data ingest", "--start", str(DAY), "--end", str(TODAY - timedelta(days=1))) == 0
    return home


def docs_of(home: Home, day: date) -> str:
    return "".join(path.read_text() for path in (home.reports / str(day) / "data-docs").rglob("*.html"))


def test_ordinary_days_publish_without_a_warning_and_with_their_counts(ordinary: Home) -> None:
    for number in range(3):
        manifest = ordinary.lake.require("events", DAY + timedelta(days=number))
        rows = raw_day(number)
        assert "warnings" not in manifest.details
        assert manifest.counts["items"] == len({row["item_id"] for row in rows})
        assert manifest.counts["action_like"] == sum(row["like"] for row in rows)
    assert "new_item_events" not in ordinary.lake.require("events", DAY).details
    before = {row["item_id"] for row in raw_day(0)}
    new = sum(row["item_id"] not in before for row in raw_day(1))
    assert ordinary.lake.require("events", DAY + timedelta(days=1)).details["new_item_events"] == new


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"events": 2_000}, "events of the day (median 4,000 of 3 trailing days): expected"),
        ({"like": 0.2}, "like rate (median 0."),
        ({"like": 0.0}, "like rate (median 0."),
        ({"first_item": 400}, "share of impressions on items that no trailing day has (median 0.0 of 2"),
    ],
)
def test_a_day_far_off_is_stopped_and_says_how_to_go_on(
    ordinary: Home, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], text: str
) -> None:
    write_raw(ordinary, TODAY, raw_day(3, **changes))
    assert longreel(ordinary, "data ingest", "--date", str(TODAY)) == 4
    message = capsys.readouterr().err
    assert text in message
    assert "failed 1 of" in message
    assert f"longreel data ingest --date {TODAY} --accept-drift" in message
    assert ordinary.lake.manifest("events", TODAY) is None
    summary = json.loads((ordinary.reports / str(TODAY) / "quality-events.json").read_text())
    assert not summary["success"]
    assert [text in line for line in summary["failures"]] == [True]


def test_a_day_somewhat_off_is_published_with_a_warning(ordinary: Home, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(ordinary, TODAY, raw_day(3, events=2_400))
    assert longreel(ordinary, "data ingest", "--date", str(TODAY)) == 0
    (warning,) = ordinary.lake.require("events", TODAY).details["warnings"]
    assert warning.startswith("events of the day (median 4,000 of 3 trailing days): expected")
    assert f"warning: {warning}" in capsys.readouterr().out
    assert "[warn] events of the day" in docs_of(ordinary, TODAY)
    summary = json.loads((ordinary.reports / str(TODAY) / "quality-events.json").read_text())
    assert summary["success"]
    assert summary["warnings"] == [warning]
    assert longreel(ordinary, "ops status") == 0
    assert "warning events 2026-03-05: events of the day" in capsys.readouterr().out


def test_an_accepted_day_is_published_as_it_would_be_without_days_before_it(
    ordinary: Home, make_home: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = raw_day(3, events=9_000)
    write_raw(ordinary, TODAY, rows)
    assert longreel(ordinary, "data ingest", "--date", str(TODAY)) == 4
    assert longreel(ordinary, "ops status") == 0
    assert "stopped events 2026-03-05: events of the day" in capsys.readouterr().out
    assert longreel(ordinary, "data ingest", "--date", str(TODAY), "--accept-drift") == 0
    manifest = ordinary.lake.require("events", TODAY)
    (warning,) = manifest.details["warnings"]
    assert warning.startswith("accepted: events of the day (median 4,000")
    assert f"warning: {warning}" in capsys.readouterr().out
    assert "[accepted] events of the day" in docs_of(ordinary, TODAY)
    assert longreel(ordinary, "data ingest", "--date", str(TODAY)) == 0  # as a cleared task would

    alone = make_home("alone", schema=CLICKS_AND_LIKES)
    write_raw(alone, TODAY, rows)
    assert longreel(alone, "data ingest", "--date", str(TODAY)) == 0
    first = alone.lake.require("events", TODAY)
    assert (first.digest, first.counts) == (manifest.digest, manifest.counts)


def test_a_past_day_is_compared_with_the_days_before_it_again(ordinary: Home) -> None:
    past = TODAY - timedelta(days=1)
    before = ordinary.lake.require("events", past)
    for number in range(1, 4):
        rows = [event(user, user, at=(3 + number) * DAY_MS) for user in range(5)]
        publish_events(ordinary, TODAY + timedelta(days=number), rows)
    assert longreel(ordinary, "data ingest", "--date", str(past), "--force") == 0
    assert ordinary.lake.require("events", past) == before


def test_samples_whose_histories_requests_or_labels_change_are_stopped(
    spark: Any, make_home: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    home, last = make_home(samples="[drift]\nmin_days = 1"), DAY + timedelta(days=1)
    publish_events(home, DAY, user_day(0))
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    words = ("data build-samples", "--date", str(last))
    publish_events(home, last, user_day(1, first_user=1_000, clicks=1))  # no user who was there before
    assert longreel(home, *words) == 4
    text = capsys.readouterr().err
    assert "history events a user (median 5.0 of 1 trailing days): expected" in text
    assert f"longreel data build-samples --date {last} --accept-drift" in text
    publish_events(home, last, user_day(1, requests=20))
    assert longreel(home, *words) == 4
    assert "requests a user (median 5.0 of 1 trailing days): expected" in capsys.readouterr().err
    publish_events(home, last, user_day(1, clicks=0))
    assert longreel(home, *words) == 4
    assert "click rate (median 1.0 of 1 trailing days): expected" in capsys.readouterr().err
    assert home.lake.manifest("samples", last) is None
    assert longreel(home, *words, "--accept-drift") == 0
    assert home.lake.require("samples", last).details["warnings"][0].startswith("accepted: click rate")


def user_day(number: int, first_user: int = 0, requests: int = 5, clicks: int = 5) -> list[dict[str, Any]]:
    """300 users with so many requests of one target each, the first of which they click."""
    return [
        event(first_user + user, user, at=number * DAY_MS + 60_000 * r, actions=int(r < clicks))
        for user in range(300)
        for r in range(requests)
    ]


def test_the_shipped_limits_are_checked_where_they_are_declared(tmp_path: Path) -> None:
    from longreel.contracts.config import parse_config
    from longreel.contracts.errors import LongreelError

    assert parse_config("[drift]\nvolume = [2.0, 3.0]").drift.volume == (2.0, 3.0)
    for text in ("volume = [3.0, 2.0]", "users = [0.5, 2.0]", "new_items = [0.1]", "min_days = 9", "min_days = 0"):
        with pytest.raises(LongreelError, match=r"\[drift\]"):
            parse_config(f"[drift]\n{text}")
