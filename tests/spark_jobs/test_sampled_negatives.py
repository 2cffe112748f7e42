"""Sampled negatives of a log of positives: what they are made of, how often an item is drawn, and that buckets do not
matter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from spark_helpers import DAY, MIDNIGHT_MS, Row, event, new_home, publish_events

from longreel.contracts.config import SamplesConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Label
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.home import Home
from longreel.spark_jobs import sampled_negatives
from longreel.spark_jobs.sampled_negatives import NegativePool, negative_pool
from longreel.spark_jobs.samples import DayEvents, UserFields, sample_tables
from longreel.spark_jobs.user_histories import UserHistories
from tests.short_video import SHORT_VIDEO

DRAWS = 5


def log_of_clicks(users: int = 40, requests: int = 6) -> list[Row]:
    """Clicks alone: users with requests of 1 .. 3 items; the author follows from the item, the surface is the
    request's. Every fourth click is on item 0."""
    rng = np.random.default_rng(5)
    rows = []
    for user in range(users):
        for number in range(requests):
            items = np.unique(np.where(rng.random(3) < 0.25, 0, rng.integers(0, 60, 3)))[: 1 + rng.integers(3)]
            at, surface = 1_000 * number, int(rng.integers(3))
            rows += [event(user, int(i), at, author_id=int(1_000 + i), surface=surface) for i in items]
    return rows


def pool_of(folder: Path, rows: list[Row], buckets: int = 1) -> NegativePool:
    home = new_home(folder)
    publish_events(home, DAY, rows, buckets)
    return negative_pool(home.lake, home.lake.require("events", DAY), DRAWS)


def built(rows: list[Row], pool: NegativePool | None, log: Any = SHORT_VIDEO, **settings: int) -> list[Row]:
    """The samples rows of users in increasing order."""
    config = SamplesConfig(sampled_negatives=DRAWS if pool else 0, **settings)
    schemas = dataset_schemas(log)
    day = DayEvents.of(pa.Table.from_pylist(rows, schema=schemas.events), log)
    users = UserFields.of(schemas.users.empty_table(), log)
    return pa.concat_tables(sample_tables(day, UserHistories(100, log), users, config, pool)).to_pylist()


def requests_of(row: Row) -> list[tuple[int, list[Row]]]:
    """Times of a user's requests, and their targets."""
    names = [name for name in row if name.startswith("target_")]
    targets = [dict(zip(names, values, strict=True)) for values in zip(*(row[name] for name in names), strict=True)]
    starts = [0, *row["request_target_end"][:-1]]
    bounds = zip(row["request_time_ms"], starts, row["request_target_end"], strict=True)
    return [(time_ms, targets[start:end]) for time_ms, start, end in bounds]


def test_a_request_has_its_clicks_and_then_other_items_of_the_day(tmp_path: Path) -> None:
    rows = log_of_clicks()
    pool = pool_of(tmp_path / "home", rows)
    plain, sampled = built(rows, None), built(rows, pool)
    assert [row["user_id"] for row in sampled] == [row["user_id"] for row in plain]
    negatives = 0
    for row, without in zip(sampled, plain, strict=True):
        assert {name: row[name] for name in row if name.startswith("history")} == {
            name: without[name] for name in without if name.startswith("history")
        }
        for (time_ms, targets), (same_ms, clicks) in zip(requests_of(row), requests_of(without), strict=True):
            assert time_ms == same_ms
            assert targets[: len(clicks)] == clicks
            added = targets[len(clicks) :]
            negatives += len(added)
            assert len(added) <= DRAWS
            items = [target["target_item_id"] for target in targets]
            assert len(set(items)) == len(items)
            for target in added:
                assert target["target_labels"] == 0
                assert target["target_author_id"] == 1_000 + target["target_item_id"]
                assert target["target_surface"] == clicks[0]["target_surface"]
    assert negatives > 0.6 * DRAWS * 240  # a draw that its request has already is left out, mostly of item 0


