"""The log schema: fields, actions and labels that longreel.toml declares, and what of them is stored.

A field has a place and a kind. The place says what it describes, and so who may read it:

    item     describes the item: in histories and in targets
    request  context known when the item is served: in histories and in targets
    event    what came of an impression: in histories, never of a target
    user     describes the user: once for every sample row

The kind says how it is stored and how the model reads it:

    id        whole number, or text hashed to 64 bits; a row of a hashed table
    category  a small vocabulary: whole number, or text hashed to 31 bits; a row for each value that training saw
    number    float32; missing is NaN
    multi     up to `size` ids of one event, such as tags
    vector    `size` numbers, such as an embedding from elsewhere
    hour, weekday   of the time, in the log's time zone; nothing is stored

Statistics (statistics.py) are number fields of the user or of a target, which the build of samples computes.

docs/log-schema.md describes all of it for users.
"""

import json
import re
import typing
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from longreel.contracts.digests import digest_of
from longreel.contracts.durations import delay_ms
from longreel.contracts.errors import LongreelError, require
from longreel.contracts.sql_names import names_in
from longreel.contracts.statistics import USER, Statistic, StatisticColumn, check_statistics

Place = Literal["item", "request", "event", "user"]
Kind = Literal["id", "category", "number", "multi", "vector", "hour", "weekday"]
PLACES: tuple[Place, ...] = typing.get_args(Place)
KINDS: tuple[Kind, ...] = typing.get_args(Kind)
DERIVED_KINDS: tuple[Kind, ...] = ("hour", "weekday")  # of the time; nothing is stored

TYPES: dict[Kind, pa.DataType] = {
    "id": pa.int64(),
    "multi": pa.int64(),
    "category": pa.int32(),
    "number": pa.float32(),
    "vector": pa.float32(),
}
DEFAULT_ROWS: dict[Kind, int] = {"id": 65_536, "multi": 16_384, "category": 64, "number": 32}
MIN_ROWS = 4
UNKNOWN = -1  # an id or category without a value
MAX_ACTIONS = 60
ALL_IMPRESSIONS = "true"  # [history] events that takes every impression
NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
RESERVED = frozenset(
    {"user_id", "item_id", "time_ms", "request_id", "actions", "labels", "history", "row", "reason", "source_file"}
)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A declared field; its TOML table says the place, and its key the name."""

    name: str
    place: Place
    kind: Kind
    """How the field is stored and read by the model; docs/log-schema.md describes each kind."""
    source: str = ""
    """SQL over the raw columns. Empty: the raw column of the field's name."""
    rows: int = 0
    """Table rows of an `id` or `multi`, largest vocabulary of a `category`, buckets of a `number`. 0: the default."""
    size: int = 1
    """Elements of one event, of a `multi` (further ids are dropped) or a `vector`."""
    match: bool = False
    """Whether attention compares this id of an item between target and event."""
    optional: bool = False
    """Whether a day may lack its column, and then has no value of it."""
    of: str = ""
    """Of an event field: the timed action that it becomes known with. Empty: known with the impression."""

    @property
    def is_stored(self) -> bool:
        """Whether files have a column of it."""
        return self.kind not in DERIVED_KINDS

    @property
    def type(self) -> pa.DataType:
        """Type of one stored element."""
        return TYPES[self.kind]

    @property
    def unknown(self) -> float:
        """What a missing value is stored as, in every element: UNKNOWN or NaN."""
        return UNKNOWN if pa.types.is_integer(self.type) else float("nan")

    @property
    def table_rows(self) -> int:
        """`rows`, or the default of its kind."""
        return self.rows or DEFAULT_ROWS.get(self.kind, 0)

    def definition(self) -> dict[str, Any]:
        """What decides a field's stored values. How a model reads them is not among it."""
        return {
            "place": self.place,
            "kind": self.kind,
            "from": self.source or self.name,
            "size": self.size,
            "of": self.of,
        }


