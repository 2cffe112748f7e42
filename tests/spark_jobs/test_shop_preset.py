"""The preset `shop` on a day of its simulated log: what ingest and the samples make of it is what was simulated."""

from datetime import date

import numpy as np
import pytest
from spark_helpers import longreel

from longreel.contracts.presets import preset
from longreel.lake.home import Home
from longreel.model.data.row_groups import read_rows, row_groups
from longreel.spark_jobs.simulated_shop import PATHS, ShopSettings, make_shop
from longreel.spark_jobs.simulated_shop_day import BOUGHT_LABEL_S, CART_LABEL_S, ShopImpressions, simulate_shop_day

DAY = date(2026, 1, 5)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one day of 60 users, up to samples."""
    folder = tmp_path_factory.mktemp("shop") / "home"
    folder.mkdir()
    (folder / "longreel.toml").write_text(preset("shop"))
    home = Home(folder)
    assert longreel(home, "simulate", "--users", "60", "--items", "900") == 0
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    return home


def simulated() -> ShopImpressions:
    return simulate_shop_day(make_shop(ShopSettings(users=60, items=900)), DAY)


def test_events_hold_what_was_simulated(home: Home) -> None:
    manifest, day = home.lake.require("events", DAY), simulated()
    table = home.lake.read(manifest)
    columns = {name: table.column(name).to_numpy() for name in ("user_id", "time_ms", "item_id")}
    shown = zip(day.user.tolist(), day.time_ms.tolist(), day.item.tolist(), strict=True)
    place_of = {key: number for number, key in enumerate(shown)}
    place = np.array([place_of[key] for key in zip(*(values.tolist() for values in columns.values()), strict=True)])
    assert len(place) == len(set(place.tolist())) > 0.999 * len(day.item)  # but for rows that lost their product
    assert manifest.counts["filtered_rows"] > 0  # crawlers

    delay = {"cart": day.carted_ms - day.time_ms, "purchase": day.bought_ms - day.time_ms}
    clicks, carts, purchases = (times[place] >= 0 for times in (day.clicked_ms, day.carted_ms, day.bought_ms))
    actions, labels = table.column("actions").to_numpy(), table.column("labels").to_numpy()
    assert (actions == clicks + 2 * carts + 4 * purchases).all()
    in_time = carts & (delay["cart"][place] <= 1_000 * CART_LABEL_S)
    bought = purchases & (delay["purchase"][place] <= 1_000 * BOUGHT_LABEL_S)
    assert 0 < bought.sum() < purchases.sum()
    assert (labels == clicks + 2 * in_time + 4 * bought).all()
    assert np.allclose(
        table.column("label_spent").to_numpy(), np.where(bought, np.log1p(day.paid[place]), 0), rtol=1e-5
    )
    assert (table.column("history").to_numpy() == clicks + 2 * carts + 4 * purchases).all()
    assert np.allclose(table.column("paid").to_numpy(), day.paid[place], equal_nan=True)
    assert np.allclose(table.column("dwell_ms").to_numpy(), 1_000 * day.dwell_s[place], equal_nan=True)
    assert np.allclose(table.column("price").to_numpy(), np.log(day.price[place]), rtol=1e-4)
    assert {len(path) for path in table.column("category").to_pylist()} == {len(PATHS[0].split("/"))}
    names = {name for _, name, _ in manifest.details["categories"]["device"]}
    assert names == {"desktop", "mobile", "app"}


def test_histories_know_carts_and_purchases_from_their_own_time_on(home: Home) -> None:
    lake = home.lake
    rows, day = read_rows(lake, row_groups(lake, [lake.require("samples", DAY)])[0]), simulated()
    happened = {1: day.clicked_ms, 2: day.carted_ms, 4: day.bought_ms}
    for bit, times in happened.items():
        events = rows.history["actions"] == bit
        assert (times >= 0).sum() >= events.sum() > 0.99 * (times >= 0).sum()  # click, cart, purchase: one event each
    is_purchase = rows.history["actions"] == 4
    assert set(rows.history["time_ms"][is_purchase].tolist()) <= set(day.bought_ms.tolist())
    assert (np.isnan(rows.history["paid"]) == ~is_purchase).all()
    assert rows.history["time_ms"].max() > rows.request_time_ms.max()  # bought after the day; no request sees it
    assert not {"paid", "dwell_ms"} & rows.target.keys()
