"""Events and history -> one row per user and day: the history once, the requests that see a part of it each.

    history      the user's past (newest `max_history` behaviours of earlier log days) and the day's own behaviours,
                 by time
    history_end  how many of those are strictly older than the request, in milliseconds

A log day's rows may be stamped before its midnight, so the past can hold events that are not older than a request:
what a request sees is decided by time alone, never by the partition.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from contracts.config import SamplesConfig
from contracts.schemas import TARGET_FIELDS
from spark_jobs.history import EVENT, as_lists, behaviours, empty_events
from spark_jobs.requests import request_rows


def user_requests(events: DataFrame, settings: SamplesConfig, mask: int) -> DataFrame:
    """A log day's events -> `user_id, requests`: array of structs (time_ms, request_id, part, day_before, targets,
    target_end), by time."""
    rows = request_rows(events, settings, mask)
    in_time = Window.partitionBy("user_id").orderBy("time_ms", "request_id", "part")
    upto = in_time.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    counted = rows.withColumn("target_end", F.sum(F.size("targets")).over(upto).cast("int"))
    request = F.struct("time_ms", "request_id", "part", "day_before", "targets", "target_end")
    return counted.groupBy("user_id").agg(F.sort_array(F.collect_list(request)).alias("requests"))


def late_events(history: Column, first_ms: Column) -> Column:
    """The part of an ordered past that is not older than the day's first request."""
    return F.filter(history, lambda event: event["time_ms"] >= first_ms)


def build_samples(
    events: DataFrame, past: DataFrame, users: DataFrame, settings: SamplesConfig, mask: int, unknown: list[int]
) -> DataFrame:
    """The samples of a log day.

    Args:
        events: the day's events (schema EVENTS).
        past: `user_id, history` of at least the users in `events`, see `history.merge`.
        users: schema USERS.
        mask: which actions make an event behaviour.
        unknown: the features of a user who has no row in `users`.

    Returns:
        A frame in schema SAMPLES.
    """
    requests = user_requests(events, settings, mask)
    own = behaviours(events, mask).groupBy("user_id").agg(F.sort_array(F.collect_list(EVENT)).alias("own"))
    none = empty_events()
    rows = (
        requests.join(own, "user_id", "left")
        .join(past, "user_id", "left")
        .join(users, "user_id", "left")
        .select(
            "user_id",
            "requests",
            F.coalesce("user_features", F.array(*map(F.lit, unknown)).cast("array<bigint>")).alias("user_features"),
            F.coalesce("own", none).alias("own"),
            F.coalesce("history", none).alias("past"),
        )
        .withColumn("late", late_events(F.col("past"), F.col("requests")[0]["time_ms"])["time_ms"])
    )
    joined = F.concat("past", "own")
    # Without late events every element of `own` is newer than every element of `past`.
    whole = F.when(F.size("late") == 0, joined).otherwise(F.sort_array(joined))
    return rows.withColumn("whole", whole).select(
        "user_id",
        "user_features",
        *as_lists(F.col("whole")),
        F.col("requests.request_id").alias("request_id"),
        F.col("requests.time_ms").alias("request_time_ms"),
        F.transform("requests", _history_end).alias("request_history_end"),
        F.col("requests.target_end").alias("request_target_end"),
        *_target_lists(),
    )


def _history_end(request: Column) -> Column:
    """History elements strictly older than a request: all of the past but its late events, the late ones that are
    older still, and the day's own."""
    older = F.size(F.filter("late", lambda time_ms: time_ms < request["time_ms"]))
    return (F.size("past") - F.size("late") + older + request["day_before"]).cast("int")


def _target_lists() -> list[Column]:
    targets = F.flatten("requests.targets")
    fields = [targets.getField(name).alias(f"target_{name}") for name in TARGET_FIELDS]
    return [*fields, targets.getField("labels").alias("target_labels")]
