"""Users, items and authors of a simulated log: its fixed part, determined by its settings alone.

What a user likes has four time scales, each visible in another part of the history:

    mood       two authors and a tag, for one session            the newest few dozen events
    drifting   authors, each replaced after one to three weeks   days
    periodic   authors, each at its own hours or weekdays        the same hours of days or weeks before
    lasting    `interests` authors, permanently                  anything: sessions return to them with Zipf-like odds,
                                                                 so the rarest recur after thousands of events

Lasting interest k of user u is the author a_u k + b_u mod P, for a prime P of authors. It can be
inverted exactly, so neither direction needs a table of users by interests.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import require

TAGS = 64
LIKED_TAGS = 6
ITEMS_PER_AUTHOR = 8
DRIFTING, PERIODIC = 6, 4
USER_ATTENTION, SESSION_ATTENTION = 0.4, 0.5  # deviations of what users and sessions add to every logit
RETURN_ODDS = 0.8  # interest k is returned to in proportion to (k + 1) ** -RETURN_ODDS
GROWTH_DAYS = 1_000  # users and items grow for so long
MAX_IMPRESSIONS = 2_000  # a user's day, at most

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

REGIONS = ("north", "south", "east", "west", "abroad")
DEVICES = ("phone_low", "phone_mid", "phone_high", "tablet")


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """What a log is simulated from; two logs of the same settings are the same."""

    users: int = 240  # on the first day
    items: int = 8_000  # likewise
    seed: int = 0
    start: str = "2026-01-05"
    activity: int = 130  # impressions a day of the median user
    interests: int = 160  # lasting ones of a user: how far back the rarest recur grows with it
    long_range: bool = True  # False: nothing that a user likes outlives a session
    user_growth: float = 0.005  # new users a day, as a share of `users`
    item_growth: float = 0.005

    def __post_init__(self) -> None:
        for name in ("users", "items", "activity", "interests"):
            require(getattr(self, name) > 0, f"--{name}: expected a positive number, got {getattr(self, name)}")
        for name in ("user_growth", "item_growth"):
            require(getattr(self, name) >= 0, f"--{name.replace('_', '-')}: expected at least 0")
        parse_day(self.start)


@dataclass(frozen=True)
class LastingInterests:
    """`count` of P subjects (authors, brands) that each user `[U]` likes for ever."""

    step: Ints  # a_u
    inverse: Ints  # 1 / a_u mod P
    offset: Ints  # b_u
    prime: int  # P
    return_odds: Floats  # [count] cumulative

    @staticmethod
    def of_users(seed: int, users: int, count: int, prime: int) -> "LastingInterests":
        """The lasting interests of users 0 .. users - 1."""
        step = 1 + (mix(seed, 9, np.arange(users)) % np.uint64(prime - 1)).astype(np.int64)
        odds = (1.0 + np.arange(count)) ** -RETURN_ODDS
        return LastingInterests(
            step=step,
            inverse=inverse_mod(step, prime),
            offset=(mix(seed, 10, np.arange(users)) % np.uint64(prime)).astype(np.int64),
            prime=prime,
            return_odds=np.cumsum(odds) / odds.sum(),
        )

    def subject(self, user: Ints, interest: Ints) -> Ints:
        """The subject of interest 0 .. count - 1 of each user."""
        return np.asarray((self.step[user] * interest + self.offset[user]) % self.prime)

    def include(self, user: Ints, subject: Ints) -> Bools:
        """Whether a subject is among a user's interests."""
        interest = (self.inverse[user] * (subject - self.offset[user])) % self.prime
        return np.asarray(interest < len(self.return_odds))

    def draw(self, user: Ints, rng: np.random.Generator) -> Ints:
        """A subject that each user returns to."""
        return self.subject(user, np.searchsorted(self.return_odds, rng.random(len(user)), side="right"))


