"""Small random logs, of a short-video app and with every place and kind, and settings that they can be built with."""

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from spark_helpers import DAY_MS, MIDNIGHT_MS, Row, event

from longreel.contracts import toml
from longreel.contracts.config import SamplesConfig
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.log_schema_toml import build_log_schema
from tests.short_video import SHORT_VIDEO, SHORT_VIDEO_TOML

SHOP_TOML = """
[fields.item]
brand = {kind = "id", optional = true}
tags = {kind = "multi", size = 2}
title = {kind = "vector", size = 3, optional = true}
price = {kind = "number"}

[fields.request]
device = {kind = "category"}
hour = {kind = "hour"}

[fields.event]
dwell = {kind = "number"}
click_place = {kind = "category", of = "click"}
paid = {kind = "number", of = "purchase"}
basket = {kind = "multi", size = 2, of = "cart"}

[fields.user]
country = {kind = "category"}
age = {kind = "number", optional = true}
interests = {kind = "multi", size = 2}

[actions]
click = "click"
cart = {when = "cart_at IS NOT NULL", at = "cart_at"}
purchase = {when = "bought_at IS NOT NULL", at = "bought_at"}

[history]
events = "impressions"

[labels]
click = "click"
like = "dwell > 3"
bought = {when = "purchase", within = "48 h"}
spent = {value = "if(purchase, paid, 0)"}
"""
SHOP = build_log_schema(toml.parse(SHOP_TOML, "shop"), "UTC", "shop")
TOML = {SHORT_VIDEO.actions: SHORT_VIDEO_TOML, SHOP.actions: SHOP_TOML}
# `[history] known_after` and milliseconds; None: the midnight of KATHMANDU that begins the request's day.
KNOWN_AFTER = {"": 0, "0.001 s": 1, "0.003 s": 3, "24 h": 86_400_000, "2 d": 172_800_000, "next day": None}
KATHMANDU, KATHMANDU_MS = "Asia/Kathmandu", 20_700_000  # 5:45 ahead of UTC

GAP_MS = 3
# Times of a log day against its midnight: ties, neighbouring milliseconds, rows stamped into the days around it.
OFFSETS = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    DAY_MS - 1,
    DAY_MS - 2,
    -1,
    -2,
    -DAY_MS,
    -DAY_MS + 1,
    -2 * DAY_MS,
    DAY_MS,
    DAY_MS + 1,
    DAY_MS - KATHMANDU_MS,
    DAY_MS - KATHMANDU_MS - 1,
]
# Times of an action against its impression.
DELAYS = [-1, 0, 1, 2, 3, DAY_MS - 1, DAY_MS, DAY_MS + 1, 2 * DAY_MS]
IDS = {"none": st.none(), "all": st.sampled_from(["a", "b", "c"]), "some": st.sampled_from([None, None, "a", "b"])}
NUMBERS = st.sampled_from([0.0, -0.0, float("nan"), 1.5, -2.0])
SMALL = st.integers(-1, 1)


@dataclass(frozen=True)
class Case:
    """Consecutive log days of a few users, rows in any order, and how to build their samples."""

    log: LogSchema
    days: list[list[Row]]
    users: dict[int, Row]  # fields of those who are described
    config: SamplesConfig

    @property
    def toml(self) -> str:
        """The declaration of `log`."""
        known_after = f'[history]\nknown_after = "{self.log.history_known_after}"'
        return TOML[self.log.actions].replace("[history]", known_after)


def videos(ids: str, start: int) -> st.SearchStrategy[Row]:
    """A row of SHORT_VIDEO on the log day that starts so many milliseconds after DAY."""
    return st.builds(
        event,
        user=st.integers(1, 3),
        item=st.integers(1, 3),
        at=st.sampled_from(OFFSETS).map(lambda at: start + at),
        request_id=IDS[ids],
        actions=st.sampled_from([0, 1, 2, 32, 65]),
        play_ms=st.sampled_from([0.0, 3_000.0, 3_001.0, 9_000.0]),
        duration_ms=st.sampled_from([0.0, 9_000.0]),
    )


@st.composite
def shop(draw: st.DrawFn, ids: str, start: int) -> Row:
    """A row of SHOP."""
    time_ms = MIDNIGHT_MS + start + draw(st.sampled_from(OFFSETS))
    times = {f"{name}_ms": draw(st.none() | st.sampled_from(DELAYS)) for name in SHOP.timed_actions}
    row: Row = {"user_id": draw(st.integers(1, 3)), "time_ms": time_ms, "request_id": draw(IDS[ids])}
    row["item_id"] = draw(st.integers(1, 2))
    row |= {name: None if delay is None else time_ms + delay for name, delay in times.items()}
    happened = [name for name, time in zip(SHOP.timed_actions, times.values(), strict=True) if time is not None]
    row["actions"] = draw(st.integers(0, 1)) | sum(SHOP.action_bit(name) for name in happened)
    bits = [1, *(2 << number for number, name in enumerate(SHOP.timed_actions) if name in happened)]
    row["history"] = sum(bit for bit in bits if draw(st.booleans()))
    row |= {"brand": draw(SMALL), "price": draw(NUMBERS), "device": draw(SMALL)}
    row |= {"dwell": draw(NUMBERS), "click_place": draw(SMALL), "paid": draw(NUMBERS)}
    row |= {"tags": draw(pairs()), "basket": draw(pairs()), "title": draw(st.sampled_from(TITLES))}
    return row | {"labels": draw(st.integers(0, 7)), "label_spent": draw(NUMBERS)}


TITLES = [[float("nan")] * 3, [0.0, 1.0, 2.0], [0.0, 1.0, -2.0], [-0.0, 1.0, 2.0]]


def pairs() -> st.SearchStrategy[list[int]]:
    """Two ids of a multi field."""
    return st.sampled_from([[-1, -1], [4, -1], [4, 5], [5, 4]])


@st.composite
def cases(draw: st.DrawFn, max_days: int = 4) -> Case:
    """A log of either kind, and settings."""
    log, rows = draw(st.sampled_from([(SHORT_VIDEO, videos), (SHOP, shop)]))
    log = replace(log, history_known_after=draw(st.sampled_from(sorted(KNOWN_AFTER))), time_zone=KATHMANDU)
    ids = draw(st.sampled_from(sorted(IDS)))
    rules = {"none": ["auto", "delivery_time", "gap"], "some": ["auto", "gap"], "all": ["auto", "request_id", "gap"]}
    config = SamplesConfig(
        request_rule=draw(st.sampled_from(rules[ids])),
        gap_ms=GAP_MS,
        max_history=draw(st.sampled_from([1, 2, 3, 5, 10_240])),
        max_targets=draw(st.sampled_from([1, 2, 3, 512])),
    )
    count = draw(st.integers(1, max_days))
    days = [draw(st.lists(rows(ids, number * DAY_MS), max_size=12)) for number in range(count)]
    fields: dict[str, Any] = {"user_country": SMALL, "user_age": NUMBERS, "user_interests": pairs()}
    described = draw(st.dictionaries(st.integers(1, 3), st.fixed_dictionaries(fields))) if rows is shop else {}
    return Case(log, days, described, config)
