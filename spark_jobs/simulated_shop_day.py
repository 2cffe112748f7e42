"""One simulated day of a shop: requests, impressions, clicks, carts and purchases, without a loop over rows.

Every probability that an outcome is drawn with is kept as the truth that a model is measured against.
"""

from dataclasses import dataclass, field
from datetime import date, timedelta
from statistics import NormalDist
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from longreel.spark_jobs.simulated_sessions import (
    Sessions,
    WeightedItems,
    any_of,
    draw_sessions,
    midnight_ms,
    sent_rows,
    sigmoid,
)
from longreel.spark_jobs.simulated_shop import (
    DEVICES,
    LEAF_DEPARTMENT,
    LEAF_IS_CONSUMED,
    LEAVES,
    PATHS,
    TITLE,
    Shop,
    brand_name,
)
from longreel.spark_jobs.simulated_world import Bools, Floats, Ints, mix

CLOCK = ZoneInfo("Europe/Berlin")
SHOWN = (6, 19)  # products of a request
BOT_SHARE = 0.01  # rows of crawlers, beside those of people
BOTS_FROM = 9_000_000  # their user ids
UNTITLED_SHARE = 0.03  # products without a title vector

# The logging policy: pages, and where a page's products come from. Without long-range interests, the sources that know
# them show anything instead.
PAGES = ("home", "search", "listing", "recommended")
PAGE_ODDS = (0.2, 0.4, 0.2, 0.2)
SOURCES = ("intent", "brand", "loyal", "staple", "liked", "popular", "explore")
SOURCE_ODDS = np.array(
    [
        (0.05, 0.00, 0.35, 0.22, 0.10, 0.14, 0.14),
        (0.55, 0.10, 0.12, 0.05, 0.00, 0.06, 0.12),
        (0.75, 0.00, 0.10, 0.05, 0.00, 0.05, 0.05),
        (0.10, 0.00, 0.40, 0.14, 0.14, 0.10, 0.12),
    ]
)
LONG_SOURCES = ("loyal", "staple", "liked")

# Delays after the impression: median in seconds and spread of the logarithm. A cart takes at most CART_S; a purchase
# later than PURCHASE_S is no longer attributed to the impression.
CART_DELAY, CART_S = (150, 1.0), 12 * 3_600
PURCHASE_DELAY, PURCHASE_S = (4_500, 2.2), 72 * 3_600
CART_LABEL_S, BOUGHT_LABEL_S = 3_600, 48 * 3_600  # what the labels of contracts/presets/shop.toml wait for
QUANTITY_ODDS = ((1.0, 0.0, 0.0), (0.6, 0.25, 0.15))  # of 1, 2, 3 pieces: things kept, things consumed


@dataclass(frozen=True)
class ShopRequests:
    """The day's requests `[R]`, ordered by user and time, and the intents of their sessions `[S]`."""

    sessions: Sessions
    page: Ints
    device: Ints
    is_brand_search: Bools
    shown: Ints
    leaf: Ints  # [S]
    brand: Ints  # [S]


@dataclass(frozen=True)
class ShopImpressions:
    """A day's impressions `[N]`, ordered by request. Times are of the epoch, -1 where nothing happened."""

    day: date
    requests: ShopRequests
    request: Ints
    position: Ints
    item: Ints
    list_price: Floats
    price: Floats
    clicked_ms: Ints
    dwell_s: Floats
    carted_ms: Ints
    bought_ms: Ints
    paid: Floats
    truth: dict[str, Floats] = field(repr=False)  # by column of the truth

    @property
    def user(self) -> Ints:
        """[N] whom the product was shown to."""
        return self.requests.sessions.user[self.request]

    @property
    def time_ms(self) -> Ints:
        """[N] when."""
        return self.requests.sessions.time_ms[self.request]


