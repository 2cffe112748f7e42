"""One simulated day: active users, impressions and actions, without a loop over rows.

Every probability that an outcome is drawn with is kept as the truth that a model is measured against. Impressions
without a click tell two things: how attentive the user and the session are, and what the session is tired of.
"""

from dataclasses import dataclass, field
from datetime import UTC, date
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longreel.spark_jobs.simulated_sessions import (
    WeightedItems,
    any_of,
    draw_sessions,
    midnight_ms,
    rank_within,
    sent_rows,
    sigmoid,
)
from longreel.spark_jobs.simulated_world import SESSION_ATTENTION, TAGS, Bools, Floats, Ints, World

DAY_MS = 86_400_000

# The logging policy: where an impression comes from, and how often. Without long-range interests, the sources that
# know them show anything instead.
SOURCES = ("mood_tag", "mood_author", "lasting", "drifting", "periodic", "popular", "explore")
SOURCE_ODDS = (0.10, 0.06, 0.32, 0.09, 0.09, 0.16, 0.18)
SHORT_ODDS = (0.28, 0.18, 0.0, 0.0, 0.0, 0.24, 0.30)

# Fatigue: what an impression's logit loses for every earlier impression of its author, and of its tag, that the session
# passed over. docs/simulated-log.md has the rule that the strengths follow.
TIRED_OF_AUTHOR, TIRED_OF_TAG = 0.6, 0.25

# Actions that a click may lead to: base probability, what a personal and what a lasting interest add, and the delay in
# seconds (median, spread of its logarithm). A row is delivered when all its actions are in.
AFTER_CLICK: dict[str, tuple[float, float, float, float, float]] = {
    "like": (0.03, 0.10, 0.0, 20, 1.0),
    "follow": (0.004, 0.0, 0.02, 300, 1.2),
    "comment": (0.008, 0.012, 0.0, 1_800, 1.2),
    "forward": (0.006, 0.01, 0.0, 7_200, 1.5),
    "profile_enter": (0.015, 0.0, 0.04, 40, 1.0),
}
MAX_DELAY_S = 43_200
HATE = 0.004  # of those who do not click
PLAY_UNCLICKED_MS = (200, 5_000)
ACTED = ("click", "long_view", *AFTER_CLICK, "hate")  # what a raw row has a column for


@dataclass(frozen=True)
class SimulatedRequests:
    """The day's requests `[R]`, ordered by user and time, and what holds for their sessions `[S]`."""

    user: Ints
    time_ms: Ints
    session: Ints
    targets: Ints  # impressions shown, 4 .. 12
    mood_authors: Ints  # [S, 2]
    mood_tag: Ints
    attention: Floats


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
    acted_ms: dict[str, Ints]  # of the delayed actions: when they happened, if they did
    truth: dict[str, Floats] = field(repr=False)  # by label

    @cached_property
    def is_late(self) -> Bools:
        """Which rows are delivered after the day's end, and so lie in the next day's file."""
        return self.delivered_ms >= midnight_of(self.day) + DAY_MS

    def action_times(self, rows: Ints) -> dict[str, pa.Array]:
        """Columns `<action>_ms` of impressions `rows`: when each delayed action happened, null where it did not."""
        return {f"{n}_ms": pa.array(ms[rows], mask=~self.acted[n][rows]) for n, ms in self.acted_ms.items()}


def midnight_of(day: date) -> int:
    """The day's first millisecond since the epoch, UTC."""
    return midnight_ms(day, UTC)


def draw_requests(world: World, day: date, rng: np.random.Generator) -> SimulatedRequests:
    """The requests of the day's sessions, and the moods and attention of these."""
    sessions = draw_sessions(world.user_daily[: world.users_on(day)], midnight_of(day), DAY_MS, 8, rng)
    return SimulatedRequests(
        user=sessions.user,
        time_ms=sessions.time_ms,
        session=sessions.session,
        targets=rng.integers(4, 13, len(sessions.user)),
        mood_authors=rng.integers(0, world.authors, (sessions.count, 2)),
        mood_tag=rng.integers(0, TAGS, sessions.count),
        attention=rng.normal(0, SESSION_ATTENTION, sessions.count),
    )


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
            item[where] = by_author.draw(any_of(requests.mood_authors, session, rng), rng)
        elif name == "lasting":
            item[where] = by_author.draw(world.lasting.draw(user, rng), rng)
        elif name in ("drifting", "periodic"):
            item[where] = by_author.draw(any_of(drifting if name == "drifting" else periodic, user, rng), rng)
        elif name == "popular":
            item[where] = everything.draw(np.zeros(len(where), np.int64), rng)
        else:
            item[where] = rng.integers(0, items, len(where))
    return item


