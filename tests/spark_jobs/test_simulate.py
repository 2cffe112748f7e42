"""The simulated log of a short-video app: any day again, and outcomes that follow a truth that no product reads."""

import ast
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spark_helpers import longreel

from longreel.contracts.config import parse_config
from longreel.contracts.presets import preset
from longreel.lake.home import Home
from longreel.spark_jobs import simulated_day, simulated_world
from longreel.spark_jobs.simulated_day import (
    AFTER_CLICK,
    DAY_MS,
    Impressions,
    day_file,
    draw_requests,
    midnight_of,
    raw_rows,
    simulate_day,
)
from longreel.spark_jobs.simulated_world import (
    Floats,
    Ints,
    World,
    WorldSettings,
    inverse_mod,
    make_world,
    prime_from,
)

ROOT = Path(__file__).resolve().parents[2]
MONDAY = date(2026, 1, 5)


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., Home]:
    """A new home with a preset."""

    def make(name: str = "home", kind: str = "simulated") -> Home:
        (tmp_path / name).mkdir()
        (tmp_path / name / "longreel.toml").write_text(preset(kind))
        return Home(tmp_path / name)

    return make


def partition_bytes(home: Any) -> dict[str, bytes]:
    folders = (home.path / "raw", home.path / "truth")
    return {str(p.relative_to(home.path)): p.read_bytes() for f in folders for p in sorted(f.rglob("*.parquet"))}


def test_days_are_the_same_however_they_were_asked_for(make_home: Any) -> None:
    once, twice = make_home("once"), make_home("twice")
    small = ("--users", "60", "--items", "200", "--seed", "3")
    assert longreel(once, "simulate", "--days", "3", *small) == 0
    assert longreel(twice, "simulate", "--days", "1", *small) == 0
    assert longreel(twice, "simulate", "--days", "2") == 0
    assert partition_bytes(once) == partition_bytes(twice)
    assert len(partition_bytes(once)) == 1 + 2 * 3
    assert len(set(partition_bytes(once).values())) == 1 + 2 * 3


def test_a_day_that_was_killed_before_its_file_was_whole_is_made_again(make_home: Any) -> None:
    home = make_home()
    assert longreel(home, "simulate", "--users", "20", "--items", "50") == 0
    (first,) = (home.path / "raw").glob("date=*")
    killed = first.with_name("date=2026-01-06")
    killed.mkdir()
    (killed / ".log.parquet.4711").write_bytes(b"PAR1")
    assert longreel(home, "simulate") == 0
    assert (killed / "log.parquet").is_file()
    assert sorted(first.parent.glob("date=*")) == [first, killed]


def test_a_log_goes_on_only_with_its_own_settings(make_home: Any, capsys: Any) -> None:
    home = make_home()
    assert longreel(home, "simulate", "--users", "20", "--items", "50") == 0
    assert longreel(home, "simulate", "--users", "21") == 2
    assert "users=20, not 21" in capsys.readouterr().err
    assert longreel(home, "simulate", "--no-long-range") == 2
    assert "long_range=True, not False" in capsys.readouterr().err
    assert longreel(home, "simulate", "--bootstrap-days", "3") == 2
    with pytest.raises(SystemExit, match="2"):
        longreel(home, "simulate", "--days", "0")
    assert longreel(make_home("new"), "simulate", "--activity", "0") == 2
    assert longreel(make_home("other", kind="generic"), "simulate") == 2
    assert "source 'generic'" in capsys.readouterr().err


def test_older_history_holds_every_impression_before_the_first_day(make_home: Any) -> None:
    home = make_home()
    assert longreel(home, "simulate", "--bootstrap-days", "40", "--users", "30", "--items", "200") == 0
    files = sorted((home.path / "raw" / "history").glob("*.parquet"))
    assert [path.stem for path in files] == ["2025-11", "2025-12", "2026-01"]
    older = pa.concat_tables([pq.read_table(path) for path in files])
    times = older.column("time_ms").to_numpy()
    assert midnight_of(MONDAY) - 40 * DAY_MS <= times.min() < times.max() < midnight_of(MONDAY)
    assert 0.2 < older.column("click").to_numpy().mean() < 0.8
    assert older.schema == pq.read_schema(home.path / "raw" / "date=2026-01-05" / "log.parquet")


def logits(probabilities: Floats) -> Floats:
    return np.asarray(np.log(probabilities / (1 - probabilities)))


@pytest.fixture(scope="module")
def day() -> Impressions:
    return simulate_day(make_world(WorldSettings(users=600)), date(2026, 1, 7))


