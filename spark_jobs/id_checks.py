"""Checks of a day's ids: texts that say there is none, and a user with an absurd share of the events."""

from collections.abc import Iterator, Mapping
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from longreel.contracts.config import SourceConfig

NULL_TEXTS = (
    "null",
    "none",
    "nan",
    "nat",
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "(null)",
    "nil",
    "undefined",
    "\\n",
)  # any case
SPELLED_NULL = "_null_"  # prefix of the columns with such texts
MAX_SHARE = 0.1  # of a day's events that one user may have
MIN_EVENTS, MIN_USERS = 1_000, 100  # on a smaller day it may be chance


def spelled_nulls(evaluated: DataFrame, keys: Mapping[str, str]) -> Iterator[Column]:
    """Of each key, a column with its text where that is one of NULL_TEXTS, else null.

    Args:
        keys: names of keys, and the columns of their `cleaned` values.
    """
    for key, name in keys.items():
        text = F.col(name) if isinstance(evaluated.schema[name].dataType, T.StringType) else F.lit(None).cast("string")
        yield F.when(F.lower(text).isin(*NULL_TEXTS), text).alias(f"{SPELLED_NULL}{key}")


def id_aggregates(keys: Mapping[str, str]) -> Iterator[Column]:
    """The texts of `spelled_nulls` with their counts, and the user with the most events, about."""
    for key in keys:
        yield F.expr(f"approx_top_k({SPELLED_NULL}{key}, {len(NULL_TEXTS)}, 1000)").alias(f"spelled_null_{key}")
    yield F.expr("approx_top_k(user_id, 1, 10000)").alias("top_user")


def id_warnings(source: SourceConfig, observed: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[str]:
    """What is odd about a day's ids.

    Args:
        observed: the values of `id_aggregates`.
        counts: the day's `events` and `users`.
    """
    request = source.request_id or "request_id"
    for key, sql in (("user_id", source.user_id), ("item_id", source.item_id), ("request_id", request)):
        texts = {text: count for text, count in observed[f"spelled_null_{key}"] or () if text is not None}
        if texts:
            spelled = ", ".join(f"'{text}' in {count:,}" for text, count in texts.items())
            listed = ", ".join(f'r"{text}"' if "\\" in text else f'"{text}"' for text in texts)
            yield (
                f"{key} is {spelled} of {counts['events']:,} events, and each such text is one {key[:-3]} like any "
                f"other; if it means none, set [source] {key} = 'if({sql} IN ({listed}), NULL, {sql})'"
            )
    top = max((count for user, count in observed["top_user"] or () if user is not None), default=0)
    if counts["events"] >= MIN_EVENTS and counts["users"] >= MIN_USERS and top > MAX_SHARE * counts["events"]:
        yield (
            f"one of {counts['users']:,} users has about {top:,} of {counts['events']:,} events "
            f"({top / counts['events']:.0%}); if that id stands for unknown users, leave it out with [source] where"
        )
