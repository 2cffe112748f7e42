"""One simulated day: active users, impressions and actions, without a loop over rows.

Every probability that an outcome is drawn with is kept as the truth that a model is measured against.
"""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longreel.contracts.actions import LABELS, SKIP_MS
from longreel.spark_jobs.simulated_world import MAX_IMPRESSIONS, TAGS, Bools, Floats, Ints, World

DAY_MS = 86_400_000
DUPLICATE_SHARE = 0.001  # rows that the client sent twice, as real logs have them
BROKEN_SHARE = 0.0002  # rows that lost their item id on the way

# The logging policy: where an impression comes from, and how often. Without long-range interests, the sources that
# know them show anything instead.
SOURCES = ("mood_tag", "mood_author", "lasting", "drifting", "periodic", "popular", "explore")
SOURCE_ODDS = (0.10, 0.06, 0.32, 0.09, 0.09, 0.16, 0.18)
SHORT_ODDS = (0.28, 0.18, 0.0, 0.0, 0.0, 0.24, 0.30)

# Actions that a click may lead to: base probability, what a personal and what a lasting interest add, and the delay in
# seconds (median, spread of its logarithm). A row is delivered when all its actions are in.
AFTER_CLICK: dict[str, tuple[float, float, float, float, float]] = {
    "like": (0.03, 0.10, 0.0, 20, 1.0),
    "follow": (0.004, 0.0, 0.02, 300, 1.2),
    "comment": (0.008, 0.012, 0.0, 1_800, 1.2),
    "forward": (0.006, 0.01, 0.0, 7_200, 1.5),
    "profile_enter": (0.015, 0.0, 0.04, 40, 1.0),
}
HATE = 0.004  # of those who do not click
PLAY_UNCLICKED_MS = (200, 5_000)
ACTED = ("click", "long_view", *AFTER_CLICK, "hate")  # what a raw row has a column for


@dataclass(frozen=True)
class SimulatedRequests:
    """The day's requests `[R]`, ordered by user and time, and the moods of their sessions `[S]`."""

    user: Ints
    time_ms: Ints
    session: Ints
    targets: Ints  # impressions shown, 4 .. 12
    mood_authors: Ints  # [S, 2]
    mood_tag: Ints


@dataclass(frozen=True)
class Impressions:
    """A day's impressions `[N]`, ordered by request: what the rows hold, and the true probability of every label."""

    day: date
    request: Ints
    user: Ints
    item: Ints
    time_ms: Ints
    delivered_ms: Ints
    surface: Ints
    play_ms: Ints
    acted: dict[str, Bools]
    truth: dict[str, Floats] = field(repr=False)  # by LABELS

    @cached_property
    def is_late(self) -> Bools:
        """Which rows are delivered after the day's end, and so lie in the next day's file."""
        return self.delivered_ms >= midnight_of(self.day) + DAY_MS

    @property
    def is_history_event(self) -> Bools:
        """Which rows have an engagement: any action but hate."""
        return np.asarray(np.any([taken for name, taken in self.acted.items() if name != "hate"], axis=0))


