"""Spark SQL of the configuration over a frame's columns, with errors that name the setting."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from longreel.contracts.config import SourceConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Field, Kind, LogSchema
from longreel.contracts.sql_names import names_in
from longreel.spark_jobs.sources.base import RESERVED, column

NULLS: dict[Kind, str] = {
    "id": "CAST(NULL AS BIGINT)",
    "category": "CAST(NULL AS STRING)",
    "number": "CAST(NULL AS DOUBLE)",
    "multi": "CAST(NULL AS ARRAY<BIGINT>)",
    "vector": "CAST(NULL AS ARRAY<DOUBLE>)",
}


@dataclass(frozen=True)
class Setting:
    """An expression of longreel.toml: its place there, its SQL, and the column that it gives."""

    where: str
    sql: str
    column: str
    null: str = ""  # SQL of its value where rows are none, or lack an optional column
    optional: bool = False

    @property
    def names(self) -> set[str]:
        """The columns that it reads, in lower case."""
        plain = self.sql.strip().strip("`")
        return {plain.lower()} if re.fullmatch(r"\w+", plain) else names_in(self.sql)


def field_setting(field: Field) -> Setting:
    """The setting that a field's values come from, as the column `_raw_<field>`."""
    where = f"[fields.{field.place}] {field.name}"
    return Setting(where, field.source or f"`{field.name}`", f"_raw_{field.name}", NULLS[field.kind], field.optional)


def key_settings(source: SourceConfig, raw_columns: Sequence[str]) -> Iterator[Setting]:
    """The settings of [source] that give a row's keys, as columns `_key_<name>`, and the item as `_raw_item_id`."""
    missing = "CAST(NULL AS STRING)"
    has_request = "request_id" in {name.lower() for name in raw_columns}
    request = source.request_id or ("request_id" if has_request else missing)
    yield Setting("[source] user_id", source.user_id, "_key_user_id", missing)
    yield Setting("[source] item_id", source.item_id, "_raw_item_id", missing)
    yield Setting("[source] time_ms", source.time_ms, "_key_time_ms", missing)
    yield Setting("[source] request_id", request, "_key_request_id", missing)


def action_settings(log: LogSchema) -> Iterator[Setting]:
    """The settings of actions, as columns `_when_<action>` and `_at_<action>`."""
    for action in log.actions:
        where = f"[actions] {action.name}"
        when, null = action.when or f"`{action.name}`", "CAST(NULL AS BOOLEAN)"
        yield Setting(where, when, f"_when_{action.name}", null, action.optional)
        if action.at:
            yield Setting(f"{where} at", action.at, f"_at_{action.name}", "CAST(NULL AS BIGINT)", action.optional)


def without_absent(settings: Sequence[Setting], columns: Sequence[str]) -> list[Setting]:
    """The settings, those that are optional and read a column that is not there replaced by null."""
    present = {name.lower() for name in columns}
    return [as_null(one) if one.optional and one.names - present else one for one in settings]


def as_null(setting: Setting) -> Setting:
    """A setting without a value in any row."""
    return Setting(setting.where, setting.null, setting.column, setting.null)


def with_derived(frame: DataFrame, source: SourceConfig, what: str, *, only_possible: bool = False) -> DataFrame:
    """The columns of [source.derived] beside the raw ones, each of which may read those before it.

    Args:
        only_possible: leave out those that read a column which is not there.

    Raises:
        LongreelError: as `evaluate`.
    """
    for name, sql in source.derived.items():
        setting = Setting(f"[source.derived] {name}", sql, name)
        if only_possible and setting.names - {other.lower() for other in frame.columns}:
            continue
        rest = [column(other) for other in frame.columns if other.lower() != name.lower()]
        frame = evaluate(frame, [setting], what, kept=rest)
    return frame


def evaluate(frame: DataFrame, settings: Sequence[Setting], what: str, kept: Sequence[Column]) -> DataFrame:
    """The columns `kept` of a frame, and those that settings give, as the SQL has them.

    Args:
        what: the rows, as an error names them.

    Raises:
        LongreelError: Spark cannot evaluate one of the expressions.
    """
    try:
        return frame.select(*kept, *map(_column, settings))
    except AnalysisException:
        for setting in settings:
            try:
                frame.select("*", _column(setting))
            except AnalysisException as error:
                raise LongreelError(_message(setting, error, frame.columns, what)) from error
        raise


def _column(setting: Setting) -> Column:
    # Spark refuses a generator within another function; alone, `explode` would make several rows of one.
    return F.coalesce(F.expr(setting.sql)).alias(setting.column)


def _message(setting: Setting, error: AnalysisException, columns: Sequence[str], what: str) -> str:
    names = [name for name in columns if not name.startswith(RESERVED)]
    text = " ".join((str(error).strip().splitlines() or [""])[0].split())
    unresolved = re.search(r"with name (.+?) cannot be resolved", text)
    if unresolved and (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
        missing = unresolved[1].replace("`", "")
        nearest = " or ".join(get_close_matches(missing, names, 2, 0.75))
        reason = f"there is no column {missing}" + (f" (is it {nearest}?)" if nearest else "")
    else:
        reason = re.sub(r"^\[[A-Z_.]+\] |\.? ?SQLSTATE: \w+.*$", "", text)
    is_default = setting.sql.strip("`") == re.sub(r"^_[a-z]+_", "", setting.column)
    remedy = "say where it comes from" if is_default else "correct it"
    if setting.where.startswith(("[fields.", "[actions]")):
        remedy += ", or set optional = true if days may lack it" * (not setting.optional)
    return (
        f"{setting.where} = {setting.sql.strip('`')!r}: {reason} in {what}; "
        f"the columns are {', '.join(names)}; {remedy}"
    )
