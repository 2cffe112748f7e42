"""The simulated log of a shop: any day again, outcomes that follow the truth, and what only a long history tells."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from spark_helpers import longreel

from longreel.contracts.config import parse_config
from longreel.contracts.log_schema import KINDS, PLACES
from longreel.contracts.presets import preset
from longreel.contracts.sql_names import names_in
from longreel.lake.home import Home
from longreel.spark_jobs.simulated_shop import (
    ITEMS_PER_BRAND,
    LEAVES,
    STAPLES,
    ShopSettings,
    brand_name,
    make_shop,
    user_table,
)
from longreel.spark_jobs.simulated_shop_day import (
    BOUGHT_LABEL_S,
    CART_LABEL_S,
    PURCHASE_S,
    ShopImpressions,
    raw_rows,
    shop_file,
    simulate_shop_day,
)

MONDAY = date(2026, 1, 5)
SETTINGS = ShopSettings(users=600)
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def day() -> ShopImpressions:
    return simulate_shop_day(make_shop(SETTINGS), date(2026, 1, 7))


@pytest.fixture(scope="module")
def rows(day: ShopImpressions) -> pa.Table:
    return shop_file(make_shop(SETTINGS), day)[0]


def shop_home(folder: Any) -> Home:
    folder.mkdir()
    (folder / "longreel.toml").write_text(preset("shop"))
    return Home(folder)


def test_days_are_the_same_however_they_were_asked_for(tmp_path: Any) -> None:
    once, twice = shop_home(tmp_path / "once"), shop_home(tmp_path / "twice")
    small = ("--users", "60", "--items", "900", "--seed", "3")
    assert longreel(once, "simulate", "--days", "3", "--bootstrap-days", "6", *small) == 0
    assert longreel(twice, "simulate", "--days", "1", "--bootstrap-days", "6", *small) == 0
    assert longreel(twice, "simulate", "--days", "2") == 0
    files = [sorted((home.path).rglob("*.parquet")) for home in (once, twice)]
    assert len(files[0]) == 1 + 2 + 2 * 3  # users, two months of older history, log and truth of three days
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len({path.read_bytes() for path in files[0]}) == len(files[0])
    assert longreel(twice, "simulate", "--users", "61") == 2


def test_older_history_holds_clicks_and_what_came_of_them(tmp_path: Any) -> None:
    home = shop_home(tmp_path / "home")
    assert longreel(home, "simulate", "--bootstrap-days", "6", "--users", "40", "--items", "900") == 0
    (path, newest) = sorted((home.log / "history").glob("*.parquet"))
    older = pa.concat_tables([pq.read_table(path), pq.read_table(newest)])
    assert older.column("clicked_at").null_count == 0 < older.column("carted_at").null_count < older.num_rows
    assert pc.max(older.column("shown_at")).as_py() < datetime(2026, 1, 5, tzinfo=ZoneInfo("Europe/Berlin"))


def test_the_preset_declares_every_place_and_kind_over_columns_that_the_log_has(rows: pa.Table) -> None:
    config = parse_config(preset("shop"))
    schema, source = config.log_schema, config.source
    assert {field.place for field in schema.fields} == set(PLACES)
    assert {field.kind for field in schema.fields} == set(KINDS)
    columns = {*rows.column_names, *source.derived}
    stored = [field for field in schema.fields if field.is_stored and field.name != "item_id"]
    expressions = [source.user_id, source.item_id, source.time_ms, source.request_id, source.where]
    expressions += [action.when for action in schema.actions] + [action.at for action in schema.actions]
    expressions += [*source.derived.values(), *(f.source or f.name for f in stored if f.place != "user")]
    assert set().union(*map(names_in, expressions)) <= columns
    assert {f.source or f.name for f in stored if f.place == "user"} <= set(
        user_table(make_shop(SETTINGS)).column_names
    )
    assert schema.label("cart").within_ms == 1_000 * CART_LABEL_S
    assert schema.label("bought").within_ms == schema.label("spent").within_ms == 1_000 * BOUGHT_LABEL_S
    assert 3_600 * source.outcome_hours == PURCHASE_S


def test_rates_and_delays_are_plausible(day: ShopImpressions) -> None:
    clicks, carts, purchases = day.clicked_ms >= 0, day.carted_ms >= 0, day.bought_ms >= 0
    for happened, low, high in ((clicks, 0.15, 0.3), (carts, 0.03, 0.1), (purchases, 0.015, 0.05)):
        assert low < happened.mean() < high
    assert (clicks[carts]).all()
    assert (carts[purchases]).all()
    assert (day.carted_ms[carts] > day.clicked_ms[carts]).all()
    assert (day.bought_ms[purchases] > day.carted_ms[purchases]).all()
    hours = (day.bought_ms - day.time_ms)[purchases] / HOUR_MS
    assert (hours > 24).mean() > 0.03
    assert (hours > 48).any()
    assert hours.max() <= 72
    assert (np.isnan(day.paid) == ~purchases).all()


def test_labels_happen_as_often_as_the_truth_says(day: ShopImpressions) -> None:
    """In ten groups of impressions by their true mean, the label's sum is within 4.5 standard errors of theirs."""
    bought = (day.bought_ms >= 0) & (day.bought_ms - day.time_ms <= 1_000 * BOUGHT_LABEL_S)
    labels = {
        "p_click": day.clicked_ms >= 0,
        "p_cart": (day.carted_ms >= 0) & (day.carted_ms - day.time_ms <= 1_000 * CART_LABEL_S),
        "p_bought": bought,
        "mean_spent": np.where(bought, np.log1p(day.paid), 0),
    }
    assert day.truth.keys() == labels.keys()
    for name, label in labels.items():
        for group in np.array_split(np.argsort(day.truth[name]), 10):
            mean, happened = day.truth[name][group], label[group].astype(float)
            error = np.sqrt(((happened - mean) ** 2).sum())
            assert abs((happened - mean).sum()) < 4.5 * max(error, 1), name


