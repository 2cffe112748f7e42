"""Leaks that a configuration shows: fields known at serving time that are made from the columns of an outcome."""

from collections.abc import Iterator, Mapping

from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.sql_names import names_in


def check_outcome_columns(log: LogSchema, derived: Mapping[str, str], keys: tuple[str, ...]) -> None:
    """Refuse item, request and user fields that read every raw column which an action or an event field is made from.

    A column that such a field shares with an outcome may be innocent: `play_ms >= duration_ms` reads the duration of
    the item too. Columns that plain fields of items, requests and users have, and those of the keys, tell nothing of an
    outcome.

    Args:
        derived: [source.derived], which expressions may read.
        keys: the expressions of user, item, time and request.

    Raises:
        LongreelError: there is such a field.
    """
    columns = _RawColumns(derived)
    fields = [field for field in log.of_place("item", "request", "user") if field.is_stored and field.name != "item_id"]
    reads = {field: columns.of(field.source or field.name) for field in fields}
    plain = {field: names for field, names in reads.items() if _is_column(field.source or field.name)}
    of_keys = set().union(*map(columns.of, keys))
    for outcome, sql in _outcomes(log):
        made_from = columns.of(sql) - of_keys
        for field, names in reads.items():
            others = set().union(*(own for other, own in plain.items() if other is not field))
            telling = made_from - others or made_from
            if telling and telling <= names:
                where = f"[fields.{field.place}] {field.name}"
                raise LongreelError(
                    f"{where} reads {', '.join(sorted(telling))}, as {outcome} does: it is not known when an item is "
                    "served; remove the field, or declare it in [fields.event]"
                )


def _outcomes(log: LogSchema) -> Iterator[tuple[str, str]]:
    """Where outcomes are declared, and their SQL."""
    for action in log.actions:
        yield f"[actions] {action.name}", action.when or action.name
        if action.at:
            yield f"[actions] {action.name}", action.at
    for field in log.of_place("event"):
        yield f"[fields.event] {field.name}", field.source or field.name


class _RawColumns:
    """The raw columns that expressions read, themselves or by derived columns."""

    def __init__(self, derived: Mapping[str, str]) -> None:
        self._of: dict[str, set[str]] = {}
        for name, sql in derived.items():  # each may read those before it
            self._of[name.lower()] = self.of(sql)

    def of(self, sql: str) -> set[str]:
        """The raw columns, in lower case."""
        names = {sql.strip().strip("`").lower()} if _is_column(sql) else names_in(sql)
        names |= names_in(sql, words=True) & self._of.keys()  # a derived column may be called `seconds`
        return set().union(*(self._of.get(name, {name}) for name in names))


def _is_column(sql: str) -> bool:
    return sql.strip().strip("`").isidentifier()
