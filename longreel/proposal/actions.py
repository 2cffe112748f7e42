"""Actions in a raw log: flags, times that follow the impression, and rows of one event type each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from longreel.proposal import words
from longreel.proposal.keys import Keys
from longreel.proposal.raw_column import RawColumn, snake_case
from longreel.proposal.times import NO_TIME

DECIDED = 0.9  # agreement of two rows of a key above which a flag is no action
AFFIXES = re.compile(r"^(is|has|was|did|if|user)_|_(flag|ind|at|time|ts|timestamp|date|datetime|ms)$")


@dataclass(frozen=True)
class ProposedAction:
    """An action, and whether each row of the sample has it."""

    name: str
    when: str
    at: str
    rows: npt.NDArray[np.bool_]
    columns: tuple[str, ...]  # the raw columns that it is made of
    comment: str
    delay_h: float = 0.0  # hours after the impression within which 95 % of a timed action happened

    @property
    def rate(self) -> float:
        """Share of rows."""
        return float(np.mean(self.rows)) if len(self.rows) else 0.0

    @property
    def is_negative(self) -> bool:
        """Whether its name says that the user disliked the item."""
        return bool(set(self.name.split("_")) & set(words.NEGATIVE))

    @property
    def rank(self) -> tuple[int, float]:
        """Likeliest tasks first."""
        order = list(words.ACTIONS)
        return (order.index(self.name) if self.name in order else len(order), -self.rate)


def action_name(column: str) -> str:
    """The action that a column is named for: `is_click`, `clicked_at` and `click_time` are click."""
    name = snake_case(column)
    while (shorter := AFFIXES.sub("", name)) != name and shorter:
        name = shorter
    return next((word for word, forms in words.ACTIONS.items() if name in forms), name)


def find_actions(columns: Sequence[RawColumn], keys: Keys) -> list[ProposedAction]:
    """The actions of a log, in the order of its columns."""
    free = [column for column in columns if column.name not in keys.columns and column.distinct]
    actions: dict[str, ProposedAction] = {}
    for column in free:
        action = _flag(column, keys) or _timed(column, keys)
        if action is None:
            continue
        other = actions.get(action.name)
        actions[action.name] = action if other is None else _merged(other, action)
    if not actions and (typed := next((column for column in free if _is_event_type(column)), None)):
        return _of_type(typed)
    return list(actions.values())


def event_type(actions: Sequence[ProposedAction]) -> str:
    """The column of event types that the actions are values of; empty if they are columns each."""
    column = next((action.columns[0] for action in actions if action.columns), "")
    is_typed = column and all(
        re.match(rf"`?{re.escape(column)}`? = ", action.when) and not action.at for action in actions
    )
    return column if is_typed else ""


def _flag(column: RawColumn, keys: Keys) -> ProposedAction | None:
    """A column of 0/1 that neither user, item nor request decide."""
    if column.truth is None or (column.distinct < 2 and column.null_share < 0.001) or column.named(words.SERVING):
        return None
    name = action_name(column.name)
    keys_of = (keys.by_user, keys.by_item) if name in words.ACTIONS else (keys.by_user, keys.by_item, keys.by_request)
    if not column.truth.any() or any((pairs.agreement(column.codes) or 0) > DECIDED for pairs in keys_of):
        return None
    rows = column.holds()
    comment = f"{_rate(rows)} of rows"
    if name not in words.ACTIONS:
        comment += "; if it is known when the item is served, move it to [fields.request]"
    return ProposedAction(name, column.truth_sql, "", rows, (column.name,), comment)


def _timed(column: RawColumn, keys: Keys) -> ProposedAction | None:
    """A column of times that are null where nothing happened, and later than the impression's elsewhere."""
    times, impression = column.times, keys.time.times
    if times is None or impression is None or times.is_date:
        return None
    ms = np.append(times.ms, NO_TIME)[column.codes]
    rows = ms != NO_TIME
    if not 0.0 < np.mean(rows) < 0.98 or np.sum(rows) < 5:
        return None
    delay = ms[rows] - np.append(impression.ms, NO_TIME)[keys.time.codes][rows]
    if np.mean(delay >= 0) < 0.995:  # ingest rejects the rest, as it does whole days of 1 % rejected rows
        return None
    when = f"{column.sql} > 0" if times.zero_is_none else f"{column.sql} IS NOT NULL"
    delay_h = float(np.quantile(delay, 0.95)) / 3_600_000
    comment = f"{_rate(rows)} of rows; 95 % of them within {_duration(60 * delay_h)}"
    return ProposedAction(action_name(column.name), when, times.sql, rows, (column.name,), comment, delay_h)


def _merged(first: ProposedAction, second: ProposedAction) -> ProposedAction:
    """A flag and a time of one name: the flag with the time, where they agree."""
    flag, timed = (second, first) if first.at else (first, second)
    columns = (*flag.columns, *timed.columns)
    if flag.at or not timed.at or np.mean(flag.rows == timed.rows) < 0.99:
        return ProposedAction(
            first.name, first.when, first.at, first.rows, (*first.columns, *second.columns), first.comment
        )
    return replace(timed, name=flag.name, when=flag.when, rows=flag.rows, columns=columns)


def _is_event_type(column: RawColumn) -> bool:
    if column.is_list or not 2 <= column.distinct <= 20 or column.numbers is not None or column.null_share > 0.01:
        return False
    values = {action_name(text) for text in column.texts}
    named = {*words.ACTIONS, *words.IMPRESSION, *words.NEGATIVE}
    share = sum(value in named for value in values) / len(values)
    return share >= 0.5 and (column.named(words.EVENT_TYPE) or share == 1)


def _of_type(column: RawColumn) -> list[ProposedAction]:
    """One action for each type of event that is no impression."""
    actions: dict[str, ProposedAction] = {}
    names = [action_name(text) for text in column.texts]
    is_view = not set(names) <= set(words.IMPRESSION)
    for name in sorted(set(names), key=lambda n: -sum(column.counts[i] for i, m in enumerate(names) if m == n)):
        if name in words.IMPRESSION and is_view:
            continue
        values = [text for text, own in zip(column.texts, names, strict=True) if own == name]
        rows = np.isin(column.codes, [code for code, own in enumerate(names) if own == name])
        when = " OR ".join(f"{column.sql} = '{_escaped(value)}'" for value in values)
        key = name if re.fullmatch(r"[a-z][a-z0-9_]*", name) else f"type_{name}"
        actions[key] = ProposedAction(key, when, "", rows, (column.name,), f"{_rate(rows)} of rows")
    return list(actions.values())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _rate(rows: npt.NDArray[np.bool_]) -> str:
    return f"{100 * float(np.mean(rows)):.3g} %"


def _duration(minutes: float) -> str:
    if minutes < 90:
        return f"{max(minutes, 0.1):.1f} min"
    return f"{minutes / 60:.1f} h" if minutes < 2_880 else f"{minutes / 1_440:.1f} d"
