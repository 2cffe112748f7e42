"""Validation of raw rows: evaluates the configured SQL and names the first reason why a row is no event."""

from collections.abc import Iterator, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema, timed_column
from longreel.contracts.schemas import QUARANTINE
from longreel.spark_jobs.categories import TEXT
from longreel.spark_jobs.expressions import (
    Setting,
    action_settings,
    as_null,
    evaluate,
    field_setting,
    key_settings,
    with_derived,
    without_absent,
)
from longreel.spark_jobs.id_checks import SPELLED_NULL, spelled_nulls
from longreel.spark_jobs.outcomes import bitmask, with_outcomes
from longreel.spark_jobs.row_counts import FILTERED, SUPPRESSED
from longreel.spark_jobs.sources.base import RESERVED
from longreel.spark_jobs.tables import in_schema
from longreel.spark_jobs.typed_values import (
    LAST_MS,
    Parsed,
    cleaned,
    flag,
    id_of,
    known_ms,
    milliseconds,
    parse,
    require_scalar,
    stored,
)

KEPT = ("row", "source_file", "copies", "unreadable")  # columns of `distinct_rows`
DESCRIBED = "described"  # a struct of the columns of a row's item, where there is a table of items
USER, DROPPED = "_user_", "_dropped_"  # prefixes among validated rows: of user fields, and of ids that a multi lost
# Ids of a row, and the columns that they are made from.
KEYS = {"user_id": "_key_user_id", "item_id": "_raw_item_id", "request_id": "_key_request_id"}
EXAMPLE_LENGTH = 60  # characters of a value that cannot be read


def distinct_rows(rows: DataFrame) -> DataFrame:
    """One of each set of rows that are equal in every raw column, with how many `copies` there were."""
    kept = (F.min("source_file").alias("source_file"), F.min("unreadable").alias("unreadable"))
    return rows.groupBy("row").agg(F.count(F.lit(1)).alias("copies"), *kept)


def quarantined_rows(validated: DataFrame) -> DataFrame:
    """The rows with a reason, as the quarantine keeps them; not those of suppressed users or left out by `where`."""
    rejected = validated.where(~F.col("reason").isin(SUPPRESSED, FILTERED))
    raw = F.to_json("row", {"ignoreNullFields": "false"}).alias("row")
    return in_schema(rejected.select("reason", "user_id", "source_file", raw), QUARANTINE)


def evaluate_rows(rows: DataFrame, config: Config, what: str, *, with_users: bool) -> DataFrame:
    """`distinct_rows` or `with_items` -> the same rows with a column for each expression of the configuration, raw
    columns gone. An optional field whose expression reads a column which the rows lack has no value.

    Args:
        what: the rows, as an error names them.
        with_users: whether user fields come from these rows.

    Raises:
        LongreelError: an expression cannot be evaluated.
    """
    log, source = config.log_schema, config.source
    places = log.of_place("item", "request", "event", *(("user",) if with_users else ()))
    settings = [
        *key_settings(source, rows.select("row.*").columns),
        Setting("[source] where", source.where or "true", "_keep", "CAST(NULL AS BOOLEAN)"),
        *(field_setting(field) for field in places if field.is_stored and field.name != "item_id"),
        *action_settings(log),
    ]
    structs = [f"{name}.*" for name in ("row", DESCRIBED) if name in rows.columns]
    raw = rows.select(*(F.col(name).alias(f"{RESERVED}{name}") for name in KEPT), *structs)
    kept = [F.col(f"{RESERVED}{name}").alias(name) for name in KEPT]
    try:
        derived = with_derived(raw, source, what)
        return evaluate(derived, without_absent(settings, derived.columns), what, kept)
    except LongreelError:
        if rows.isEmpty():  # a log day without rows may lack columns too
            return evaluate(raw, [as_null(setting) for setting in settings], what, kept)
        raise


def validate_rows(evaluated: DataFrame, config: Config, bounds_ms: tuple[int, int], what: str) -> DataFrame:
    """`evaluate_rows` -> the same rows with the columns of events and `reason`, null for an event, whose time must lie
    in [first, last) of `bounds_ms`; and `unreadable_value`, the text of the value that could not be read.

    Keeps `row`, `source_file` and `copies` for the quarantine and the row counts. Categories have their text as
    `_text_<field>`, user fields are `_user_<field>`, and a multi has the number of ids beyond `size` as
    `_dropped_<field>`. A user, item or request whose text says that there is none has it as `_null_<key>`.

    Raises:
        LongreelError: an expression gives values of a type that its setting cannot have.
    """
    log = config.log_schema
    typed = with_outcomes(_typed_rows(evaluated, log, bounds_ms, what), log, f"the labels of {what}")
    columns = []
    for field in log.fields:
        name = _typed_name(log, field.name)
        if name not in typed.columns:
            continue
        value = F.when(F.col(f"_is_{field.of}"), F.col(name)) if field.of else F.col(name)
        is_user = field.place == "user"
        columns.append(value.alias(f"{USER}{field.name}") if is_user else stored(field, value).alias(field.name))
        if field.kind == "category" and not is_user:
            columns.append(value.alias(f"{TEXT}{field.name}"))
        if field.kind == "multi" and not is_user:
            columns.append(F.greatest(F.size(value) - field.size, F.lit(0)).alias(f"{DROPPED}{field.name}"))
    columns.append(bitmask(F.col(f"_is_{name}") for name in log.action_names).alias("actions"))
    columns += [F.col(f"_known_{name}").alias(timed_column(name)) for name in log.timed_actions]
    common = ["user_id", "time_ms", "request_id", "history", "labels", *(f"label_{name}" for name in log.number_labels)]
    kept = ("reason", "unreadable_value", "row", "source_file", "copies", *(f"{SPELLED_NULL}{key}" for key in KEYS))
    return typed.select(*kept, *common, *columns)