@dataclass(frozen=True, kw_only=True)
class Action:
    """What a user did with an impression. One with `at` or `known_after` enters the history when it becomes known."""

    name: str
    when: str = ""
    """SQL over the raw columns. Empty: the raw column of the action's name, 1/0 or true/false."""
    at: str = ""
    """SQL for when it happened: milliseconds since 1970 UTC, or a timestamp. Empty: with the impression."""
    known_after: str = ""
    """How long after it happened it becomes known: a duration such as `10 min`, or `next day`. Empty: at once."""
    optional: bool = False
    """Whether a day may lack its columns, and then has no such action."""

    @property
    def is_timed(self) -> bool:
        """Whether it becomes known at another time than the impression."""
        return bool(self.at or self.known_after)


@dataclass(frozen=True, kw_only=True)
class Label:
    """Something to predict of an impression, as SQL over its fields, its actions and its timed actions' `<action>_ms`.

    A binary label has `when`, a number label `value`.
    """

    name: str
    when: str = ""
    """SQL that holds for a positive; null counts as false."""
    value: str = ""
    """SQL for a number to predict; without a value where it is null."""
    within_ms: int = 0
    """Timed actions count if they happened at the latest that long after the impression. Empty: at any time."""
    weight: float = 1.0
    """Factor of the task's loss."""

    @property
    def is_number(self) -> bool:
        """Whether it is a number to predict, not a probability."""
        return bool(self.value)

    @property
    def sql(self) -> str:
        """The expression."""
        return self.value or self.when


@dataclass(frozen=True)
class Column:
    """A stored column of every event, target or user: `size` elements of a type each."""

    name: str
    type: pa.DataType
    size: int = 1
    field: Field | None = None  # None: a column of every log

    @property
    def is_optional(self) -> bool:
        """Whether partitions without it read as if it had no value anywhere."""
        return self.field is not None and self.field.optional


ITEM = Field(name="item_id", place="item", kind="id", match=True)


