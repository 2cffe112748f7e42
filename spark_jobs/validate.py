"""Validation of raw rows: parses the text fields of a source and names the first reason why a row is no event."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from longreel.contracts.actions import ACTIONS
from longreel.contracts.schemas import EVENTS, UNKNOWN
from longreel.spark_jobs.row_counts import SUPPRESSED
from longreel.spark_jobs.tables import in_schema

ALL_ACTIONS = sum(ACTIONS.values())
NUMBERS = ("user_id", "item_id", "time_ms", "author_id", "tag", "surface", "play_ms", "duration_ms")
MISSING = {"user_id": "missing_user", "item_id": "missing_item", "time_ms": "missing_time"}
DEFAULTS = {"author_id": UNKNOWN, "tag": UNKNOWN, "surface": UNKNOWN, "play_ms": 0, "duration_ms": 0}


def blank(text: Column) -> Column:
    """Null, or nothing but spaces."""
    return text.isNull() | (F.trim(text) == "")


def as_long(text: Column) -> Column:
    """A whole number written as text, also as 39.0 or 1.65e12; null where it is not one or does not fit 64 bits."""
    decimal = F.trim(text).try_cast("decimal(38,6)")
    return F.coalesce(F.trim(text).try_cast("bigint"), F.when(decimal == F.floor(decimal), decimal).try_cast("bigint"))


def parsed(name: str, hashes_text: bool) -> Column:
    """A field's value, null where it is blank or unparsable. Text ids are hashed where the source allows it: to 64
    bits (xxhash64), tag and surface to 31."""
    text = F.col(name)
    value = as_long(text)
    if name in ("tag", "surface"):
        value = value.try_cast("int")
        hashed = F.pmod(F.xxhash64(F.trim(text)), F.lit(2**31)).cast("int")
    else:
        hashed = F.xxhash64(F.trim(text))
    if hashes_text and name in ("user_id", "item_id", "author_id", "tag", "surface"):
        value = F.coalesce(value, F.when(~blank(text), hashed))
    return value


def action_bit(name: str) -> Column:
    """1 or 0 from an action's column, also written true/false; null where it is neither."""
    text = F.lower(F.trim(F.col(name)))
    return F.when(blank(F.col(name)) | text.isin("0", "0.0", "false"), 0).when(text.isin("1", "1.0", "true"), 1)


def action_bits() -> Column:
    """The action bitmask from the action columns and the `actions` column together; null where one is not readable."""
    mask = F.when(blank(F.col("actions")), F.lit(0)).otherwise(as_long(F.col("actions")).try_cast("int"))
    total = F.when(mask.between(0, ALL_ACTIONS), mask)
    for name, bit in ACTIONS.items():
        total = total.bitwiseOR(action_bit(name) * bit)
    return total


def first_reason(bounds_ms: tuple[int, int]) -> Column:
    """The first reason why a row with parsed_* columns is not an event at a time in [first, last), or null."""
    oldest_ms, end_ms = bounds_ms
    reason = F.when(F.col("unreadable").isNotNull(), F.col("unreadable"))
    for name, missing in MISSING.items():
        reason = reason.when(blank(F.col(name)), missing)
    for name in NUMBERS:
        reason = reason.when(~blank(F.col(name)) & F.col(f"parsed_{name}").isNull(), f"unparsable_{name}")
    return (
        reason.when(F.col("parsed_time_ms") >= end_ms, "future_time")
        .when(F.col("parsed_time_ms") < oldest_ms, "stale_time")
        .when(F.col("parsed_play_ms") < 0, "negative_play")
        .when(F.col("parsed_duration_ms") < 0, "negative_duration")
        .when(F.col("parsed_actions").isNull(), "bad_actions")
    )


def validate_rows(rows: DataFrame, bounds_ms: tuple[int, int], hashes_text: bool) -> DataFrame:
    """Raw rows with RAW_COLUMNS as text -> the same rows with the columns of EVENTS and `reason`, null for an event,
    whose time must lie in [first, last) of `bounds_ms`.

    Keeps `row`, `source_file` and `copies` for the quarantine and the row counts.
    """
    values = [parsed(name, hashes_text).alias(f"parsed_{name}") for name in NUMBERS]
    # Plain columns, not a struct: the optimizer would repeat a struct's expressions wherever a field is used.
    rows = rows.select("*", *values, action_bits().alias("parsed_actions"))
    filled = {name: F.coalesce(F.col(f"parsed_{name}"), F.lit(value)) for name, value in DEFAULTS.items()}
    filled["request_id"] = F.when(~blank(F.col("request_id")), F.trim("request_id"))
    return rows.select(
        first_reason(bounds_ms).alias("reason"),
        "row",
        "source_file",
        "copies",
        *(filled.get(name, F.col(f"parsed_{name}")).alias(name) for name in EVENTS.names),
    )


def distinct_rows(rows: DataFrame) -> DataFrame:
    """One of each set of rows that are equal in every raw column, with how many `copies` there were."""
    kept = (F.min("source_file").alias("source_file"), F.min("unreadable").alias("unreadable"))
    return rows.groupBy("row").agg(F.count(F.lit(1)).alias("copies"), *kept)


def quarantined_rows(validated: DataFrame) -> DataFrame:
    """The rows with a reason, as the quarantine keeps them; none of suppressed users."""
    rejected = validated.where(F.col("reason") != SUPPRESSED)
    raw = F.to_json("row", {"ignoreNullFields": "false"}).alias("row")
    return in_schema(rejected.select("reason", "source_file", raw), "quarantine")
