"""What happens on one simulated day: who comes, what they are shown and what they do with it. NumPy only."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

from spark_jobs.simulated_world import MAX_IMPRESSIONS, SLOTS, Floats, Ints, World, interests

DAY_MS = 86_400_000
REPEATED_SHARE = 0.001  # rows that the client sent twice, as real logs have them
BROKEN_SHARE = 0.0002  # rows that lost their item id on the way

# Where an impression comes from, and how often.
SOURCES = ("theme_tag", "theme_author", "other_interest", "favourite", "popular", "explore")
SOURCE_ODDS = (0.26, 0.10, 0.20, 0.08, 0.22, 0.14)


@dataclass(frozen=True)
class Requests:
    """The day's requests `[R]`, ordered by user and time."""

    user: Ints
    time_ms: Ints
    theme: Ints  # the interest slot of the session
    targets: Ints  # impressions shown, 4 .. 12
    surface: Ints


def draw_requests(world: World, midnight_ms: int, rng: np.random.Generator) -> Requests:
    """Sessions of a few requests: a start by time of day, then a request every half minute or so."""
    comes = rng.random(world.users) < np.clip(0.55 + 0.1 * np.log1p(world.user_daily), 0, 0.98)
    wanted = world.user_daily * rng.lognormal(-0.045, 0.3, world.users)
    count = np.where(comes, np.clip(np.ceil(np.minimum(wanted, MAX_IMPRESSIONS) / 8), 1, None), 0).astype(np.int64)
    user = np.repeat(np.arange(world.users), count)
    first = np.repeat(np.cumsum(count) - count, count)
    per_session = 4 + user % 5
    session = (np.arange(len(user)) - first) // per_session
    place = (np.arange(len(user)) - first) % per_session
    new = place == 0
    key = np.cumsum(new) - 1  # session number over the whole day
    start = rng.beta(4, 2, new.sum()) * (DAY_MS - 900_000)
    odds = 1.0 / np.arange(1, SLOTS + 1) ** 0.9
    theme = rng.choice(SLOTS, new.sum(), p=odds / odds.sum())
    gaps = np.where(new, 0, rng.integers(30_000, 90_000, len(user)))
    elapsed = np.cumsum(gaps) - np.maximum.accumulate(np.where(new, np.cumsum(gaps), 0))
    time_ms = midnight_ms + start[key].astype(np.int64) + elapsed
    order = np.lexsort((session, time_ms, user))
    return Requests(
        user=user[order],
        time_ms=time_ms[order],
        theme=theme[key][order],
        targets=rng.integers(4, 13, len(user)),
        surface=(key % 3)[order],
    )


class Shelf:
    """Items grouped by a key, drawn within a group in proportion to their popularity."""

    def __init__(self, key: Ints, groups: int, weight: Floats) -> None:
        self.order = np.argsort(key, kind="stable")
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight[self.order])])
        self.bounds = np.searchsorted(key[self.order], np.arange(groups + 1))

    def draw(self, group: Ints, rng: np.random.Generator) -> Ints:
        """One item for each wanted group; an empty group gives the next item on the shelf."""
        low, high = self.cumulative[self.bounds[group]], self.cumulative[self.bounds[group + 1]]
        point = low + rng.random(len(group)) * (high - low)
        place = np.searchsorted(self.cumulative, point, side="right") - 1
        return self.order[np.clip(place, 0, len(self.order) - 1)]


def draw_items(world: World, day: date, requests: Requests, row: Ints, rng: np.random.Generator) -> Ints:
    """The item of each impression; `row` names its request."""
    tags, authors = interests(world, day)
    fashion = np.random.default_rng([world.seed, 4, day.toordinal() // 7]).lognormal(0, 0.7, len(world.item_tag))
    popularity = world.item_popularity * fashion
    by_tag = Shelf(world.item_tag, int(world.item_tag.max()) + 1, popularity)
    by_author = Shelf(world.item_author, len(world.author_tag), popularity)
    everything = Shelf(np.zeros(len(popularity), np.int64), 1, popularity)

    user, theme = requests.user[row], requests.theme[row]
    other = rng.integers(0, SLOTS, len(row))
    favourite = authors[user, theme] * 7919 % len(world.item_tag)  # one item a slot that a user comes back to
    choices = [
        by_tag.draw(tags[user, theme], rng),
        by_author.draw(authors[user, theme], rng),
        by_tag.draw(tags[user, other], rng),
        favourite,
        everything.draw(np.zeros(len(row), np.int64), rng),
        rng.integers(0, len(world.item_tag), len(row)),
    ]
    source = rng.choice(len(SOURCES), len(row), p=SOURCE_ODDS)
    return np.choose(source, choices)


def act(world: World, day: date, user: Ints, theme: Ints, item: Ints, rng: np.random.Generator) -> dict[str, Ints]:
    """Click, long view, like and play time of each impression, from the user's interest in its tag and author."""
    tags, authors = interests(world, day)
    likes_tag = (tags[user] == world.item_tag[item][:, None]).any(axis=1)
    likes_author = (authors[user] == world.item_author[item][:, None]).any(axis=1)
    on_theme = tags[user, theme] == world.item_tag[item]
    appeal = 1.5 * likes_tag + 1.2 * likes_author + 0.5 * on_theme + world.item_quality[item] + world.user_bias[user]
    click = rng.random(len(item)) < 1 / (1 + np.exp(-(appeal - 2.1)))
    long_view = click & (rng.random(len(item)) < 1 / (1 + np.exp(-(appeal - 1.5))))
    like = click & (rng.random(len(item)) < 0.03 + 0.14 * likes_author)
    duration = world.item_duration_ms[item]
    share = np.where(long_view, rng.uniform(0.6, 1.2, len(item)), rng.uniform(0.1, 0.6, len(item)))
    play = np.where(click, (duration * share).astype(np.int64), rng.integers(200, 3_000, len(item)))
    return {
        "play_ms": play,
        "duration_ms": duration,
        "click": click.astype(np.int64),
        "long_view": long_view.astype(np.int64),
        "like": like.astype(np.int64),
    }


def simulate_day(world: World, day: date) -> dict[str, Ints | list[str | None] | list[int | None]]:
    """One day's raw rows as columns, in delivery order. The same world and day give the same rows, whatever was
    simulated before."""
    rng = np.random.default_rng([world.seed, 5, day.toordinal()])
    midnight_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1_000)
    requests = draw_requests(world, midnight_ms, rng)
    row = np.repeat(np.arange(len(requests.user)), requests.targets)
    item = draw_items(world, day, requests, row, rng)
    _, once = np.unique(row * len(world.item_tag) + item, return_index=True)  # an item appears once in a request
    row, item = row[once], item[once]
    acted = act(world, day, requests.user[row], requests.theme[row], item, rng)

    order = np.argsort(requests.time_ms[row], kind="stable")
    twice = rng.random(len(order)) < REPEATED_SHARE
    order = np.repeat(order, 1 + twice)
    broken = rng.random(len(order)) < BROKEN_SHARE
    shown, items = row[order], item[order]
    names = [f"{day:%y%m%d}-{number}" for number in range(len(requests.user))]
    return {
        "user_id": requests.user[shown],
        "item_id": [None if bad else value for bad, value in zip(broken.tolist(), items.tolist(), strict=True)],
        "time_ms": requests.time_ms[shown],
        "request_id": [names[number] for number in shown.tolist()],
        "author_id": world.item_author[items],
        "tag": world.item_tag[items],
        "surface": requests.surface[shown],
        **{name: values[order] for name, values in acted.items()},
    }
