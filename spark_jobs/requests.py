"""Which impressions were asked for together? Request keys by rule, and each request's time, split and targets.

    request_id     the id that the source gives; every row must have one
    delivery_time  rows of one user with the same time_ms
    gap            a new request after a pause of more than gap_ms
    auto           request_id where the row has one, delivery_time for the others

A request's time is that of its first impression. A request without an id is named `<user_id>@<request time>`. One with
more than `max_targets` impressions becomes several with the same id, time and history.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from contracts.actions import ENGAGEMENT, PLAY_LABELS, SKIP_MS, action_mask
from contracts.config import SamplesConfig
from contracts.schemas import TARGET_FIELDS

# Orders impressions of a user for good: two that tie here are the same impression.
IMPRESSION_ORDER = ("time_ms", "item_id", "author_id", "tag", "surface", "actions", "play_ms", "duration_ms")


def generated_id(time_ms: Column) -> Column:
    """The id of a request that the source gives none."""
    return F.concat_ws("@", F.col("user_id").cast("string"), time_ms.cast("string"))


def with_request_id(events: DataFrame, settings: SamplesConfig) -> DataFrame:
    """Events with `request_id` filled by the rule."""
    if settings.request_rule == "request_id":
        return events
    if settings.request_rule == "auto":
        return events.withColumn("request_id", F.coalesce("request_id", generated_id(F.col("time_ms"))))
    if settings.request_rule == "delivery_time":
        return events.withColumn("request_id", generated_id(F.col("time_ms")))
    in_time = Window.partitionBy("user_id").orderBy(*IMPRESSION_ORDER)
    pause = F.col("time_ms") - F.lag("time_ms").over(in_time)
    first_ms = F.when(F.coalesce(pause > settings.gap_ms, F.lit(True)), F.col("time_ms"))
    started = F.last(first_ms, ignorenulls=True).over(in_time)
    return events.withColumn("started_ms", started).withColumn("request_id", generated_id(F.col("started_ms")))


def resolved_rule(settings: SamplesConfig, rows: int, rows_with_id: int) -> str:
    """The rule as a reader of the manifest should know it: what `auto` came to on this day."""
    if settings.request_rule != "auto":
        return f"gap {settings.gap_ms} ms" if settings.request_rule == "gap" else settings.request_rule
    if rows_with_id == rows:
        return "request_id"
    return "request_id, delivery_time where it is missing" if rows_with_id else "delivery_time"


def labels() -> Column:
    """An impression's labels, contracts.actions.LABELS: its actions, and finish and skip from its play time."""
    finished = (F.col("duration_ms") > 0) & (F.col("play_ms") >= F.col("duration_ms"))
    engaged = F.col("actions").bitwiseAND(F.lit(action_mask(ENGAGEMENT))) != 0
    skipped = (F.col("play_ms") <= SKIP_MS) & ~engaged & ~finished
    finish = F.when(finished, PLAY_LABELS["finish"]).otherwise(0)
    skip = F.when(skipped, PLAY_LABELS["skip"]).otherwise(0)
    return F.col("actions").bitwiseOR(finish).bitwiseOR(skip)


def request_rows(events: DataFrame, settings: SamplesConfig, mask: int) -> DataFrame:
    """Events of a log day -> one row per request, or per part of a split one.

    Columns: user_id, time_ms, request_id, part, day_before (the user's behaviours of this log day strictly before
    time_ms), targets (ordered array of structs of TARGET_FIELDS and labels).
    """
    request = Window.partitionBy("user_id", "request_id")
    # Frames in values of time_ms: "up to 1 before" is strictly older, whatever ties there are.
    older = Window.partitionBy("user_id").orderBy("time_ms").rangeBetween(Window.unboundedPreceding, -1)
    is_behaviour = F.col("actions").bitwiseAND(F.lit(mask)) != 0
    target = F.struct(*IMPRESSION_ORDER, labels().alias("labels"))
    rows = (
        with_request_id(events, settings)
        .select(
            "user_id",
            "request_id",
            "time_ms",
            target.alias("target"),
            F.count_if(is_behaviour).over(older).alias("before"),
        )
        .select(
            "user_id",
            "request_id",
            "target",
            F.min("time_ms").over(request).alias("request_ms"),
            F.min("before").over(request).alias("day_before"),  # grows with time: the least is the first impression's
            F.row_number().over(request.orderBy("target")).alias("place"),
        )
    )
    part = F.floor((F.col("place") - 1) / settings.max_targets).cast("int")
    grouped = rows.groupBy("user_id", "request_id", part.alias("part")).agg(
        F.min("request_ms").alias("time_ms"),
        F.min("day_before").alias("day_before"),
        F.sort_array(F.collect_list("target")).alias("targets"),
    )
    kept = F.transform("targets", lambda t: F.struct(*(t[name].alias(name) for name in (*TARGET_FIELDS, "labels"))))
    return grouped.withColumn("targets", kept)