def midnight_of(day: date) -> int:
    """The day's first millisecond since the epoch, UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1_000)


def draw_requests(world: World, day: date, rng: np.random.Generator) -> SimulatedRequests:
    """Sessions of a few requests: a start by time of day, then a request every half minute or so."""
    users = world.users_on(day)
    daily = world.user_daily[:users]
    is_active = rng.random(users) < np.clip(0.55 + 0.1 * np.log1p(daily), 0, 0.98)
    impressions = daily * rng.lognormal(-0.045, 0.3, users)
    count = np.where(is_active, np.clip(np.ceil(np.minimum(impressions, MAX_IMPRESSIONS) / 8), 1, None), 0).astype(
        np.int64
    )
    user = np.repeat(np.arange(users), count)
    first = np.repeat(np.cumsum(count) - count, count)
    per_session = 4 + user % 5
    place = np.arange(len(user)) - first
    new = place % per_session == 0
    session = np.cumsum(new) - 1  # over the whole day
    sessions = int(new.sum())
    start = rng.beta(4, 2, sessions) * (DAY_MS - 900_000)
    gaps = np.where(new, 0, rng.integers(30_000, 90_000, len(user)))
    elapsed = np.cumsum(gaps) - np.maximum.accumulate(np.where(new, np.cumsum(gaps), 0))
    time_ms = midnight_of(day) + start[session].astype(np.int64) + elapsed
    order = np.lexsort((session, time_ms, user))
    return SimulatedRequests(
        user=user[order],
        time_ms=time_ms[order],
        session=session[order],
        targets=rng.integers(4, 13, len(user)),
        mood_authors=rng.integers(0, world.authors, (sessions, 2)),
        mood_tag=rng.integers(0, TAGS, sessions),
    )


class WeightedItems:
    """Items grouped by a key, drawn within a group in proportion to their weight."""

    def __init__(self, key: Ints, groups: int, weight: Floats) -> None:
        self.order = np.argsort(key, kind="stable")
        self.cumulative = np.concatenate([[0.0], np.cumsum(weight[self.order])])
        self.bounds = np.searchsorted(key[self.order], np.arange(groups + 1))

    def draw(self, group: Ints, rng: np.random.Generator) -> Ints:
        """One item of each group [n]; an empty group gives the next item in the order."""
        low, high = self.cumulative[self.bounds[group]], self.cumulative[self.bounds[group + 1]]
        point = low + rng.random(len(group)) * (high - low)
        place = np.searchsorted(self.cumulative, point, side="right") - 1
        within: Ints = np.clip(place, 0, len(self.order) - 1)
        return self.order[within]


def draw_items(world: World, day: date, requests: SimulatedRequests, row: Ints, rng: np.random.Generator) -> Ints:
    """The item of each impression, by the logging policy; `row` names its request."""
    items = world.items_on(day)
    fashion = np.random.default_rng([world.settings.seed, 4, day.toordinal() // 7]).lognormal(0, 0.7, items)
    weight = world.item_weight[:items] * fashion * (1 + 3 * np.exp(-world.item_age(day) / 2))
    by_tag = WeightedItems(world.item_tag[:items], TAGS, weight)
    by_author = WeightedItems(world.item_author[:items], world.authors, weight)
    everything = WeightedItems(np.zeros(items, np.int64), 1, weight)
    drifting, periodic = world.drifting_authors(day), world.periodic_authors(day)
    odds = SOURCE_ODDS if world.settings.long_range else SHORT_ODDS
    source = np.searchsorted(np.cumsum(odds)[:-1], rng.random(len(row)), side="right")
    item = np.zeros(len(row), np.int64)
    for number, name in enumerate(SOURCES):
        where = np.flatnonzero(source == number)
        user, session = requests.user[row[where]], requests.session[row[where]]
        if name == "mood_tag":
            item[where] = by_tag.draw(requests.mood_tag[session], rng)
        elif name == "mood_author":
            item[where] = by_author.draw(_any_of(requests.mood_authors, session, rng), rng)
        elif name == "lasting":
            interest = np.searchsorted(world.return_odds, rng.random(len(user)), side="right")
            item[where] = by_author.draw(world.lasting_author(user, interest), rng)
        elif name in ("drifting", "periodic"):
            item[where] = by_author.draw(_any_of(drifting if name == "drifting" else periodic, user, rng), rng)
        elif name == "popular":
            item[where] = everything.draw(np.zeros(len(where), np.int64), rng)
        else:
            item[where] = rng.integers(0, items, len(where))
    return item


def _any_of(table: Ints, rows: Ints, rng: np.random.Generator) -> Ints:
    """A random column of each of the `rows` of a table."""
    return np.asarray(table[rows, rng.integers(0, table.shape[1], len(rows))])


def appeal_of(
    world: World, day: date, requests: SimulatedRequests, row: Ints, item: Ints
) -> tuple[Floats, Bools, Bools]:
    """Appeal of each impression to its user, as a logit; whether a personal, and whether a lasting interest matches."""
    user, session, author, tag = (
        requests.user[row],
        requests.session[row],
        world.item_author[item],
        world.item_tag[item],
    )
    mood = (requests.mood_authors[session] == author[:, None]).any(axis=1)
    appeal = -2.4 + 2.2 * mood + 0.9 * (requests.mood_tag[session] == tag) + world.item_quality[item]
    if not world.settings.long_range:
        nothing = np.zeros(len(row), bool)
        return appeal, nothing, nothing
    hour = (requests.time_ms[row] - midnight_of(day)) // 3_600_000
    lasting = world.is_lasting(user, author)
    drifting = (world.drifting_authors(day)[user] == author[:, None]).any(axis=1)
    on_time = ((world.periodic_authors(day)[user] == author[:, None]) & world.is_time(day, user, hour)).any(axis=1)
    personal = lasting | drifting | on_time
    appeal += world.user_bias[user] + 0.5 * world.likes_tag(user, tag)
    appeal += 2.6 * personal + 0.4 * (on_time | drifting) + 0.8 * (personal & world.is_favourite(user, item))
    return appeal, personal, lasting


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-x)))


def probabilities(appeal: Floats, personal: Bools, lasting: Bools) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The true probability of every label, and of long views and other actions given a click."""
    click = sigmoid(appeal)
    after_click = {"long_view": sigmoid(0.8 * appeal + 0.6)}
    for name, (base, of_personal, of_lasting, _, _) in AFTER_CLICK.items():
        after_click[name] = base + of_personal * personal + of_lasting * lasting
    truth = {"click": click} | {name: click * share for name, share in after_click.items()}
    low, high = PLAY_UNCLICKED_MS
    truth["hate"] = (1 - click) * HATE
    truth["finish"] = truth["long_view"] / 3  # a long view plays 0.6 .. 1.2 of the item, uniformly
    truth["skip"] = (1 - click) * ((SKIP_MS - low + 1) / (high - low))
    return {name: truth[name] for name in LABELS}, after_click


