"""The simulated log: the same seed and day give the same rows, and the rates are those of a short-video app."""

from datetime import date
from typing import Any

import numpy as np
import pytest
from spark_helpers import longreel

from spark_jobs.simulated_day import simulate_day
from spark_jobs.simulated_world import make_world


def bytes_of(home: Any) -> dict[str, bytes]:
    raw = home.path / "raw"
    return {str(p.relative_to(raw)): p.read_bytes() for p in sorted(raw.rglob("*.parquet"))}


def test_days_are_the_same_however_they_were_asked_for(make_home: Any) -> None:
    once, twice = make_home("once", kind="simulated"), make_home("twice", kind="simulated")
    small = ("--users", "60", "--items", "200", "--seed", "3")
    assert longreel(once, "simulate", "--days", "3", *small) == 0
    assert longreel(twice, "simulate", "--days", "1", *small) == 0
    assert longreel(twice, "simulate", "--days", "2") == 0
    assert bytes_of(once) == bytes_of(twice)
    assert len(bytes_of(once)) == 4
    assert len(set(bytes_of(once).values())) == 4


def test_a_log_goes_on_only_with_its_own_settings(make_home: Any, capsys: Any) -> None:
    home = make_home(kind="simulated")
    assert longreel(home, "simulate", "--users", "20", "--items", "50") == 0
    assert longreel(home, "simulate", "--users", "21") == 2
    assert "users=20, now asked for 21" in capsys.readouterr().err
    assert longreel(home, "simulate", "--days", "0") == 2
    assert longreel(make_home("other"), "simulate") == 2
    assert "source 'generic'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def day() -> dict[str, np.ndarray]:
    rows = simulate_day(make_world(1_200, 4_000, 0), date(2026, 1, 7))
    return {name: np.array(values) for name, values in rows.items() if name not in ("item_id", "request_id")}


def test_rates_and_activity_are_plausible(day: dict[str, np.ndarray]) -> None:
    assert 50_000 < len(day["user_id"]) < 65_000
    for name, low, high in (("click", 0.3, 0.42), ("long_view", 0.15, 0.27), ("like", 0.015, 0.05)):
        assert low < day[name].mean() < high
    impressions = np.bincount(day["user_id"])
    assert 20 < np.median(impressions[impressions > 0]) < 45
    assert impressions.max() > 600
    assert not (day["long_view"] & ~day["click"] & 1).any()


def test_a_user_clicks_what_the_user_clicked_the_week_before() -> None:
    """The lasting interests are there: a tag that a user often clicked is clicked more, days later."""
    world = make_world(600, 2_000, 1)
    counts = np.zeros((600, 64))
    for number in range(4, 10):
        rows = simulate_day(world, date(2026, 1, number))
        clicked = np.array(rows["click"]) == 1
        np.add.at(counts, (np.array(rows["user_id"])[clicked], np.array(rows["tag"])[clicked]), 1)
    rows = simulate_day(world, date(2026, 1, 12))
    known = counts[np.array(rows["user_id"]), np.array(rows["tag"])] >= 3
    click = np.array(rows["click"])
    assert click[known].mean() > click[~known].mean() + 0.15