def _typed_name(log: LogSchema, field: str) -> str:
    """The column of a field's typed values, as `with_outcomes` expects them."""
    declared = next(one for one in log.fields if one.name == field)
    return f"_of_{field}" if declared.of else f"{USER}{field}" if declared.place == "user" else field


def _typed_rows(evaluated: DataFrame, log: LogSchema, bounds_ms: tuple[int, int], what: str) -> DataFrame:
    """Evaluated rows as typed values, with the reason why a row is no event."""
    kinds = {field.name: field.dataType for field in evaluated.schema.fields}
    # A separate step: an expression that names a cleaned text several times would clean it as often.
    raw_columns = [name for name in evaluated.columns if name not in (*KEPT, "_keep")]
    evaluated = evaluated.select(
        *KEPT, "_keep", *(cleaned(F.col(name), kinds[name]).alias(name) for name in raw_columns)
    )
    zone = log.time_zone
    for name in ("user_id", "request_id"):
        require_scalar(kinds[f"_key_{name}"], f"[source] {name}, {what}")
    values: dict[str, Parsed] = {
        "user_id": Parsed(id_of(F.col("_key_user_id"), kinds["_key_user_id"])),
        "time_ms": milliseconds(F.col("_key_time_ms"), kinds["_key_time_ms"], zone, f"[source] time_ms, {what}"),
        "request_id": Parsed(F.col("_key_request_id").cast("string")),
    }
    fields = [field for field in log.fields if f"_raw_{field.name}" in kinds]
    for field in fields:
        raw = f"_raw_{field.name}"
        where = f"[fields.{field.place}] {field.name}, {what}"
        values[_typed_name(log, field.name)] = parse(field, F.col(raw), kinds[raw], where)
    for name in log.action_names:
        when = f"_when_{name}"
        values[f"_is_{name}"] = flag(F.col(when), kinds[when], f"[actions] {name}, {what}")
    for name in log.timed_actions:
        if (at := f"_at_{name}") in kinds:
            values[at] = milliseconds(F.col(at), kinds[at], zone, f"[actions] {name}, at, {what}")
        else:
            values[at] = Parsed(values["time_ms"].value)
    # Plain columns, not a struct: the optimizer would repeat a struct's expressions wherever a field is used.
    # In the order of the reasons, so that the first of a row is what its reason is about.
    unreadable = {name: parsed.unreadable for name, parsed in values.items() if parsed.unreadable is not None}
    rows = evaluated.select(
        *KEPT,
        "_keep",
        *(parsed.value.alias(name) for name, parsed in values.items()),
        *(F.left(text, F.lit(EXAMPLE_LENGTH)).alias(f"_bad_{name}") for name, text in unreadable.items()),
        *spelled_nulls(evaluated, KEYS),
    )
    kept = [name for name in values if not name.startswith("_at_")]
    reason = _first_reason(log, bounds_ms, list(unreadable)).alias("reason")
    value = F.coalesce(F.lit(None).cast("string"), *(F.col(f"_bad_{name}") for name in unreadable))
    rest = ("row", "source_file", "copies", *kept, *(f"{SPELLED_NULL}{key}" for key in KEYS))
    return rows.select(reason, value.alias("unreadable_value"), *rest, *_times(log))


def _times(log: LogSchema) -> Iterator[Column]:
    """When each timed action happened and when it became known, as `_at_<action>` and `_known_<action>`; null where it
    did not happen, or no calendar has the time."""
    for action in log.actions:
        if action.is_timed:
            at = F.col(f"_at_{action.name}")
            happened = F.when(F.col(f"_is_{action.name}") & at.between(0, LAST_MS), at)
            yield happened.alias(f"_at_{action.name}")
            yield known_ms(happened, action.known_after, log.time_zone).alias(f"_known_{action.name}")


def _first_reason(log: LogSchema, bounds_ms: tuple[int, int], unreadable: Sequence[str]) -> Column:
    """The first reason why a row of typed values is no event, or null.

    Args:
        unreadable: the values that have a column `_bad_<name>`, the text of one that cannot be read.
    """
    oldest_ms, end_ms = bounds_ms
    is_bad = {name: F.col(f"_bad_{name}").isNotNull() for name in unreadable}
    reason = (
        F.when(F.col("unreadable").isNotNull(), F.col("unreadable"))
        .when(~F.coalesce("_keep", F.lit(False)), FILTERED)
        .when(F.col("user_id").isNull(), "missing_user")
        .when(F.col("item_id").isNull(), "missing_item")
        .when(is_bad.get("time_ms", F.lit(False)), "unparsable_time_ms")
        .when(F.col("time_ms").isNull(), "missing_time")
    )
    for field in log.fields:
        if (name := _typed_name(log, field.name)) in is_bad:
            reason = reason.when(is_bad[name], f"unparsable_{field.name}")
    reason = reason.when(F.col("time_ms") >= end_ms, "future_time").when(F.col("time_ms") < oldest_ms, "stale_time")
    for name in log.action_names:
        if f"_is_{name}" in is_bad:
            reason = reason.when(is_bad[f"_is_{name}"], f"bad_{name}")
    for name in log.timed_actions:
        is_possible = F.col(f"_at_{name}").between(F.col("time_ms"), LAST_MS)
        reason = reason.when(F.col(f"_is_{name}") & ~F.coalesce(is_possible, F.lit(False)), f"bad_{timed_column(name)}")
    return reason