@dataclass(frozen=True)
class World:
    """Users `[U]`, items `[I]` and authors `[P]`, those of later days included."""

    settings: WorldSettings
    item_author: Ints
    item_tag: Ints
    item_quality: Floats
    item_duration_ms: Ints
    item_weight: Floats  # popularity, up to a factor
    user_daily: Floats  # typical impressions a day
    user_attention: Floats
    user_region: Ints
    user_device: Ints
    lasting: LastingInterests  # authors

    @property
    def authors(self) -> int:
        """How many authors there are: P."""
        return self.lasting.prime

    def users_on(self, day: date) -> int:
        """How many users there are on a day; their ids are 0 .. n - 1."""
        return grown(self.settings.users, self.settings.user_growth, self.age(day))

    def items_on(self, day: date) -> int:
        """How many items there are on a day, likewise."""
        return grown(self.settings.items, self.settings.item_growth, self.age(day))

    def item_age(self, day: date) -> Floats:
        """Days since each item of the day was added; a large number for the items of the first day."""
        number = np.arange(self.items_on(day)) - self.settings.items
        daily = max(self.settings.items * self.settings.item_growth, 1e-9)
        return np.asarray(np.where(number < 0, 1e6, self.age(day) - number / daily))

    def age(self, day: date) -> int:
        """Days since the log's first."""
        return (day - parse_day(self.settings.start)).days

    def likes_tag(self, user: Ints, tag: Ints) -> Bools:
        """Whether a tag is one of the LIKED_TAGS or so that a user has always liked."""
        return np.asarray(mix(self.settings.seed, 7, user, tag) % np.uint64(TAGS) < LIKED_TAGS)

    def is_favourite(self, user: Ints, item: Ints) -> Bools:
        """Whether an item is one of the third of all items that a user likes for themselves, if the author is liked."""
        return np.asarray(mix(self.settings.seed, 8, user, item) % np.uint64(3) == 0)

    def drifting_authors(self, day: date) -> Ints:
        """[U, DRIFTING]: each slot has its own phase and length, after which another author takes its place."""
        user, slot = np.arange(self.users_on(day))[:, None], np.arange(DRIFTING)[None, :]
        draw = mix(self.settings.seed, 2, user, slot)
        length = 7 + (draw >> np.uint64(32)) % np.uint64(15)
        epoch = (np.uint64(day.toordinal()) + draw % np.uint64(997)) // length
        return self._some_author(mix(self.settings.seed, 3, user, slot, epoch.astype(np.int64)))

    def periodic_authors(self, day: date) -> Ints:
        """[U, PERIODIC]: the same every day, but liked at their times only, see `is_time`."""
        user, slot = np.arange(self.users_on(day))[:, None], np.arange(PERIODIC)[None, :]
        return self._some_author(mix(self.settings.seed, 4, user, slot))

    def is_time(self, day: date, user: Ints, hour: Ints) -> Bools:
        """[n, PERIODIC]: even slots have one of four parts of the day, odd ones two days of the week."""
        slot = np.arange(PERIODIC)[None, :]
        phase = (mix(self.settings.seed, 5, user[:, None], slot) % np.uint64(28)).astype(np.int64)
        by_hour = hour[:, None] // 6 == phase % 4
        by_weekday = (day.toordinal() + phase) % 7 < 2
        return np.where(slot % 2 == 0, by_hour, by_weekday)

    def _some_author(self, draw: npt.NDArray[np.uint64]) -> Ints:
        return (draw % np.uint64(self.authors)).astype(np.int64)


def mix(*values: int | npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A well-mixed 64-bit hash of integers, element by element (SplitMix64's finalizer, Steele et al. 2014)."""
    state: npt.NDArray[np.uint64] = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for value in values:
            state = (state ^ np.asarray(value).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def grown(first: int, share: float, days: int) -> int:
    """How many users or items there are after days of growth."""
    return int(first * (1 + share * min(max(days, 0), GROWTH_DAYS)))


def prime_from(least: int) -> int:
    """The smallest prime that is at least `least`."""
    number = max(2, least)
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number += 1
    return number


def inverse_mod(values: Ints, prime: int) -> Ints:
    """1 / values modulo a prime below 2 ** 31, by Fermat: values ** (prime - 2)."""
    result, power, left = np.ones_like(values), values % prime, prime - 2
    while left:
        result = result * power % prime if left & 1 else result
        power, left = power * power % prime, left >> 1
    return result


def make_world(settings: WorldSettings) -> World:
    """Users, items and authors, through the last day of growth."""
    rng = np.random.default_rng([settings.seed, 1])
    users = grown(settings.users, settings.user_growth, GROWTH_DAYS)
    items = grown(settings.items, settings.item_growth, GROWTH_DAYS)
    authors = prime_from(max(TAGS, settings.items // ITEMS_PER_AUTHOR, settings.interests + 1))
    item_author = rng.integers(0, authors, items)
    return World(
        settings=settings,
        item_author=item_author,
        item_tag=np.where(rng.random(items) < 0.85, item_author % TAGS, rng.integers(0, TAGS, items)),
        item_quality=rng.normal(0, 0.4, items),
        item_duration_ms=(1_000 * np.clip(rng.lognormal(3.0, 0.6, items), 5, 300)).astype(np.int64),
        item_weight=np.minimum(rng.random(items) ** -0.8, 1_000),
        user_daily=settings.activity * rng.lognormal(0, 0.9, users),
        user_attention=rng.normal(0, USER_ATTENTION, users),
        user_region=rng.integers(0, len(REGIONS), users),
        user_device=rng.integers(0, len(DEVICES), users),
        lasting=LastingInterests.of_users(settings.seed, users, settings.interests, authors),
    )


def user_columns(world: World) -> dict[str, list[str] | Ints]:
    """The user table, users of later days included: id and categorical features."""
    level = np.digitize(world.user_daily, [10, 30, 100, 300])
    names = np.array(["rare", "low", "middle", "high", "full"])
    return {
        "user_id": np.arange(len(world.user_daily)),
        "activity": names[level].tolist(),
        "region": np.array(REGIONS)[world.user_region].tolist(),
        "device": np.array(DEVICES)[world.user_device].tolist(),
    }