def test_a_file_has_the_days_rows_in_berlin_and_their_truth(day: ShopImpressions, rows: pa.Table) -> None:
    midnight = datetime(2026, 1, 7, tzinfo=ZoneInfo("Europe/Berlin"))
    assert midnight.astimezone(UTC).hour == 23
    shown = rows.column("shown_at")
    assert midnight <= pc.min(shown).as_py() < pc.max(shown).as_py() < midnight + timedelta(days=1)
    people = rows.filter(pc.equal(rows.column("traffic"), "human"))
    bots = rows.filter(pc.equal(rows.column("traffic"), "bot"))
    assert 0.005 * people.num_rows < bots.num_rows < 0.02 * people.num_rows
    assert bots.column("clicked_at").null_count == bots.num_rows
    assert not set(bots.column("uid").to_pylist()) & set(people.column("uid").to_pylist())
    whole = people.filter(people.column("sku").is_valid())
    assert 0 < people.num_rows - whole.num_rows < 0.001 * people.num_rows
    keys = pa.table(
        [whole.column("uid"), whole.column("shown_at").cast(pa.int64()), whole.column("sku")], ["u", "t", "i"]
    )
    truth = shop_file(make_shop(SETTINGS), day)[1]
    names = ["user_id", "time_ms", "item_id"]
    assert {tuple(row.values()) for row in keys.to_pylist()} == {
        tuple(row.values()) for row in truth.select(names).to_pylist()
    }
    assert truth.num_rows < whole.num_rows  # some were sent twice


def test_a_day_of_23_hours_ends_at_its_own_midnight() -> None:
    shop = make_shop(ShopSettings(users=2_000, start="2026-03-20"))
    times = simulate_shop_day(shop, date(2026, 3, 29)).time_ms
    start = 1_000 * int(datetime(2026, 3, 29, tzinfo=ZoneInfo("Europe/Berlin")).timestamp())
    assert start <= times.min() < times.max() < start + 23 * HOUR_MS


def test_titles_prices_and_names(rows: pa.Table) -> None:
    titles, skus = rows.column("title_embedding"), rows.column("sku")
    assert 0 < titles.null_count < 0.1 * rows.num_rows
    assert set(pc.list_value_length(titles.drop_null()).to_pylist()) == {16}
    by_sku = dict(zip(skus.to_pylist(), titles.to_pylist(), strict=True))
    assert all(by_sku[sku] == title for sku, title in zip(skus.to_pylist(), titles.to_pylist(), strict=True) if sku)
    price, list_price = (rows.column(name).to_numpy() for name in ("price", "list_price"))
    assert price.min() > 0
    assert 0.05 < (price < list_price).mean() < 0.3
    assert len({brand_name(number) for number in range(3_000)}) == 3_000
    paths = set(rows.column("category_path").to_pylist())
    assert {path.count("/") for path in paths} == {2}
    assert len(paths) == LEAVES
    is_search = pc.equal(rows.column("page"), "search").to_numpy()
    assert (rows.column("query").is_valid().to_numpy() == is_search).all()


