"""Raw columns that a configuration's expressions read."""

from dataclasses import dataclass
from functools import cached_property

from longreel.contracts.config import Config
from longreel.contracts.sql_names import names_in

KEYS = ("user_id", "item_id", "time_ms")  # settings of [source] that every row needs a value of


@dataclass(frozen=True, kw_only=True)
class RawColumns:
    """The columns that expressions read, and how a source reads the others: as it can, or not at all."""

    expressions: tuple[str, ...] | None = None  # None: all columns are read
    keys: tuple[frozenset[str], ...] = ()  # names, of which a file of rows needs one each
    ids: frozenset[str] = frozenset()  # names that ids are read from
    only: bool = False  # leave out the others, where a format can

    @property
    def user_keys(self) -> tuple[frozenset[str], ...]:
        """Names, of which a table of users needs one each."""
        return self.keys[:1]

    @property
    def item_keys(self) -> tuple[frozenset[str], ...]:
        """Likewise, a table of items."""
        return self.keys[1:2]

    @staticmethod
    def of(config: Config) -> "RawColumns":
        """What a configuration reads."""
        source, schema = config.source, config.log_schema
        expressions = [source.user_id, source.item_id, source.time_ms, source.request_id or "request_id"]
        expressions += [source.where, source.day, *source.derived.values()]
        expressions += [field.source or field.name for field in schema.fields[1:] if field.is_stored]
        expressions += [sql for action in schema.actions for sql in (action.when or action.name, action.at)]
        keys = tuple(_raw_names(getattr(source, key), source.derived) for key in KEYS)
        fields = [field for field in schema.fields[1:] if field.kind in ("id", "multi") and field.is_stored]
        ids = [_raw_names(field.source or f"`{field.name}`", source.derived) for field in fields]
        return RawColumns(expressions=tuple(expressions), keys=keys, ids=frozenset().union(*keys[:2], *ids))

    def reads(self, column: str) -> bool:
        """Whether an expression reads a column; words of SQL count too where they are a column's name."""
        return self.expressions is None or column.lower() in self._names

    @cached_property
    def _names(self) -> set[str]:
        return {name for sql in self.expressions or () for name in names_in(sql, words=True)}


def _raw_names(sql: str, derived: dict[str, str]) -> frozenset[str]:
    """The raw columns that an expression names, itself or by derived columns."""
    names = names_in(sql) or names_in(sql, words=True)  # the column may be called `date`
    expressions = {name.lower(): sql for name, sql in derived.items()}
    raw = set()
    while names:
        name = names.pop()
        if name in expressions:
            names |= names_in(expressions.pop(name))
        else:
            raw.add(name)
    return frozenset(raw)
