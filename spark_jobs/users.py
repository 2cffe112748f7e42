"""The users partition of a day: the user fields of the users that have events, from a table of users or from the day's
own rows."""

from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.config import Config
from longreel.contracts.log_schema import Field, LogSchema
from longreel.lake.table import PartitionWriter
from longreel.spark_jobs.categories import TEXT, category_aggregates, named_categories
from longreel.spark_jobs.expressions import Setting, evaluate, field_setting, with_derived, without_absent
from longreel.spark_jobs.field_checks import field_aggregates
from longreel.spark_jobs.tables import in_schema, read_staged, write_staged
from longreel.spark_jobs.typed_values import cleaned, id_of, parse, stored
from longreel.spark_jobs.validate import USER

ROWS = "_rows"  # of a user in their table


@dataclass(frozen=True, kw_only=True)
class StagedUsers:
    """The staged users of a day."""

    digest: str
    rows: int
    repeated: int  # users in more than one row of their table
    observed: dict[str, Any]  # the `field_aggregates` of user fields
    categories: dict[str, list[list[Any]]]


def users_of_table(table: DataFrame, config: Config, what: str) -> DataFrame:
    """`user_id, _user_<field>...` of a table of users, one row a user; and `_rows`, how many there were.

    Raises:
        LongreelError: an expression cannot be evaluated, or gives values of a type that its setting cannot have.
    """
    fields = config.log_schema.of_place("user")
    key = Setting("[source] user_id", config.source.user_id, "_key_user_id")
    table = with_derived(table, config.source, what, only_possible=True)
    rows = evaluate(table, without_absent([key, *map(field_setting, fields)], table.columns), what, [])
    kinds = {field.name: field.dataType for field in rows.schema.fields}
    rows = rows.select(*(cleaned(F.col(name), kind).alias(name) for name, kind in kinds.items()))
    values = [id_of(F.col("_key_user_id"), kinds["_key_user_id"]).alias("user_id")]
    for field in fields:
        raw = f"_raw_{field.name}"
        parsed = parse(field, F.col(raw), kinds[raw], f"[fields.user] {field.name}, {what}")
        values.append(parsed.value.alias(f"{USER}{field.name}"))
    # A user described twice: the smallest, so that the choice does not depend on the order of reading.
    return _one_a_user(rows.select(*values), fields, F.min, [], F.count(F.lit(1)).alias(ROWS))


def users_of_rows(events: DataFrame, log: LogSchema) -> DataFrame:
    """`user_id, _user_<field>...` of a day's validated rows: what the newest row of each user says."""
    return _one_a_user(events, log.of_place("user"), F.max, ["time_ms", "item_id"])


def _one_a_user(rows: DataFrame, fields: tuple[Field, ...], choose: Any, order: list[str], *more: Column) -> DataFrame:
    columns = [f"{USER}{field.name}" for field in fields]
    chosen = choose(F.struct(*order, *columns)).alias("chosen")
    one = rows.where("user_id IS NOT NULL").groupBy("user_id").agg(chosen, *more)
    return one.select(
        *(n for n in one.columns if n != "chosen"), *(F.col(f"chosen.{name}").alias(name) for name in columns)
    )


def write_users(
    spark: SparkSession, writers: dict[str, PartitionWriter], described: DataFrame | None, buckets: int
) -> StagedUsers:
    """Stage the users of the staged events.

    Args:
        described: `users_of_table` or `users_of_rows`, None without user fields; other users have unknown values.
    """
    writer = writers["users"]
    fields = writer.lake.log_schema.of_place("user")
    active = read_staged(spark, writers["events"]).select("user_id").distinct()
    users = active if described is None else active.join(described, "user_id", "left")
    rows = F.col(ROWS) if ROWS in users.columns else F.lit(None).cast("bigint")
    columns: list[Column] = []
    texts = []
    for field in fields:
        value = F.col(f"{USER}{field.name}")
        columns.append(stored(field, value).alias(f"user_{field.name}"))
        if field.kind == "category":
            texts.append(value.alias(f"{TEXT}{field.name}"))
    digest, observed = write_staged(
        in_schema(
            users.select("user_id", *columns, *texts, rows.alias(ROWS)),
            writer.lake.schemas.users,
            more=[*(f"{TEXT}{f.name}" for f in fields if f.kind == "category"), ROWS],
        ),
        writer,
        buckets=buckets,
        sort=["user_id"],
        more=(
            *field_aggregates(fields, "user_"),
            *category_aggregates(fields, "user_"),
            F.count_if(F.col(ROWS) > 1).alias("repeated"),
        ),
    )
    categories = named_categories(fields, observed)
    return StagedUsers(
        digest=digest,
        rows=int(observed["digest_rows"]),
        repeated=int(observed["repeated"]),
        observed=observed,
        categories=categories,
    )
