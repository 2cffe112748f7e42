"""Proposed configuration of a raw log: keys, actions, fields, labels and what to watch out for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from longreel.contracts.config import SourceKind
from longreel.contracts.log_schema import MAX_ACTIONS, RESERVED, Place
from longreel.proposal.actions import ProposedAction, event_type, find_actions
from longreel.proposal.fields import ProposedField, field_name, kind_of, place_column, table_rows
from longreel.proposal.keys import Keys, find_keys
from longreel.proposal.raw_column import RawColumn, raw_columns
from longreel.proposal.raw_sample import RawSample, read_sample
from longreel.proposal.times import NO_TIME

MAX_MATCH, MAX_TASKS = 4, 3  # ids that attention compares, item_id among them; a GPU-less home has eight heads
MIN_POSITIVES = 20
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Proposal:
    """What `longreel.toml` should say of a log, with reasons."""

    sample: RawSample
    keys: Keys
    actions: tuple[ProposedAction, ...]
    fields: tuple[ProposedField, ...]
    left_out: tuple[tuple[str, str], ...]  # column and reason
    time_zone: str
    day: str  # SQL of the log day, of a flat log
    first_day: date
    warnings: tuple[str, ...]

    @property
    def kind(self) -> SourceKind:
        """Of `[source]`."""
        return "kuairand" if self.sample.layout == "kuairand" else "generic"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Labels to learn: actions that are often enough, the likeliest first."""
        often = [a for a in self.actions if a.rows.sum() >= MIN_POSITIVES and (~a.rows).sum() >= MIN_POSITIVES]
        liked = [action for action in often if not action.is_negative] or often or list(self.actions)
        return tuple(action.name for action in sorted(liked, key=lambda action: action.rank)[:MAX_TASKS])

    @property
    def history(self) -> str:
        """What enters the history: every impression, where the log has those that were passed over; or else SQL for
        any action but a negative one."""
        if not every_row_has_an_action(self.actions):
            return "impressions"
        liked = [action.name for action in self.actions if not action.is_negative] or [a.name for a in self.actions]
        return " OR ".join(liked)

    def of_place(self, place: Place) -> list[ProposedField]:
        """Fields of a place, guesses last."""
        return sorted((f for f in self.fields if f.place == place), key=lambda f: f.is_guess)

    @property
    def matches(self) -> set[str]:
        """Item fields that attention compares, besides item_id: ids that recur."""
        ids = [f for f in self.fields if f.place == "item" and f.kind == "id" and not f.is_guess]
        return {f.name for f in ids[: MAX_MATCH - 1]}


def propose(log: Path, user: str | None = None, item: str | None = None, time: str | None = None) -> Proposal:
    """Look at a log, and propose how to declare it.

    Args:
        user, item, time: the raw columns of the keys; None: found by name and values.

    Raises:
        LongreelError: the log cannot be read, or has no column for a key.
    """
    sample = read_sample(log)
    columns = raw_columns(sample.rows)
    if sample.layout == "kuairand":
        user, item, time = user or "user_id", item or "video_id", time or "time_ms"
    keys = find_keys(columns, user, item, time)
    actions = find_actions(columns, keys)[:MAX_ACTIONS]
    used = {*keys.columns, *(name for action in actions for name in action.columns)}
    rest = [column for column in columns if column.name not in used]
    day_column = next((column for column in rest if _is_day(column, keys)), None)
    placed = [(c, place_column(c, keys, actions)) for c in rest if c is not day_column]
    zone, zone_warning = _time_zone(sample, keys, day_column)
    fields = [_known_to_rows(f, sample) for _, f in placed if isinstance(f, ProposedField)]
    others = [(c.name, f) for c, f in placed if isinstance(f, str)]
    if day_column is not None:
        others.append((day_column.name, "the log day of the row"))
    rows_have = {column.name.lower() for column in columns}
    item_fields, other_items = _table_fields(sample.items, keys.item, "item", rows_have)
    user_fields, other_users = _table_fields(sample.users, keys.user, "user", set())
    if not actions:
        actions = [ProposedAction("interaction", "true", "", np.ones(len(sample.rows), bool), (), "every row")]
    taken = {action.name for action in actions} | {f"{action.name}_ms" for action in actions if action.at}
    return Proposal(
        sample=sample,
        keys=keys,
        actions=tuple(actions),
        fields=tuple(_renamed([*fields, *item_fields, *user_fields], taken)),
        left_out=(*others, *other_items, *other_users),
        time_zone=zone,
        day=_day_sql(keys, day_column, zone) if sample.layout == "flat" else "",
        first_day=sample.days[0] if sample.days else _first_day(day_column or keys.time),
        warnings=tuple(w for w in (zone_warning, *_warnings(sample, keys, actions, columns)) if w),
    )


def _renamed(fields: Sequence[ProposedField], taken: set[str]) -> list[ProposedField]:
    """Fields whose names are distinct, and neither an action's nor a column's of every log."""
    names, renamed = {*taken, *RESERVED}, []
    for f in fields:
        name = f.name
        while name in names:
            name = f"{name}_{f.place}" if f"{name}_{f.place}" not in names else f"{name}_2"
        names.add(name)
        settings = dict(f.settings) if name == f.name else {"from": f.column.sql, **f.settings}
        renamed.append(ProposedField(name, f.column, f.place, f.kind, settings, f.reason, f.is_guess))
    return renamed


def _known_to_rows(f: ProposedField, sample: RawSample) -> ProposedField:
    """A field of the user that only the rows have: beside a user table, it is one of the request."""
    if f.place != "user" or sample.users is None:
        return f
    reason = f"{f.reason}; users have a table, and it is no column of that"
    return ProposedField(f.name, f.column, "request", f.kind, f.settings, reason)