def test_prices_change_over_time() -> None:
    shop, item = make_shop(SETTINGS), np.arange(2_000)
    monday, tuesday, later = (shop.list_price(MONDAY + timedelta(days=n), item) for n in (0, 1, 30))
    assert 0.05 < (monday != tuesday).mean() < 0.2  # a list price lasts ten days
    assert (monday != later).mean() > 0.9
    sales = [shop.discount(MONDAY + timedelta(days=n), item) > 0 for n in range(4)]
    assert 0.08 < sales[0].mean() < 0.17
    assert (sales[0] & sales[1]).sum() > (sales[0] & sales[3]).sum()


def test_new_users_and_products_come_daily() -> None:
    shop = make_shop(ShopSettings(users=1_000, items=2_000, user_growth=0.01, item_growth=0.02))
    start, later = simulate_shop_day(shop, MONDAY), simulate_shop_day(shop, MONDAY + timedelta(days=10))
    assert start.user.max() < 1_000 <= later.user.max() < 1_100
    assert start.item.max() < 2_000 <= later.item.max() < 2_400


def test_staples_are_bought_on_their_days_and_brands_stay_loved() -> None:
    shop = make_shop(ShopSettings(users=1_000))
    rates: dict[str, list[float]] = {"due": [], "not due": [], "loyal": [], "other": []}
    for number in range(3):
        today = MONDAY + timedelta(days=number)
        shown = simulate_shop_day(shop, today)
        is_staple = shop.staples[shown.user] == shown.item[:, None]
        assert is_staple.shape[1] == STAPLES
        due = (is_staple & shop.is_due(today)[shown.user]).any(axis=1)
        loyal = shop.loyal.include(shown.user, shop.item_brand[shown.item])
        bought = shown.bought_ms >= 0
        groups = (due, is_staple.any(axis=1) & ~due, loyal & ~due, ~loyal & ~due)
        for name, group in zip(rates, groups, strict=True):
            rates[name].append(bought[group].mean())
    due, not_due, loyal, other = (np.mean(values) for values in rates.values())
    assert due > 3 * not_due > 0
    assert not_due > 2 * other
    assert loyal > 2 * other


def clicked_before(long_range: bool) -> tuple[float, float]:
    """How often a product is clicked on a fresh day where its brand was clicked by the user 8 to 5 days before, and
    where it was shown but was not."""
    shop = make_shop(ShopSettings(users=300, long_range=long_range))
    past = [simulate_shop_day(shop, MONDAY + timedelta(days=number)) for number in range(4)]
    today = simulate_shop_day(shop, MONDAY + timedelta(days=8))

    def pairs(shown: ShopImpressions) -> np.ndarray:
        return np.asarray(shown.user * shop.brands + shop.item_brand[shown.item])

    clicked = np.concatenate([pairs(shown)[shown.clicked_ms >= 0] for shown in past])
    unclicked = np.setdiff1d(np.concatenate([pairs(shown) for shown in past]), clicked)
    click = today.clicked_ms >= 0
    return click[np.isin(pairs(today), clicked)].mean(), click[np.isin(pairs(today), unclicked)].mean()


def test_brands_clicked_days_ago_tell_only_where_there_is_long_range_signal() -> None:
    liked, shown = clicked_before(True)
    assert liked > shown + 0.1
    liked, shown = clicked_before(False)
    assert abs(liked - shown) < 0.03


def test_a_products_brand_has_one_place_in_the_catalogue_mostly() -> None:
    shop = make_shop(SETTINGS)
    assert shop.brands >= SETTINGS.items // ITEMS_PER_BRAND
    home = shop.item_leaf == shop.item_brand % LEAVES
    assert 0.65 < home.mean() < 0.75
    shown = simulate_shop_day(shop, MONDAY)
    table = raw_rows(shop, shown, np.arange(50))
    assert table.column("brand").to_pylist() == [brand_name(n) for n in shop.item_brand[shown.item[:50]]]
