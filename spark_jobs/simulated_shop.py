"""Users, products and prices of a simulated shop: its fixed part, determined by its settings alone.

What a user buys has several time scales, each visible in another part of the history:

    intent     a category, and for some searches a brand, for one session   the newest few dozen events
    staples    products bought again and again, each after its own days     purchases of the same product, days back
    loyal      `interests` brands, permanently                              anything: the rarest recur after thousands
    lasting    liked categories, a price level, a style                     anything; title vectors alone show a style

Text, prices and names are synthetic. NumPy, no Spark.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from longreel.spark_jobs.simulated_world import (
    GROWTH_DAYS,
    Bools,
    Floats,
    Ints,
    LastingInterests,
    WorldSettings,
    grown,
    mix,
    prime_from,
)

# group: its categories. The leaves' paths are the products' category paths.
CATALOG = {
    "home/kitchen": "knives pans cups boards jars",
    "home/living": "lamps rugs pillows candles frames",
    "home/bath": "towels mats mirrors shelves curtains",
    "fashion/women": "dresses shirts jeans coats scarves",
    "fashion/men": "suits sweaters jackets belts socks",
    "fashion/shoes": "sneakers boots sandals loafers slippers",
    "tech/audio": "headphones speakers microphones turntables cables",
    "tech/mobile": "phones cases chargers watches tablets",
    "food/pantry": "coffee tea pasta oil chocolate",
    "food/pets": "catfood dogfood litter treats snacks",
    "care/body": "soap shampoo lotion razors toothpaste",
    "care/cleaning": "detergent tissues sponges bags filters",
}
CONSUMED = ("food", "care")  # departments whose products are bought again
PATHS = tuple(f"{group}/{leaf}" for group, leaves in CATALOG.items() for leaf in leaves.split())
LEAVES = len(PATHS)
DEPARTMENTS = tuple(dict.fromkeys(path.split("/")[0] for path in PATHS))
LEAF_DEPARTMENT = np.array([DEPARTMENTS.index(path.split("/")[0]) for path in PATHS])
LEAF_IS_CONSUMED = np.array([path.split("/")[0] in CONSUMED for path in PATHS])
SYLLABLES = "al bor cen dra el fin gar hol is jun kel lum mar nor or pel qui ros sol tan ul vic wen zor".split()  # noqa: SIM905

DEVICES = ("desktop", "mobile", "app")
COUNTRIES = ("DE", "AT", "CH", "FR", "NL")
COUNTRY_ODDS = (0.62, 0.12, 0.09, 0.1, 0.07)
ITEMS_PER_BRAND = 12
LIKED_LEAVES, STAPLES, STYLES, TITLE = 6, 12, 4, 16
SALE_DAYS, PRICE_DAYS = 3, 10  # how long a discount and a list price last


@dataclass(frozen=True, kw_only=True)
class ShopSettings(WorldSettings):
    """What a shop's log is simulated from; `interests` are the brands that a user is loyal to."""

    users: int = 240
    items: int = 6_000
    activity: int = 170
    interests: int = 64