def simulate_day(world: World, day: date) -> Impressions:
    """A day's impressions. The same world and day give the same ones, whatever was simulated before."""
    rng = np.random.default_rng([world.settings.seed, 5, day.toordinal()])
    requests = draw_requests(world, day, rng)
    row = np.repeat(np.arange(len(requests.user)), requests.targets)
    item = draw_items(world, day, requests, row, rng)
    _, first = np.unique(row * len(world.item_tag) + item, return_index=True)  # an item appears once in a request
    row, item = row[first], item[first]
    appeal, personal, lasting = appeal_of(world, day, requests, row, item)
    truth, after_click = probabilities(appeal, personal, lasting)
    n = len(row)
    click = rng.random(n) < truth["click"]
    acted = {"click": click} | {name: click & (rng.random(n) < share) for name, share in after_click.items()}
    acted["hate"] = ~click & (rng.random(n) < HATE)
    delay_s = np.zeros(n)
    for name, (*_, median, spread) in AFTER_CLICK.items():
        taken = np.flatnonzero(acted[name])
        delay_s[taken] = np.maximum(delay_s[taken], median * rng.lognormal(0, spread, len(taken)))
    share = np.where(acted["long_view"], rng.uniform(0.6, 1.2, n), rng.uniform(0.1, 0.6, n))
    played = (world.item_duration_ms[item] * share).astype(np.int64)
    return Impressions(
        day=day,
        request=row,
        user=requests.user[row],
        item=item,
        time_ms=requests.time_ms[row],
        delivered_ms=requests.time_ms[row] + (1_000 * np.minimum(delay_s, 43_200)).astype(np.int64),
        surface=requests.session[row] % 3,
        play_ms=np.where(click, played, rng.integers(*PLAY_UNCLICKED_MS, n)),
        acted=acted,
        truth=truth,
    )


def raw_rows(world: World, impressions: Impressions, rows: Ints, missing: Bools | None = None) -> pa.Table:
    """Impressions `rows` as rows of the generic format; those in `missing` [n] have lost their item id."""
    item = impressions.item[rows]
    numbers = pc.cast(pa.array(impressions.request[rows]), pa.string())
    return pa.table(
        {
            "user_id": impressions.user[rows],
            "item_id": pa.array(item, mask=missing),
            "time_ms": impressions.time_ms[rows],
            "request_id": pc.binary_join_element_wise(pa.scalar(f"{impressions.day:%y%m%d}"), numbers, "-"),
            "author_id": world.item_author[item],
            "tag": world.item_tag[item],
            "surface": impressions.surface[rows],
            "play_ms": impressions.play_ms[rows],
            "duration_ms": world.item_duration_ms[item],
            **{name: impressions.acted[name][rows].astype(np.int8) for name in ACTED},
        }
    )


def truth_rows(impressions: Impressions, rows: Ints) -> pa.Table:
    """The true probabilities of impressions `rows`, named by user, time and item."""
    keys = {"user_id": impressions.user, "time_ms": impressions.time_ms, "item_id": impressions.item}
    columns = {name: values[rows] for name, values in keys.items()}
    return pa.table(columns | {f"p_{name}": p[rows].astype(np.float32) for name, p in impressions.truth.items()})


def day_file(world: World, today: Impressions, yesterday: Impressions | None) -> tuple[pa.Table, pa.Table]:
    """A log day's raw rows in delivery order, and their truth: its impressions except those delivered late, and those
    of the day before that were delivered late."""
    rng = np.random.default_rng([world.settings.seed, 6, today.day.toordinal()])
    tables, truth = [], []
    parts = [(today, np.flatnonzero(~today.is_late))]
    if yesterday is not None:
        parts.insert(0, (yesterday, np.flatnonzero(yesterday.is_late)))
    for impressions, delivered in parts:
        rows = delivered[np.argsort(impressions.delivered_ms[delivered], kind="stable")]
        broken = rng.random(len(rows)) < BROKEN_SHARE
        truth.append(truth_rows(impressions, rows[~broken]))
        times = 1 + (rng.random(len(rows)) < DUPLICATE_SHARE)
        tables.append(raw_rows(world, impressions, np.repeat(rows, times), np.repeat(broken, times)))
    return pa.concat_tables(tables), pa.concat_tables(truth)