def test_rates_and_activity_are_plausible(day: Impressions) -> None:
    for name, low, high in (("click", 0.3, 0.45), ("long_view", 0.2, 0.35), ("like", 0.02, 0.08), ("hate", 5e-4, 5e-3)):
        assert low < day.acted[name].mean() < high, name
    impressions = np.bincount(day.user)
    assert 80 < np.median(impressions[impressions > 0]) < 170
    assert impressions.max() > 800
    assert not (day.acted["long_view"] & ~day.acted["click"]).any()


def test_every_label_happens_as_often_as_the_truth_says(day: Impressions) -> None:
    """In ten groups of impressions by their true probability, the rate is within 4.5 standard errors of its mean."""
    world = make_world(WorldSettings(users=600))
    labels = day.acted | {"finish": day.play_ms >= world.item_duration_ms[day.item]}
    assert day.truth.keys() == labels.keys() == set(parse_config(preset("simulated")).log_schema.binary_labels)
    for name, happened in labels.items():
        p = day.truth[name]
        for group in np.array_split(np.argsort(p), 10):
            error = np.sqrt((p[group] * (1 - p[group])).sum())
            assert abs(happened[group].sum() - p[group].sum()) < 4.5 * max(error, 1), name


def sessions_of(world: World, day: Impressions) -> Ints:
    """The session of each impression."""
    rng = np.random.default_rng([world.settings.seed, 5, day.day.toordinal()])
    return draw_requests(world, day.day, rng).session[day.request]


def test_what_a_session_passed_over_makes_it_tired_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth's logit is that of an untired user, less what a loop over the session's earlier impressions counts."""
    world = make_world(WorldSettings(users=40))
    tired = simulate_day(world, MONDAY)
    of_author, of_tag = simulated_day.TIRED_OF_AUTHOR, simulated_day.TIRED_OF_TAG
    monkeypatch.setattr(simulated_day, "TIRED_OF_AUTHOR", 0.0)
    monkeypatch.setattr(simulated_day, "TIRED_OF_TAG", 0.0)
    untired = simulate_day(world, MONDAY)
    np.testing.assert_array_equal(tired.item, untired.item)
    author, tag, session = world.item_author[tired.item], world.item_tag[tired.item], sessions_of(world, tired)
    lost = np.zeros(len(tired.item))
    for row in range(len(lost)):
        passed = (session == session[row]) & (tired.time_ms < tired.time_ms[row]) & ~tired.acted["click"]
        lost[row] += of_author * (author[passed] == author[row]).sum() + of_tag * (tag[passed] == tag[row]).sum()
    assert (lost > 2).sum() > 10
    np.testing.assert_allclose(logits(tired.truth["click"]), logits(untired.truth["click"]) - lost, atol=1e-8)


def test_users_and_sessions_click_more_or_less_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user does so on every day, but not in the control, where a session alone does."""
    monkeypatch.setattr(simulated_day, "TIRED_OF_AUTHOR", 0.0)
    monkeypatch.setattr(simulated_day, "TIRED_OF_TAG", 0.0)

    def click_logits(long_range: bool = True) -> Floats:
        return logits(simulate_day(make_world(replace(settings, long_range=long_range)), MONDAY).truth["click"])

    settings = WorldSettings(users=200)
    world, both, control = make_world(settings), click_logits(), click_logits(long_range=False)
    day = simulate_day(world, MONDAY)
    monkeypatch.setattr(simulated_world, "USER_ATTENTION", 0.0)
    np.testing.assert_allclose(both - click_logits(), world.user_attention[day.user], atol=1e-8)
    np.testing.assert_array_equal(control, click_logits(long_range=False))
    assert 0.8 < world.user_attention.std() / 0.4 < 1.2
    session = sessions_of(world, day)
    before = click_logits()
    monkeypatch.setattr(simulated_day, "SESSION_ATTENTION", 0.0)
    attention = before - click_logits()
    _, first, number = np.unique(session, return_index=True, return_inverse=True)
    np.testing.assert_allclose(attention, attention[first][number], atol=1e-8)
    assert 0.9 < attention[first].std() / 0.5 < 1.1


def test_delayed_actions_have_times_in_their_rows_and_are_delivered_after_the_last(day: Impressions) -> None:
    world = make_world(WorldSettings(users=600))
    rows = raw_rows(world, day, np.arange(len(day.item)))
    last = day.time_ms.copy()
    for name in AFTER_CLICK:
        times = rows.column(f"{name}_ms")
        happened = times.is_valid().to_numpy()
        np.testing.assert_array_equal(happened, day.acted[name])
        delay = (times.drop_null().to_numpy() - day.time_ms[happened]) / 1_000
        assert delay.min() >= 0
        assert 0.5 < np.median(delay) / AFTER_CLICK[name][3] < 2
        last[happened] = np.maximum(last[happened], times.drop_null().to_numpy())
    np.testing.assert_array_equal(day.delivered_ms, last)