def _table_fields(
    table: pa.Table | None, key: RawColumn, place: Place, rows_have: set[str]
) -> tuple[list[ProposedField], list[tuple[str, str]]]:
    """Fields of a table beside the log, and columns of it that are none, with the reason; nothing of the columns that
    rows have themselves."""
    if table is None:
        return [], []
    fields, others = [], []
    for column in raw_columns(table):
        if column.name.lower() in (key.name.lower(), *rows_have):
            continue
        constant = column.distinct <= 1 and column.null_share < 0.001
        if constant or column.personal or column.times is not None:
            others.append((column.name, "constant" if constant else column.personal or "a time"))
            continue
        kind, settings, doubt = kind_of(column)
        if settings.get("from") is None and field_name(column) != column.name.lower():
            settings = {"from": column.sql} | settings
        fields.append(
            ProposedField(field_name(column), column, place, kind, settings, doubt or f"of the table of {place}s")
        )
    return fields, others


def _is_day(column: RawColumn, keys: Keys) -> bool:
    """Whether a column has the log day: a date near the row's time."""
    times, row_times = column.times, keys.time.times
    if times is None or row_times is None or not times.is_date or column.null_share > 0:
        return False
    own = times.ms[column.codes]
    apart = np.append(row_times.ms, NO_TIME)[keys.time.codes] - own
    return bool(np.mean(np.abs(apart - DAY_MS / 2) <= 1.1 * DAY_MS) > 0.99)


def _first_day(column: RawColumn) -> date:
    assert column.times is not None
    first = int(column.times.ms[column.times.ms != NO_TIME].min())
    return datetime.fromtimestamp(first / 1_000, UTC).date()


def _day_sql(keys: Keys, day_column: RawColumn | None, zone: str) -> str:
    times = (day_column or keys.time).times
    assert times is not None
    if day_column is not None or zone == "UTC":
        return times.day_sql()
    instant = f"timestamp_millis({times.sql})" if times.is_millis else times.sql
    return f"to_date(from_utc_timestamp({instant}, '{zone}'))"


def _time_zone(sample: RawSample, keys: Keys, day_column: RawColumn | None) -> tuple[str, str]:
    """The time zone in which the rows of a day lie between its midnights, and a warning if that is not UTC."""
    assert keys.time.times is not None
    times = np.append(keys.time.times.ms, NO_TIME)[keys.time.codes]
    if sample.layout == "folders":
        midnights = [int(datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp()) * 1_000 for d in sample.sampled_days]
        if len(midnights) != len(sample.row_days):
            return "UTC", ""
        days = np.repeat(midnights, sample.row_days)
    elif day_column is not None and day_column.times is not None:
        days = day_column.times.ms[day_column.codes]
    else:
        return "UTC", ""
    apart = (times - days)[times != NO_TIME]

    def inside(hours: int) -> float:
        return float(np.mean((apart + hours * 3_600_000 >= 0) & (apart + hours * 3_600_000 < DAY_MS)))

    best = max(range(-12, 15), key=lambda hours: (inside(hours), -abs(hours)))
    if inside(0) >= 0.99 or best == 0 or inside(best) < inside(0) + 0.005:
        return "UTC", ""
    is_named = sample.layout == "kuairand" and best == 8
    zone = "Asia/Shanghai" if is_named else f"Etc/GMT{-best:+d}"
    return zone, (
        f"days end at {-best % 24:02d}:00 UTC: time_zone is {zone}; give your IANA zone, which knows of summer time"
        if not is_named
        else ""
    )


def every_row_has_an_action(actions: Sequence[ProposedAction]) -> bool:
    """Whether the log has no impressions that were passed over, but for a few."""
    return bool(np.any([action.rows for action in actions], axis=0).mean() > 0.999)


def _warnings(
    sample: RawSample, keys: Keys, actions: Sequence[ProposedAction], columns: Sequence[RawColumn]
) -> list[str]:
    warnings = []
    if every_row_has_an_action(actions):
        warnings.append(
            "no negatives: every row has an action, and no model can be trained so; docs/log-schema.md has remedies"
        )
    if name := event_type(actions):
        warnings.append(
            f"each row is one event, of a type in {name}, not an impression with what came of it: a click is another "
            "row than its impression. Join them before ingest, for labels of impressions"
        )
    if sample.layout == "flat":
        warnings.append("all days in one place: `[source] day` says which day a row has, and every day reads all files")
    for key, column in (("user", keys.user), ("item", keys.item)):
        if column.personal:
            warnings.append(
                f"the {key} column {column.name} looks like {column.personal}: hash it before; the quarantine keeps "
                "rejected rows as they are"
            )
    personal = [column.name for column in columns if column.personal and column.name not in keys.columns]
    if personal:
        names = ", ".join(personal)
        warnings.append(
            f"personal, and so no fields: {names}; the quarantine keeps rejected rows with all their columns"
        )
    for what, table, own in (("item", sample.items, keys.item), ("user", sample.users, keys.user)):
        if table is not None and own.name.lower() not in map(str.lower, table.column_names):
            warnings.append(f"the {what} table has no column {own.name}, by which the log names its {what}s: rename it")
    if keys.time.times is not None and not keys.time.times.has_zone and not keys.time.times.is_millis:
        zone = "UTC" if keys.time.times.sql != keys.time.sql else "[source] time_zone"
        warnings.append(f"{keys.time.name} names no time zone: it is read as {zone}")
    if keys.time.times is not None and keys.time.times.is_date:
        warnings.append(f"{keys.time.name} has days only: a request sees nothing of the same day")
    return warnings


def item_rows(keys: Keys) -> int:
    """Table rows of item_id."""
    return table_rows(keys.item.distinct)