def draw_requests(shop: Shop, day: date, rng: np.random.Generator) -> ShopRequests:
    """The requests of the day's sessions; a session has one intent and mostly the user's own device."""
    start, end = midnight_ms(day, CLOCK), midnight_ms(day + timedelta(days=1), CLOCK)
    sessions = draw_sessions(shop.user_daily[: shop.users_on(day)], start, end - start, sum(SHOWN) // 2, rng)
    requests = len(sessions.user)
    user = np.zeros(sessions.count, np.int64)
    user[sessions.session] = sessions.user
    leaf = rng.integers(0, LEAVES, sessions.count)
    if shop.settings.long_range:
        leaf = np.where(rng.random(sessions.count) < 0.5, any_of(shop.user_leaves, user, rng), leaf)
    own = rng.random(sessions.count) < 0.75
    device = np.where(own, shop.user_device[user], rng.integers(0, len(DEVICES), sessions.count))
    page = np.searchsorted(np.cumsum(PAGE_ODDS)[:-1], rng.random(requests), side="right")
    return ShopRequests(
        sessions=sessions,
        page=page,
        device=device[sessions.session],
        is_brand_search=(page == PAGES.index("search")) & (rng.random(requests) < 0.3),
        shown=rng.integers(*SHOWN, requests),
        leaf=leaf,
        brand=shop.loyal.draw(user, rng) if shop.settings.long_range else rng.integers(0, shop.brands, sessions.count),
    )


def draw_items(shop: Shop, day: date, requests: ShopRequests, row: Ints, rng: np.random.Generator) -> Ints:
    """The product of each impression, by the logging policy; `row` names its request."""
    items = shop.items_on(day)
    fashion = np.random.default_rng([shop.settings.seed, 25, day.toordinal() // 7]).lognormal(0, 0.6, items)
    weight = shop.item_weight[:items] * fashion
    by_leaf = WeightedItems(shop.item_leaf[:items], LEAVES, weight)
    by_brand = WeightedItems(shop.item_brand[:items], shop.brands, weight)
    everything = WeightedItems(np.zeros(items, np.int64), 1, weight)
    due = shop.is_due(day)
    source = (rng.random(len(row))[:, None] > np.cumsum(SOURCE_ODDS, axis=1)[requests.page[row], :-1]).sum(axis=1)
    brand_search = requests.is_brand_search[row] & (source == SOURCES.index("intent"))
    source[brand_search & (rng.random(len(row)) < 0.6)] = SOURCES.index("brand")
    item = rng.integers(0, items, len(row))
    for number, name in enumerate(SOURCES):
        where = np.flatnonzero(source == number)
        user, session = requests.sessions.user[row[where]], requests.sessions.session[row[where]]
        if name == "intent":
            item[where] = by_leaf.draw(requests.leaf[session], rng)
        elif name == "brand":
            item[where] = by_brand.draw(requests.brand[session], rng)
        elif name == "popular":
            item[where] = everything.draw(np.zeros(len(where), np.int64), rng)
        elif name in LONG_SOURCES and shop.settings.long_range:
            if name == "loyal":
                item[where] = by_brand.draw(shop.loyal.draw(user, rng), rng)
            elif name == "liked":
                item[where] = by_leaf.draw(any_of(shop.user_leaves, user, rng), rng)
            else:  # of two staples, one that is due if there is one
                slot, other = rng.integers(0, due.shape[1], (2, len(where)))
                item[where] = shop.staples[user, np.where(due[user, slot], slot, other)]
    return item


def probabilities(
    shop: Shop, day: date, requests: ShopRequests, row: Ints, position: Ints, item: Ints
) -> tuple[Floats, Floats, Floats]:
    """The true probability of a click, of a cart given a click, and of a purchase given a cart."""
    sessions, user = requests.sessions, requests.sessions.user[row]
    leaf, session = shop.item_leaf[item], sessions.session[row]
    fits = 1.0 * (requests.leaf[session] == leaf)
    near = 1.0 * (LEAF_DEPARTMENT[requests.leaf[session]] == LEAF_DEPARTMENT[leaf])
    sale = shop.discount(day, item)
    click = -3.4 + 1.3 * fits + 0.4 * near + 1.2 * shop.item_quality[item] + 1.5 * sale - 0.05 * position
    cart = -1.6 + 0.5 * fits + 0.6 * shop.item_quality[item] + 2.0 * sale
    purchase = -0.3 + 2.0 * sale + np.array([0.3, -0.4, 0.1])[requests.device[row]]
    if shop.settings.long_range:
        loyal = 1.0 * shop.loyal.include(user, shop.item_brand[item])
        liked = 1.0 * (shop.user_leaves[user] == leaf[:, None]).any(axis=1)
        is_staple = shop.staples[user] == item[:, None]
        staple, due = 1.0 * is_staple.any(axis=1), 1.0 * (is_staple & shop.is_due(day)[user]).any(axis=1)
        style = (shop.user_style[user] * shop.item_style[item]).sum(axis=1)
        dear = np.abs(shop.item_tier[item] - shop.user_level[user])
        abroad = 1.0 * (shop.user_country[user] > 0)
        click += shop.user_bias[user] + 2.4 * loyal + 0.5 * liked + 0.5 * style - 0.3 * dear
        click += 0.4 * shop.suits_age(user, leaf) + 1.0 * staple + 2.0 * due
        cart += 0.8 * loyal + 0.3 * style - 0.3 * dear + 0.8 * staple + 1.6 * due
        purchase += 0.8 * loyal - 0.3 * dear - 0.4 * abroad + 0.6 * staple + 1.4 * due
    return sigmoid(click), sigmoid(cart), sigmoid(purchase)


def simulate_shop_day(shop: Shop, day: date) -> ShopImpressions:
    """A day's impressions. The same shop and day give the same ones, whatever was simulated before."""
    rng = np.random.default_rng([shop.settings.seed, 26, day.toordinal()])
    requests = draw_requests(shop, day, rng)
    row = np.repeat(np.arange(len(requests.shown)), requests.shown)
    item = draw_items(shop, day, requests, row, rng)
    _, first = np.unique(row * len(shop.item_leaf) + item, return_index=True)  # a product appears once in a request
    first.sort()
    row, item = row[first], item[first]
    position = np.arange(len(row)) - np.searchsorted(row, row)
    p_click, p_cart, p_purchase = probabilities(shop, day, requests, row, position, item)
    n, shown_ms = len(row), requests.sessions.time_ms[row]
    clicks = rng.random(n) < p_click
    carts = clicks & (rng.random(n) < p_cart)
    purchases = carts & (rng.random(n) < p_purchase)
    clicked = shown_ms + (1_000 * rng.uniform(1, 12, n)).astype(np.int64)
    carted = np.maximum(clicked + 1_000, shown_ms + _delay(rng, CART_DELAY, CART_S, n))
    bought = np.maximum(carted + 30_000, shown_ms + _delay(rng, PURCHASE_DELAY, 2 * PURCHASE_S, n))
    purchases &= bought <= shown_ms + 1_000 * PURCHASE_S
    list_price = shop.list_price(day, item)
    price = np.round(list_price * (1 - shop.discount(day, item)), 2)
    quantity_odds = np.array(QUANTITY_ODDS)[LEAF_IS_CONSUMED[shop.item_leaf[item]].astype(np.int64)]
    quantity = 1 + (rng.random(n)[:, None] > np.cumsum(quantity_odds, axis=1)[:, :-1]).sum(axis=1)
    p_bought = p_click * p_cart * p_purchase * _within(PURCHASE_DELAY, BOUGHT_LABEL_S)
    log_paid = (quantity_odds * np.log1p(price[:, None] * np.arange(1, 4))).sum(axis=1)
    return ShopImpressions(
        day=day,
        requests=requests,
        request=row,
        position=position,
        item=item,
        list_price=list_price,
        price=price,
        clicked_ms=np.where(clicks, clicked, -1),
        dwell_s=np.where(clicks, np.round(np.minimum(rng.lognormal(2 + 0.8 * carts, 0.8, n), 600), 1), np.nan),
        carted_ms=np.where(carts, carted, -1),
        bought_ms=np.where(purchases, bought, -1),
        paid=np.where(purchases, np.round(quantity * price, 2), np.nan),
        truth={
            "p_click": p_click,
            "p_cart": p_click * p_cart * _within(CART_DELAY, CART_LABEL_S),
            "p_bought": p_bought,
            "mean_spent": p_bought * log_paid,
        },
    )


def _delay(rng: np.random.Generator, delay: tuple[float, float], longest_s: float, n: int) -> Ints:
    median, spread = delay
    seconds = np.minimum(median * rng.lognormal(0, spread, n), longest_s)
    return np.asarray((1_000 * seconds).astype(np.int64))


def _within(delay: tuple[float, float], seconds: float) -> float:
    """The probability that a delay is at most so long."""
    median, spread = delay
    return NormalDist().cdf(np.log(seconds / median) / spread)


def raw_rows(shop: Shop, shown: ShopImpressions, rows: Ints, missing: Bools | None = None) -> pa.Table:
    """Impressions `rows` as the shop's raw rows; those in `missing` [n] have lost their product."""
    request, item = shown.request[rows], shown.item[rows]
    requests, leaf, brand = shown.requests, shop.item_leaf[item], shop.item_brand[item]
    group = pc.binary_join_element_wise(pa.scalar(f"{shown.day:%y%m%d}"), pc.cast(pa.array(request), pa.string()), "-")
    return pa.table(
        {
            "uid": requests.sessions.user[request],
            "sku": pa.array(item, mask=missing),
            "shown_at": _timestamps(requests.sessions.time_ms[request]),
            "impression_group": group,
            "traffic": pa.array(["human"] * len(rows)),
            "page": _names(PAGES, requests.page[request]),
            "query": _queries(requests, request),
            "position": shown.position[rows],
            "device": _names(DEVICES, requests.device[request]),
            "brand": _names([brand_name(number) for number in range(shop.brands)], brand),
            "category_path": _names(PATHS, leaf),
            "list_price": shown.list_price[rows],
            "price": shown.price[rows],
            "title_embedding": _titles(shop, item),
            "clicked_at": _timestamps(shown.clicked_ms[rows]),
            "dwell_s": pa.array(shown.dwell_s[rows], from_pandas=True),
            "carted_at": _timestamps(shown.carted_ms[rows]),
            "bought_at": _timestamps(shown.bought_ms[rows]),
            "paid_amount": pa.array(shown.paid[rows], from_pandas=True),
        }
    )


def _timestamps(times: Ints) -> pa.Array:
    return pa.array(times, mask=times < 0).cast(pa.timestamp("ms", "UTC"))


def _names(names: tuple[str, ...] | list[str], number: Ints) -> pa.Array:
    return pa.array(list(names)).take(pa.array(number))


def _queries(requests: ShopRequests, request: Ints) -> pa.Array:
    """What was searched for: a category, or a brand and a category; null on other pages."""
    session = requests.sessions.session[request]
    leaf = _names([path.split("/")[-1] for path in PATHS], requests.leaf[session])
    brands = int(requests.brand.max(initial=0)) + 1
    brand = _names([brand_name(number).lower() for number in range(brands)], requests.brand[session])
    query = pc.if_else(pa.array(requests.is_brand_search[request]), pc.binary_join_element_wise(brand, leaf, " "), leaf)
    is_search = pa.array(requests.page[request] == PAGES.index("search"))
    return pc.if_else(is_search, query, pa.scalar(None, pa.string()))


def _titles(shop: Shop, item: Ints) -> pa.Array:
    """Title vectors as lists of float32; null for products without one."""
    missing = mix(shop.settings.seed, 27, item) % np.uint64(1_000) < 1_000 * UNTITLED_SHARE
    values = pa.array(shop.item_title[item].astype(np.float32).reshape(-1))
    offsets = pa.array(TITLE * np.arange(len(item) + 1), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing))


def truth_rows(shown: ShopImpressions, rows: Ints) -> pa.Table:
    """The true probabilities and means of impressions `rows`, named by user, time and item."""
    keys = {"user_id": shown.user[rows], "time_ms": shown.time_ms[rows], "item_id": shown.item[rows]}
    return pa.table(keys | {name: values[rows].astype(np.float32) for name, values in shown.truth.items()})


def shop_file(shop: Shop, shown: ShopImpressions) -> tuple[pa.Table, pa.Table]:
    """A log day's raw rows by time, crawlers' among them, and the truth of the others."""
    rng = np.random.default_rng([shop.settings.seed, 28, shown.day.toordinal()])
    sent, broken, intact = sent_rows(np.argsort(shown.time_ms, kind="stable"), rng)
    people = raw_rows(shop, shown, sent, broken)
    crawled = np.flatnonzero(rng.random(len(shown.item)) < BOT_SHARE)
    table = pa.concat_tables([people, _as_bots(raw_rows(shop, shown, crawled))])
    return table.sort_by("shown_at"), truth_rows(shown, intact)


def _as_bots(rows: pa.Table) -> pa.Table:
    """The same rows as crawlers leave them: nothing comes of an impression."""
    columns: dict[str, pa.Array | npt.NDArray[np.int64]] = {
        "uid": BOTS_FROM + rows.column("uid").to_numpy() % 7,
        "impression_group": pc.binary_join_element_wise("bot", rows.column("impression_group"), "-"),
        "traffic": pa.array(["bot"] * rows.num_rows),
    }
    nothing = ("clicked_at", "dwell_s", "carted_at", "bought_at", "paid_amount")
    columns |= {name: pa.nulls(rows.num_rows, rows.schema.field(name).type) for name in nothing}
    return pa.table({name: columns.get(name, rows.column(name)) for name in rows.column_names})