def test_rows_whose_actions_come_late_lie_in_the_next_days_file_with_their_truth() -> None:
    world = make_world(WorldSettings(users=2_000))
    first, second = (simulate_day(world, MONDAY + timedelta(days=n)) for n in range(2))
    rows, truth = day_file(world, second, first)
    times = rows.column("time_ms").to_numpy()
    late = times < midnight_of(second.day)
    assert 0 < first.is_late.sum() <= late.sum() <= first.is_late.sum() + 5  # some were sent twice
    assert (times[late] >= midnight_of(first.day)).all()
    assert rows.column("item_id").null_count > 0
    complete = rows.filter(rows.column("item_id").is_valid())
    keys = {tuple(row.values()) for row in complete.select(["user_id", "time_ms", "item_id"]).to_pylist()}
    truth_keys = [tuple(row.values()) for row in truth.select(["user_id", "time_ms", "item_id"]).to_pylist()]
    assert len(truth_keys) == len(set(truth_keys))
    assert keys == set(truth_keys)
    assert complete.num_rows > len(truth_keys)  # some were sent twice


def test_users_and_items_grow_daily() -> None:
    world = make_world(WorldSettings(users=1_000, items=2_000, user_growth=0.01, item_growth=0.02))
    start, later = simulate_day(world, MONDAY), simulate_day(world, MONDAY + timedelta(days=10))
    assert (world.users_on(start.day), world.users_on(later.day)) == (1_000, 1_100)
    assert (world.items_on(start.day), world.items_on(later.day)) == (2_000, 2_400)
    assert start.user.max() < 1_000 <= later.user.max() < 1_100
    assert start.item.max() < 2_000 <= later.item.max() < 2_400


def test_lasting_interests_are_as_many_as_asked_and_found_from_either_side() -> None:
    world = make_world(WorldSettings(users=5, interests=160))
    assert world.authors == prime_from(1_000) == 1_009
    user, author = np.repeat(np.arange(5), world.authors), np.tile(np.arange(world.authors), 5)
    listed_by_author = [set(author[(user == u) & world.lasting.include(user, author)].tolist()) for u in range(5)]
    listed = [set(world.lasting.subject(np.full(160, u), np.arange(160)).tolist()) for u in range(5)]
    assert listed_by_author == listed
    assert {len(authors) for authors in listed_by_author} == {160}
    assert len(set.intersection(*listed_by_author)) < 20
    assert (inverse_mod(np.arange(1, 1_009), 1_009) * np.arange(1, 1_009) % 1_009 == 1).all()


def clicked_before(long_range: bool) -> tuple[float, float]:
    """How often an impression is clicked on a fresh day where its author was clicked by the user 8 to 5 days before,
    and where it was shown but was not."""
    world = make_world(WorldSettings(users=300, long_range=long_range))
    past = [simulate_day(world, MONDAY + timedelta(days=n)) for n in range(4)]
    today = simulate_day(world, MONDAY + timedelta(days=8))

    def pairs(impressions: list[Impressions], clicked: bool | None) -> set[tuple[int, int]]:
        return {
            (user, author)
            for day in impressions
            for user, author, click in zip(day.user, world.item_author[day.item], day.acted["click"], strict=True)
            if clicked is None or click == clicked
        }

    liked = pairs(past, True)
    shown = pairs(past, None) - liked
    keys = list(zip(today.user, world.item_author[today.item], strict=True))
    click = today.acted["click"]
    rates = [click[np.array([key in chosen for key in keys])].mean() for chosen in (liked, shown)]
    return float(rates[0]), float(rates[1])


def test_what_a_user_clicked_days_ago_tells_only_where_there_is_long_range_signal() -> None:
    liked, shown = clicked_before(True)
    assert liked > shown + 0.2
    liked, shown = clicked_before(False)
    assert abs(liked - shown) < 0.03


def test_nothing_of_the_product_reads_the_truth() -> None:
    """Only the program that writes truth/ names it: no other source file of the product holds the word as a string."""
    writers = {"spark_jobs/simulate.py"}
    for package in ("contracts", "spark_jobs", "model", "components", "dags", "longreel"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            tree = ast.parse(path.read_text())
            docs = {ast.get_docstring(n, clean=False) for n in ast.walk(tree) if isinstance(n, ast.Module)}
            texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
            mentions = [text for text in texts if "truth" in text.split("/") and text not in docs]
            assert name in writers or (not mentions and "TRUTH" not in imported), name