@dataclass(frozen=True, kw_only=True)
class LogSchema:
    """What an impression of one log is made of. `item_id` is its first field.

    Raises:
        LongreelError: a name, an expression or an attribute does not fit.
    """

    fields: tuple[Field, ...] = (ITEM,)
    actions: tuple[Action, ...] = (Action(name="click"),)
    labels: tuple[Label, ...] = (Label(name="click", when="click"),)
    history: str = "click"  # SQL: which impressions enter the history, ALL_IMPRESSIONS among them
    history_known_after: str = ""  # how long after its time a request may see a history event; "next day"
    statistics: tuple[Statistic, ...] = ()
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        require(bool(self.fields) and self.fields[0].name == "item_id", "[fields.item]: item_id comes first")
        names = [field.name for field in self.fields]
        for field in self.fields:
            _check_field(field, self.action_names)
        _check_names("[fields]", names[1:])
        _check_names("[actions]", list(self.action_names))
        _check_names("[labels]", [label.name for label in self.labels])
        both = sorted(set(names) & {*self.action_names, *(timed_column(name) for name in self.timed_actions)})
        require(not both, f"[fields] and [actions] both declare {', '.join(both)}; rename one")
        both = sorted(set(names) & {f"label_{name}" for name in self.number_labels})
        require(not both, f"[fields]: {', '.join(both)} is the column of a number label; rename the field")
        require(len(self.actions) <= MAX_ACTIONS, f"[actions]: expected at most {MAX_ACTIONS}, got {len(self.actions)}")
        for action in self.actions:
            delay_ms(action.known_after, f"[actions] {action.name}: known_after")
        delay_ms(self.history_known_after, "[history] known_after")
        check_statistics(self.statistics, self._statistic_keys, self.action_names)
        both = sorted(set(names) & {column.name for column in self.statistic_columns})
        require(not both, f"[fields] and [statistics] both declare {', '.join(both)}; rename the field")
        usable = self.event_names
        _check_expression("[history] events", self.history, usable, "; or 'impressions' alone, for all")
        for label in self.labels:
            where = f"[labels] {label.name}"
            require(bool(label.when) != bool(label.value), f"{where}: expected either `when` or `value`")
            require(label.weight > 0, f"{where}: expected a positive weight, got {label.weight}")
            _check_expression(where, label.sql, usable)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions; the i-th has bit i of `actions`."""
        return tuple(action.name for action in self.actions)

    @property
    def timed_actions(self) -> tuple[str, ...]:
        """Names of the actions that become known at their own time. The i-th has bit i + 1 of an event's `history`;
        bit 0 is the impression's own."""
        return tuple(action.name for action in self.actions if action.is_timed)

    @property
    def binary_labels(self) -> tuple[str, ...]:
        """Names of the binary labels; the i-th has bit i of `labels`."""
        return tuple(label.name for label in self.labels if not label.is_number)

    @property
    def number_labels(self) -> tuple[str, ...]:
        """Names of the number labels."""
        return tuple(label.name for label in self.labels if label.is_number)

    def label(self, name: str) -> Label:
        """The label of a name.

        Raises:
            LongreelError: there is none.
        """
        for label in self.labels:
            if label.name == name:
                return label
        raise LongreelError(
            f"{name!r} is not a label; expected some of {', '.join(label.name for label in self.labels)}"
        )

    def label_bit(self, name: str) -> int:
        """The bit of a binary label."""
        return 1 << self.binary_labels.index(name)

    def action_bit(self, name: str) -> int:
        """The bit of an action."""
        return 1 << self.action_names.index(name)

    @property
    def event_names(self) -> tuple[str, ...]:
        """What `[history]` and `[labels]` may name: keys, fields of an impression, actions, times of timed actions."""
        fields = [field.name for field in self.fields if field.place != "user" and field.is_stored]
        times = [timed_column(name) for name in self.timed_actions]
        return ("user_id", "time_ms", *fields, *self.action_names, *times)

    @property
    def actions_type(self) -> pa.DataType:
        """Type of the bitmask of actions."""
        return _bitmask(len(self.actions))

    @property
    def labels_type(self) -> pa.DataType:
        """Type of the bitmask of binary labels."""
        return _bitmask(len(self.binary_labels))

    def of_place(self, *places: Place) -> tuple[Field, ...]:
        """The fields of some places, in the order that they are declared in."""
        return tuple(field for field in self.fields if field.place in places)

    @property
    def _statistic_keys(self) -> tuple[str, ...]:
        fields = (f.name for f in self.of_place("item", "request") if f.kind in ("id", "category"))
        return (USER, *fields)

    @cached_property
    def statistic_columns(self) -> tuple[StatisticColumn, ...]:
        """The columns of all statistics."""
        return tuple(column for statistic in self.statistics for column in statistic.columns())

    @cached_property
    def target_fields(self) -> tuple[Field, ...]:
        """What a target is served with: item and request fields, and the statistics that are not of the user alone."""
        return (*self.of_place("item", "request"), *self._statistics(of_user=False))

    @cached_property
    def user_fields(self) -> tuple[Field, ...]:
        """What a user is served with: user fields, and the user's statistics."""
        return (*self.of_place("user"), *self._statistics(of_user=True))

    def _statistics(self, *, of_user: bool) -> tuple[Field, ...]:
        place: Place = "user" if of_user else "request"
        columns = (column for column in self.statistic_columns if column.statistic.is_of_user == of_user)
        return tuple(Field(name=column.name, place=place, kind="number") for column in columns)

    @cached_property
    def item_columns(self) -> tuple[Column, ...]:
        """Columns that an impression is served with: item and request fields. Nothing that came of it is among them."""
        return tuple(_column(field) for field in self.of_place("item", "request") if field.is_stored)

    @cached_property
    def target_columns(self) -> tuple[Column, ...]:
        """Columns of a target: `item_columns` and statistics."""
        return tuple(_column(field) for field in self.target_fields if field.is_stored)

    @cached_property
    def event_columns(self) -> tuple[Column, ...]:
        """Columns of a history event: its time, `item_columns`, event fields, and the actions."""
        events = (_column(field) for field in self.of_place("event") if field.is_stored)
        return (Column("time_ms", pa.int64()), *self.item_columns, *events, Column("actions", self.actions_type))

    @cached_property
    def described_user_columns(self) -> tuple[Column, ...]:
        """Columns of a user in `users`: the user fields."""
        return tuple(_column(field) for field in self.of_place("user") if field.is_stored)

    @cached_property
    def user_columns(self) -> tuple[Column, ...]:
        """Columns of a user in samples: the user fields, and the user's statistics."""
        return tuple(_column(field) for field in self.user_fields if field.is_stored)

    @property
    def match_fields(self) -> tuple[str, ...]:
        """The ids that attention compares between target and event."""
        return tuple(field.name for field in self.fields if field.match)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` reads them."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "LogSchema":
        """A schema from the JSON of `to_dict`.

        Raises:
            LongreelError: it is none.
        """
        try:
            return LogSchema(
                fields=tuple(Field(**field) for field in values["fields"]),
                actions=tuple(Action(**action) for action in values["actions"]),
                labels=tuple(Label(**label) for label in values["labels"]),
                history=values["history"],
                history_known_after=values["history_known_after"],
                statistics=tuple(_statistic(statistic) for statistic in values["statistics"]),
                time_zone=values["time_zone"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LongreelError(f"not a log schema ({error}); expected what LogSchema.to_dict gives") from error

    def digest(self) -> str:
        """16 hex digits that change when any declaration does."""
        return digest_of(json.loads(json.dumps(self.to_dict())))


def summary(log: LogSchema) -> dict[str, str]:
    """A log schema in a few words: the fields of each place, actions, labels and digest."""
    fields = {f"{place} fields": ", ".join(field.name for field in log.of_place(place)) for place in PLACES}
    labels = {"binary labels": ", ".join(log.binary_labels), "number labels": ", ".join(log.number_labels)}
    statistics = "; ".join(f"{s.key}: {', '.join(s.measures)}" for s in log.statistics)
    actions = {"actions": ", ".join(log.action_names)}
    return {**fields, **actions, **labels, "statistics": statistics, "digest": log.digest()}


def timed_column(action: str) -> str:
    """The events column with the time at which a timed action became known."""
    return f"{action}_ms"


def _statistic(values: dict[str, Any]) -> Statistic:
    return Statistic(of=tuple(values["of"]), impressions=values["impressions"], rates=tuple(values["rates"]))


def _bitmask(bits: int) -> pa.DataType:
    return pa.int32() if bits <= 31 else pa.int64()


def _column(field: Field) -> Column:
    return Column(field.name, field.type, field.size, field)


def _check_names(section: str, names: list[str]) -> None:
    for name in names:
        require(
            NAME.fullmatch(name) is not None and len(name) <= 64,
            f"{section}: {name!r} is no name; expected lower-case letters, digits and '_', beginning with a letter",
        )
        require(name not in RESERVED, f"{section}: {name} is the name of a column of every log; choose another")
        require(names.count(name) == 1, f"{section}: {name} is declared twice")


def _check_field(field: Field, actions: tuple[str, ...]) -> None:
    where = f"[fields.{field.place}] {field.name}"
    require(field.place in PLACES, f"{where}: expected a place among {', '.join(PLACES)}")
    require(field.kind in KINDS, f"{where}: kind expected one of {', '.join(KINDS)}, got {field.kind!r}")
    require(field.rows == 0 or field.rows >= MIN_ROWS, f"{where}: expected at least {MIN_ROWS} rows, got {field.rows}")
    wide = field.kind in ("multi", "vector")
    require(
        2 <= field.size <= 4_096 if wide else field.size == 1,
        f"{where}: size expected 2 .. 4096 of a multi or vector, and no other kind has one; got {field.size}",
    )
    require(field.place != "user" or field.name != "id", f"{where}: user_id is a column of every log; rename the field")
    is_item_id = field.place == "item" and field.kind == "id"
    require(not field.match or is_item_id, f"{where}: only an id of [fields.item] can have match = true")
    if field.kind in DERIVED_KINDS:
        require(field.place == "request", f"{where}: {field.kind} belongs to [fields.request]")
        require(not field.source, f"{where}: {field.kind} is derived from the time; leave `from` out")
    require(not field.of or field.place == "event", f"{where}: only a field of [fields.event] can have `of`")
    require(not field.of or field.of in actions, f"{where}: of expected an action, got {field.of!r}")


def _check_expression(where: str, sql: str, usable: tuple[str, ...], alternative: str = "") -> None:
    require(bool(sql.strip()), f"{where}: expected a SQL expression")
    unknown = ", ".join(sorted(names_in(sql) - {name.lower() for name in usable}))
    expected = f"expected some of {', '.join(usable)}{alternative}"
    require(not unknown, f"{where}: {unknown} is no field or action; {expected}")
