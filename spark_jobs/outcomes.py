"""History bits and labels of events: the SQL of [history] and [labels] over typed values.

What an expression may know depends on when it is asked. A history event knows the timed actions that are known by its
own time; a label with `within` those that happened in that many milliseconds. Other timed actions are false for it,
without a time, and the event fields that became known with them have no value. `<action>_ms` is when one happened.
"""

from collections.abc import Callable, Iterable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Label, LogSchema, timed_column
from longreel.spark_jobs.expressions import Setting, evaluate
from longreel.spark_jobs.typed_values import FLOAT_MAX, NUMERIC

Happened = Callable[[str], Column]


def with_outcomes(frame: DataFrame, log: LogSchema, what: str) -> DataFrame:
    """The columns of a frame, and `history`, `labels` and `label_<name>` of number labels.

    Args:
        frame: has `user_id`, `time_ms`, item, request and event fields; `_is_<action>`; of timed ones `_at_<action>`
            and `_known_<action>`, when they happened and became known; and fields with `of` as `_of_<field>`.

    Raises:
        LongreelError: an expression cannot be evaluated, or gives another type than it must.
    """
    history = Setting("[history] events", log.history, "_history_0")
    by_window: dict[int, list[Label]] = {}
    for label in log.labels:
        by_window.setdefault(label.within_ms if log.timed_actions else 0, []).append(label)
    columns = list(frame.columns)
    if log.timed_actions:
        frame = _evaluated(frame, log, lambda _: F.lit(False), [history], what)
        for bit, action in enumerate(log.timed_actions, 1):
            by_then = lambda other, now=action: _is(other) & (_known_at(other) <= _known_at(now))  # noqa: E731
            frame = _evaluated(frame, log, by_then, [Setting(history.where, history.sql, f"_history_{bit}")], what)
    for within_ms, labels in by_window.items():
        settings = [Setting(f"[labels] {label.name}", label.sql, f"_label_{label.name}") for label in labels]
        settings += [] if log.timed_actions or within_ms else [history]
        frame = _evaluated(frame, log, _within(within_ms), settings, what)
    return _packed(frame, log, columns)


def _is(action: str) -> Column:
    return F.col(f"_is_{action}")


def _at(action: str) -> Column:
    return F.col(f"_at_{action}")


def _known_at(action: str) -> Column:
    return F.col(f"_known_{action}")


def _within(within_ms: int) -> Happened:
    if not within_ms:
        return _is
    return lambda action: _is(action) & (_at(action) - F.col("time_ms") <= within_ms)


def _evaluated(frame: DataFrame, log: LogSchema, happened: Happened, settings: list[Setting], what: str) -> DataFrame:
    """The columns of a frame and of settings, which know of timed actions what has `happened`."""
    timed = log.timed_actions
    named = [(happened(name) if name in timed else _is(name)).alias(name) for name in log.action_names]
    named += [F.when(happened(name), _at(name)).alias(timed_column(name)) for name in timed]
    for field in log.fields:
        if field.of:
            condition = happened(field.of) if field.of in timed else _is(field.of)
            named.append(F.when(condition, F.col(f"_of_{field.name}")).alias(field.name))
    kept = [F.col(name) for name in frame.columns]
    result = evaluate(frame.select(*kept, *named), settings, what, kept)
    for setting in settings:
        _check_type(setting, result.schema[setting.column].dataType, log)
    return result


def _check_type(setting: Setting, kind: T.DataType, log: LogSchema) -> None:
    is_number = setting.column.removeprefix("_label_") in log.number_labels
    expected = (*NUMERIC, T.NullType) if is_number else (T.BooleanType, T.NullType)
    if not isinstance(kind, expected):
        expectation = "a number" if is_number else "true or false"
        raise LongreelError(
            f"{setting.where} = {setting.sql!r}: expected {expectation}, got {kind.simpleString()}; correct it"
        )


def _packed(frame: DataFrame, log: LogSchema, columns: list[str]) -> DataFrame:
    """The columns, and the results of all expressions as they are stored."""
    history = [F.col("_history_0"), *(F.col(f"_history_{bit + 1}") & _is(a) for bit, a in enumerate(log.timed_actions))]
    numbers = []
    for name in log.number_labels:
        value = F.col(f"_label_{name}").cast("double")
        finite = F.when(F.abs(value) <= FLOAT_MAX, value)
        numbers.append(F.coalesce(finite, F.lit(float("nan"))).cast("float").alias(f"label_{name}"))
    labels = bitmask(F.col(f"_label_{name}") for name in log.binary_labels)
    return frame.select(*columns, bitmask(history).alias("history"), labels.alias("labels"), *numbers)


def bitmask(conditions: Iterable[Column]) -> Column:
    """The sum of 2^i over the conditions i that hold; null counts as false."""
    mask = F.lit(0).cast("bigint")
    for bit, condition in enumerate(conditions):
        mask = mask.bitwiseOR(F.when(condition, F.lit(1 << bit).cast("bigint")).otherwise(F.lit(0).cast("bigint")))
    return mask