@dataclass(frozen=True)
class Shop:
    """Users `[U]`, products `[I]` and brands `[P]`, those of later days included."""

    settings: WorldSettings
    item_brand: Ints
    item_leaf: Ints
    item_quality: Floats
    item_tier: Floats  # price within the category, standard normal
    item_price: Floats  # list price of the first days
    item_style: Floats  # [I, STYLES]
    item_title: Floats  # [I, TITLE]
    item_weight: Floats  # popularity, up to a factor
    user_daily: Floats  # typical impressions a day
    user_bias: Floats
    user_level: Floats  # the tier that suits the user
    user_style: Floats  # [U, STYLES], of unit length
    user_leaves: Ints  # [U, LIKED_LEAVES]
    user_device: Ints
    user_country: Ints
    user_age: Ints
    staples: Ints  # [U, STAPLES] products
    staple_days: Ints  # [U, STAPLES] days from one purchase to the next
    staple_phase: Ints
    loyal: LastingInterests  # brands

    @property
    def brands(self) -> int:
        """How many brands there are: P."""
        return self.loyal.prime

    def age(self, day: date) -> int:
        """Days since the log's first."""
        return (day - date.fromisoformat(self.settings.start)).days

    def users_on(self, day: date) -> int:
        """How many users there are on a day; their ids are 0 .. n - 1."""
        return grown(self.settings.users, self.settings.user_growth, self.age(day))

    def items_on(self, day: date) -> int:
        """How many products there are on a day, likewise."""
        return grown(self.settings.items, self.settings.item_growth, self.age(day))

    def is_due(self, day: date) -> Bools:
        """[U, STAPLES]: which staples their user needs on a day."""
        return np.asarray((day.toordinal() + self.staple_phase) % self.staple_days == 0)

    def list_price(self, day: date, item: Ints) -> Floats:
        """What products cost without a discount: it moves by up to 8 % every PRICE_DAYS."""
        epoch = (day.toordinal() + item % PRICE_DAYS) // PRICE_DAYS
        share = _uniform(mix(self.settings.seed, 21, item, epoch))
        return np.asarray(np.round(self.item_price[item] * (0.92 + 0.16 * share), 2))

    def discount(self, day: date, item: Ints) -> Floats:
        """The share that a sale takes off: one of eight products has one, for SALE_DAYS."""
        epoch = (day.toordinal() + item % SALE_DAYS) // SALE_DAYS
        draw = mix(self.settings.seed, 22, item, epoch)
        share = 0.1 * (1 + (draw >> np.uint64(8)) % np.uint64(3)).astype(np.float64)
        return np.where(draw % np.uint64(8) == 0, share, 0.0)

    def suits_age(self, user: Ints, leaf: Ints) -> Bools:
        """Whether users of that age like the category's department; each of six ages likes about half of them."""
        return np.asarray(
            mix(self.settings.seed, 23, self.user_age[user] // 12, LEAF_DEPARTMENT[leaf]) % np.uint64(2) == 0
        )


def brand_name(brand: int) -> str:
    """A synthetic name, different for every brand."""
    first, rest = SYLLABLES[brand % 24], SYLLABLES[brand // 24 % 24]
    return f"{first}{rest}".capitalize() + (f" {brand // 576}" if brand >= 576 else "")


def make_shop(settings: WorldSettings) -> Shop:
    """Users, products and brands, through the last day of growth."""
    rng = np.random.default_rng([settings.seed, 20])
    users = grown(settings.users, settings.user_growth, GROWTH_DAYS)
    items = grown(settings.items, settings.item_growth, GROWTH_DAYS)
    brands = prime_from(max(LEAVES, settings.items // ITEMS_PER_BRAND, settings.interests + 1))
    brand = rng.integers(0, brands, items)
    leaf = np.where(rng.random(items) < 0.7, brand % LEAVES, rng.integers(0, LEAVES, items))
    quality, tier, style = rng.normal(0, 0.4, items), rng.normal(0, 1, items), rng.normal(0, 1, (items, STYLES))
    leaf_price = np.where(LEAF_IS_CONSUMED, rng.uniform(1.2, 2.8, LEAVES), rng.uniform(2.5, 5.2, LEAVES))
    consumed = np.flatnonzero(LEAF_IS_CONSUMED[leaf[: settings.items]])
    user_style = rng.normal(0, 1, (users, STYLES))
    return Shop(
        settings=settings,
        item_brand=brand,
        item_leaf=leaf,
        item_quality=quality,
        item_tier=tier,
        item_price=np.maximum(np.exp(leaf_price[leaf] + 0.4 * tier).round(0), 1) - 0.01,
        item_style=style,
        item_title=_titles(rng, leaf, brand, brands, style, quality),
        item_weight=np.minimum(rng.random(items) ** -0.8, 1_000),
        user_daily=settings.activity * rng.lognormal(0, 0.8, users),
        user_bias=rng.normal(0, 0.3, users) * settings.long_range,
        user_level=rng.normal(0, 0.8, users),
        user_style=user_style / np.linalg.norm(user_style, axis=1, keepdims=True),
        user_leaves=rng.integers(0, LEAVES, (users, LIKED_LEAVES)),
        user_device=rng.integers(0, len(DEVICES), users),
        user_country=rng.choice(len(COUNTRIES), users, p=COUNTRY_ODDS),
        user_age=rng.integers(18, 78, users),
        staples=consumed[rng.integers(0, len(consumed), (users, STAPLES))],
        staple_days=2 + np.sort(rng.integers(0, 14, (users, STAPLES)), axis=1),
        staple_phase=rng.integers(0, 100, (users, STAPLES)),
        loyal=LastingInterests.of_users(settings.seed, users, settings.interests, brands),
    )


def _titles(rng: np.random.Generator, leaf: Ints, brand: Ints, brands: int, style: Floats, quality: Floats) -> Floats:
    """[I, TITLE]: what a text encoder might make of a product's title: category, brand, style and some of its quality,
    turned so that no component shows one of them alone."""
    parts = [
        rng.normal(0, 1, (LEAVES, 8))[leaf],
        rng.normal(0, 1, (brands, 3))[brand],
        style,
        quality[:, None] / 0.4,
    ]
    whole = np.concatenate(parts, axis=1) + rng.normal(0, 0.3, (len(leaf), TITLE))
    turn, _ = np.linalg.qr(rng.normal(0, 1, (TITLE, TITLE)))
    return np.asarray(whole @ turn)


def user_table(shop: Shop) -> pa.Table:
    """The user table, users of later days included. For some the age or the country is unknown."""
    user = np.arange(len(shop.user_daily))
    draw = _uniform(mix(shop.settings.seed, 24, user))
    return pa.table(
        {
            "uid": user,
            "country": pa.array(np.array(COUNTRIES)[shop.user_country].tolist(), mask=draw < 0.05),
            "age": pa.array(shop.user_age, mask=(draw > 0.03) & (draw < 0.15)),
        }
    )


def _uniform(draw: np.ndarray) -> Floats:
    """Hashes as numbers in 0 .. 1."""
    return np.asarray((draw >> np.uint64(11)).astype(np.float64) * 2.0**-53)