def test_an_item_is_drawn_as_often_as_it_is_shown(tmp_path: Path) -> None:
    rows = [event(user, 0 if user % 4 == 0 else user % 50, 10 * user) for user in range(4_000)]
    drawn = [
        t["target_item_id"] for row in built(rows, pool_of(tmp_path / "home", rows)) for t in requests_of(row)[0][1]
    ]
    of_others = [item for item in drawn if item]
    share = 1 - len(of_others) / len(drawn)
    # A quarter of the events has item 0; each of the other requests draws it with 1 - .75 ** DRAWS.
    expected = (1_000 + 3_000 * (1 - 0.75**DRAWS)) / len(drawn)
    assert abs(share - expected) < 0.02


def test_draws_depend_neither_on_buckets_nor_on_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_negatives, "POOL_EVENTS", 100)  # of about 400 events
    rows = log_of_clicks()
    pool = pool_of(tmp_path / "one", rows)
    assert len(pool.columns["item_id"]) == 100
    other = pool_of(tmp_path / "four", rows[::-1], buckets=4)
    assert all(np.array_equal(pool.columns[name], other.columns[name]) for name in pool.columns)
    whole = built(rows, pool)
    parts = [built([row for row in rows if row["user_id"] % 2 == number], pool) for number in range(2)]
    assert sorted([*parts[0], *parts[1]], key=lambda row: row["user_id"]) == whole
    first = [requests_of(row)[0] for row in whole]
    assert {time_ms for time_ms, _ in first} == {MIDNIGHT_MS}
    drawn = [{t["target_item_id"] for t in targets if not t["target_labels"]} for _, targets in first]
    assert len(set(map(frozenset, drawn))) > 30  # users draw differently at the same time


def test_split_requests_stay_within_max_targets_and_draw_differently(tmp_path: Path) -> None:
    rows = [event(1, item, 0) for item in range(9)] + [event(user, 100 + user, user) for user in range(2, 200)]
    (first, *_) = built(rows, pool_of(tmp_path / "home", rows), max_targets=8)
    counts = [len(targets) for _, targets in requests_of(first)]
    assert max(counts) <= 8
    assert len(counts) == 3  # 8 less 5 negatives: three clicks each
    drawn = [tuple(t["target_item_id"] for t in targets if not t["target_labels"]) for _, targets in requests_of(first)]
    assert len(set(drawn)) == 3


def test_a_negative_has_no_value_of_a_number_label(tmp_path: Path) -> None:
    log = replace(SHORT_VIDEO, labels=(Label(name="click", when="click"), Label(name="played", value="play_ms")))
    rows = [event(user, user, user) | {"labels": 1, "label_played": 7.0} for user in range(30)]
    pool = pool_of(tmp_path / "home", [event(user, user, user) for user in range(30)])
    for row in built(rows, pool, log):
        ((_, targets),) = requests_of(row)
        assert targets[0]["target_label_played"] == 7.0
        assert all(np.isnan(target["target_label_played"]) for target in targets[1:])


def test_settings_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(LongreelError, match="sampled_negatives: expected 0"):
        SamplesConfig(sampled_negatives=512)
    with pytest.raises(LongreelError, match="sampled_negatives: expected 0"):
        SamplesConfig(sampled_negatives=-1)


def test_the_step_builds_them_and_a_changed_number_makes_samples_stale(spark: Any, tmp_path: Path) -> None:
    from spark_helpers import longreel

    home = new_home(tmp_path / "home", samples="sampled_negatives = 5")
    rows = log_of_clicks()
    publish_events(home, DAY, rows)
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    samples = home.lake.read(home.lake.require("samples", DAY)).to_pylist()
    assert sorted(samples, key=lambda row: row["user_id"]) == built(rows, pool_of(tmp_path / "pool", rows))
    other = Home(home.path)
    text = (home.path / "longreel.toml").read_text()
    (home.path / "longreel.toml").write_text(text.replace("sampled_negatives = 5", "sampled_negatives = 4"))
    assert longreel(other, "data build-samples", "--date", str(DAY)) == 0
    fewer = home.lake.read(home.lake.require("samples", DAY)).to_pylist()
    assert sum(len(row["target_item_id"]) for row in fewer) < sum(len(row["target_item_id"]) for row in samples)
    assert min(min(row["request_time_ms"]) for row in fewer) >= MIDNIGHT_MS
