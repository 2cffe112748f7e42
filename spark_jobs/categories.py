"""Codes, names and counts of the values of categories, as a manifest's details keep them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from longreel.contracts.log_schema import Field

MAX_NAMES = 1_000  # of a field
TRACKED = 10_000  # values of a field that are counted at a time: counts are exact up to three quarters of it
TEXT = "_text_"  # prefix of the columns with the texts that codes were made from


def category_aggregates(fields: Iterable[Field], prefix: str = "") -> Iterator[Column]:
    """The most frequent values of each category, as an aggregate that a write can compute as it goes.

    Args:
        prefix: of the columns with the codes; their texts are in `_text_<field>`.
    """
    for field in fields:
        if field.kind == "category":
            value = f"concat(`{prefix}{field.name}`, ':', `{TEXT}{field.name}`)"
            yield F.expr(f"approx_top_k({value}, {MAX_NAMES}, {TRACKED})").alias(f"top_{field.name}")


def named_categories(fields: Iterable[Field], observed: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """`[code, name, count]` of each field's values, the most frequent first, from the values of `category_aggregates`.
    The name is the text that the code was made from, the smallest where several texts have one code."""
    ranked = {}
    for field in fields:
        if field.kind == "category":
            values: dict[int, tuple[str, int]] = {}
            for item, count in observed[f"top_{field.name}"] or ():
                if item is not None:
                    code, _, text = item.partition(":")
                    name, before = values.get(int(code), (text, 0))
                    values[int(code)] = min(name, text), before + count
            order = sorted(values.items(), key=lambda value: (-value[1][1], value[0]))
            ranked[field.name] = [[code, name, count] for code, (name, count) in order]
    return ranked
