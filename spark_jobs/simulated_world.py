"""Who the simulated users are and what they like: the fixed part of the simulated log, made from a seed alone.

A user has `SLOTS` interests, each a tag and an author of that tag. Half of them never change; the others are replaced
every few weeks. Sessions return to a slot with Zipf-like odds, so a user's rarer interests recur only after hundreds
of impressions: that is what a longer history tells and a short one cannot.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

SLOTS = 16
TAGS = 64
ITEMS_PER_AUTHOR = 8
MAX_IMPRESSIONS = 1_500  # a user's day, at most

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

REGIONS = ("north", "south", "east", "west", "abroad")
DEVICES = ("phone_low", "phone_mid", "phone_high", "tablet")


@dataclass(frozen=True)
class World:
    """Items `[I]` and users `[U]`. `by_tag` and `by_author` order the items so that a group is one contiguous run."""

    seed: int
    item_tag: Ints
    item_author: Ints
    item_quality: Floats
    item_duration_ms: Ints
    item_popularity: Floats  # sums to 1
    author_tag: Ints  # [A]
    user_daily: Floats  # typical impressions a day
    user_bias: Floats
    user_region: Ints
    user_device: Ints

    @property
    def users(self) -> int:
        """U, the number of users; their ids are 0 .. U - 1."""
        return len(self.user_daily)


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


def make_world(users: int, items: int, seed: int) -> World:
    """Items, authors and users of a seed; nothing in it depends on the day."""
    rng = np.random.default_rng([seed, 1])
    authors = max(TAGS, items // ITEMS_PER_AUTHOR)
    author_tag = np.arange(authors) % TAGS
    item_author = rng.integers(0, authors, items)
    rank = rng.permutation(items) + 1
    popularity = 1.0 / rank**0.8
    return World(
        seed=seed,
        item_tag=np.where(rng.random(items) < 0.85, author_tag[item_author], rng.integers(0, TAGS, items)),
        item_author=item_author,
        item_quality=rng.normal(0, 0.5, items),
        item_duration_ms=(1_000 * np.clip(rng.lognormal(3.0, 0.6, items), 5, 300)).astype(np.int64),
        item_popularity=popularity / popularity.sum(),
        author_tag=author_tag,
        user_daily=28 * rng.lognormal(0, 1.05, users),
        user_bias=rng.normal(0, 0.4, users),
        user_region=rng.integers(0, len(REGIONS), users),
        user_device=rng.integers(0, len(DEVICES), users),
    )


def interests(world: World, day: date) -> tuple[Ints, Ints]:
    """What every user likes on a day: tags and authors, both `[U, SLOTS]`, most frequent slot first."""
    user = np.arange(world.users)[:, None]
    slot = np.arange(SLOTS)[None, :]
    phase = (mix(world.seed, 2, user, slot) % np.uint64(997)).astype(np.int64)
    lasting = slot % 2 == 0
    epoch = np.where(lasting, 0, (day.toordinal() + phase) // 21)
    authors = len(world.author_tag)
    author = (mix(world.seed, 3, user, slot, epoch) % np.uint64(authors)).astype(np.int64)
    return world.author_tag[author], author


def user_columns(world: World) -> dict[str, list[str] | Ints]:
    """The user table: id and categorical features."""
    level = np.digitize(world.user_daily, [10, 30, 100, 300])
    names = np.array(["rare", "low", "middle", "high", "full"])
    return {
        "user_id": np.arange(world.users),
        "activity": names[level].tolist(),
        "region": np.array(REGIONS)[world.user_region].tolist(),
        "device": np.array(DEVICES)[world.user_device].tolist(),
    }
