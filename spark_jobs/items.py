"""Items of a day: the table that describes them, joined to the day's raw rows, and how many there are."""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.expressions import Setting, evaluate, with_derived
from longreel.spark_jobs.sources.base import RESERVED, column
from longreel.spark_jobs.sources.raw_columns import RawColumns
from longreel.spark_jobs.tables import read_partitions, read_staged
from longreel.spark_jobs.typed_values import cleaned, id_of
from longreel.spark_jobs.validate import DESCRIBED, KEPT

ID = "_described_item"
MARKS = ("events", "is_old", "descriptions")
WITHOUT_DESCRIPTION = "items_without_description"  # a count of days that a table of items describes


@dataclass(frozen=True)
class ItemCounts:
    """Items of a day's events."""

    items: int
    without_description: int | None  # None without a table of items
    repeated: int  # items in more than one row of their table
    new_item_events: int | None  # events on items that no trailing day has; None without trailing days


def with_items(rows: DataFrame, table: DataFrame | None, config: Config, what: str) -> DataFrame:
    """`distinct_rows`, with the columns of their items as a struct `described`, null for an item that is not in the
    table. Columns that rows have themselves, and those that the configuration does not read, are left out.

    Args:
        table: raw columns, read by the same [source] item_id as rows.
        what: the table, as an error names it.

    Raises:
        LongreelError: the item of the table's rows cannot be evaluated.
    """
    if table is None:
        return rows
    own = {name.lower() for name in rows.select("row.*").columns}
    reads = RawColumns.of(config).reads
    names = [name for name in table.columns if name.lower() not in own and reads(name)]
    raw = rows.select(*(F.col(name).alias(f"{RESERVED}{name}") for name in KEPT), "row.*")
    try:
        keyed = _with_id(raw, config, "", [F.col(f"{RESERVED}{name}").alias(name) for name in KEPT])
    except LongreelError:  # evaluate_rows says what is wrong; a log day without rows may lack the columns
        return rows
    if not names:
        return rows
    values = _with_id(table, config, what, [column(name) for name in names]).where(F.col(ID).isNotNull())
    # The id comes from the aggregate, not from what is grouped by: Spark then shuffles both sides for the join alone,
    # and can split the rows of a popular item.
    described = values.groupBy(F.col(ID).alias("_id")).agg(F.min(ID).alias(ID), _smallest(values, names))
    return keyed.join(described.drop("_id"), ID, "left").select(*KEPT, DESCRIBED)


def described_ids(table: DataFrame, config: Config, what: str) -> DataFrame:
    """The `item_id` of a table of items."""
    return _with_id(table, config, what, []).select(F.col(ID).alias("item_id"))


def _with_id(frame: DataFrame, config: Config, what: str, kept: list[Column]) -> DataFrame:
    """The columns `kept`, and the item as ID."""
    key = Setting("[source] item_id", config.source.item_id, ID)
    if key.names & {name.lower() for name in config.source.derived}:
        frame = with_derived(frame, config.source, what, only_possible=True)
    evaluated = evaluate(frame, [key], what, kept)
    kind = evaluated.schema[ID].dataType
    return evaluated.withColumn(ID, id_of(cleaned(F.col(ID), kind), kind))


def _smallest(values: DataFrame, names: list[str]) -> Column:
    """The columns of an item as DESCRIBED: the smallest where it is described twice, so that the choice does not depend
    on the order of reading. Maps have no order, and are compared as JSON."""
    has_map = {name for name in names if "map<" in values.schema[name].dataType.simpleString()}
    columns = [column(name) for name in names]
    if not has_map:
        return F.min(F.struct(*columns)).alias(DESCRIBED)
    order = [F.to_json(c) if name in has_map else c for name, c in zip(names, columns, strict=True)]
    return F.min_by(F.struct(*columns), F.struct(*order)).alias(DESCRIBED)


def count_items(
    spark: SparkSession,
    lake: Lake,
    writer: PartitionWriter,
    past: list[Manifest],
    described: DataFrame | None = None,
) -> ItemCounts:
    """Counts of the staged events. Reads one column of the trailing days.

    Args:
        described: `described_ids`; None without a table of items.
    """

    def marked(items: DataFrame, events: int, is_old: int, descriptions: int) -> DataFrame:
        marks = (events, is_old, descriptions)
        return items.select("item_id", *(F.lit(mark).alias(name) for mark, name in zip(marks, MARKS, strict=True)))

    rows = marked(read_staged(spark, writer), 1, 0, 0).union(
        marked(read_partitions(spark, lake, "events", past), 0, 1, 0)
    )
    if described is not None:
        rows = rows.union(marked(described, 0, 0, 1))
    # One aggregate over all, since a join would shuffle each of them.
    items = rows.groupBy("item_id").agg(*((F.max if name == "is_old" else F.sum)(name).alias(name) for name in MARKS))
    totals = (
        items.where("events > 0")
        .agg(
            F.count(F.lit(1)).alias("items"),
            F.count_if(F.col("descriptions") == 0).alias("unknown"),
            F.count_if(F.col("descriptions") > 1).alias("repeated"),
            F.sum(F.when(F.col("is_old") == 0, F.col("events"))).alias("new"),
        )
        .collect()[0]
    )
    return ItemCounts(
        items=int(totals["items"]),
        without_description=None if described is None else int(totals["unknown"]),
        repeated=int(totals["repeated"]),
        new_item_events=int(totals["new"] or 0) if past else None,
    )