def appeal_of(
    world: World, day: date, requests: SimulatedRequests, row: Ints, item: Ints
) -> tuple[Floats, Bools, Bools]:
    """Appeal of each impression to its user before fatigue, as a logit; whether a personal, and whether a lasting
    interest matches."""
    user, session, author, tag = (
        requests.user[row],
        requests.session[row],
        world.item_author[item],
        world.item_tag[item],
    )
    mood = (requests.mood_authors[session] == author[:, None]).any(axis=1)
    appeal = -2.4 + 2.2 * mood + 0.9 * (requests.mood_tag[session] == tag) + world.item_quality[item]
    appeal += requests.attention[session]
    if not world.settings.long_range:
        nothing = np.zeros(len(row), bool)
        return appeal, nothing, nothing
    hour = (requests.time_ms[row] - midnight_of(day)) // 3_600_000
    lasting = world.lasting.include(user, author)
    drifting = (world.drifting_authors(day)[user] == author[:, None]).any(axis=1)
    on_time = ((world.periodic_authors(day)[user] == author[:, None]) & world.is_time(day, user, hour)).any(axis=1)
    personal = lasting | drifting | on_time
    appeal += world.user_attention[user] + 0.5 * world.likes_tag(user, tag)
    appeal += 2.6 * personal + 0.4 * (on_time | drifting) + 0.8 * (personal & world.is_favourite(user, item))
    return appeal, personal, lasting


def tired_appeal(
    world: World, requests: SimulatedRequests, row: Ints, item: Ints, appeal: Floats, draw: Floats
) -> Floats:
    """Appeal after the fatigue of the session so far. An impression is clicked if its `draw` is below its probability;
    those of one request are shown together, so they do not tire each other."""
    author, tag = (
        np.unique(requests.session[row] * groups + group[item], return_inverse=True)[1]
        for groups, group in ((world.authors, world.item_author), (TAGS, world.item_tag))
    )
    authors_passed, tags_passed = (np.zeros(code.max(initial=0) + 1) for code in (author, tag))
    appeal, place = appeal.copy(), rank_within(requests.session)[row]
    order = np.argsort(place, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
        appeal[rows] -= TIRED_OF_AUTHOR * authors_passed[author[rows]] + TIRED_OF_TAG * tags_passed[tag[rows]]
        passed = rows[draw[rows] >= sigmoid(appeal[rows])]
        np.add.at(authors_passed, author[passed], 1)
        np.add.at(tags_passed, tag[passed], 1)
    return appeal


def probabilities(appeal: Floats, personal: Bools, lasting: Bools) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The true probability of every label, and of long views and other actions given a click."""
    click = sigmoid(appeal)
    after_click = {"long_view": sigmoid(0.8 * appeal + 0.6)}
    for name, (base, of_personal, of_lasting, _, _) in AFTER_CLICK.items():
        after_click[name] = base + of_personal * personal + of_lasting * lasting
    truth = {"click": click} | {name: click * share for name, share in after_click.items()}
    truth["hate"] = (1 - click) * HATE
    truth["finish"] = truth["long_view"] / 3  # a long view plays 0.6 .. 1.2 of the item, uniformly
    return truth, after_click


def simulate_day(world: World, day: date) -> Impressions:
    """A day's impressions. The same world and day give the same ones, whatever was simulated before."""
    rng = np.random.default_rng([world.settings.seed, 5, day.toordinal()])
    requests = draw_requests(world, day, rng)
    row = np.repeat(np.arange(len(requests.user)), requests.targets)
    item = draw_items(world, day, requests, row, rng)
    _, first = np.unique(row * len(world.item_tag) + item, return_index=True)  # an item appears once in a request
    row, item = row[first], item[first]
    appeal, personal, lasting = appeal_of(world, day, requests, row, item)
    n = len(row)
    draw = rng.random(n)
    truth, after_click = probabilities(tired_appeal(world, requests, row, item, appeal, draw), personal, lasting)
    click = draw < truth["click"]
    acted = {"click": click} | {name: click & (rng.random(n) < share) for name, share in after_click.items()}
    acted["hate"] = ~click & (rng.random(n) < HATE)
    time_ms, acted_ms = requests.time_ms[row], {}
    delivered_ms = time_ms.copy()
    for name, (*_, median, spread) in AFTER_CLICK.items():
        delay_s = np.minimum(median * rng.lognormal(0, spread, n), MAX_DELAY_S)
        acted_ms[name] = time_ms + (1_000 * delay_s).astype(np.int64)
        delivered_ms = np.where(acted[name], np.maximum(delivered_ms, acted_ms[name]), delivered_ms)
    share = np.where(acted["long_view"], rng.uniform(0.6, 1.2, n), rng.uniform(0.1, 0.6, n))
    played = (world.item_duration_ms[item] * share).astype(np.int64)
    return Impressions(
        day=day,
        request=row,
        user=requests.user[row],
        item=item,
        time_ms=time_ms,
        delivered_ms=delivered_ms,
        surface=requests.session[row] % 3,
        play_ms=np.where(click, played, rng.integers(*PLAY_UNCLICKED_MS, n)),
        acted=acted,
        acted_ms=acted_ms,
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
            **impressions.action_times(rows),
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
        sent, broken, intact = sent_rows(rows, rng)
        truth.append(truth_rows(impressions, intact))
        tables.append(raw_rows(world, impressions, sent, broken))
    return pa.concat_tables(tables), pa.concat_tables(truth)
