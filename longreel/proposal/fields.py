"""Fields in a raw log: the place and kind of each column that is neither key nor action."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from longreel.contracts.log_schema import Kind, Place
from longreel.proposal import words
from longreel.proposal.actions import ProposedAction
from longreel.proposal.keys import Keys
from longreel.proposal.raw_column import RawColumn, snake_case

DECIDED, MOSTLY = 0.98, 0.85  # agreement of two rows of a key: constant for it, nearly constant
GUESS = "varies; right here only if it is known when the item is served, else [fields.event]"
MAX_CATEGORY = 300  # distinct values of a category
MIN_ROWS_FOR_AUC = 30  # with and without the action


@dataclass(frozen=True)
class ProposedField:
    """A field with the reason for it. A guess is written as a comment."""

    name: str
    column: RawColumn
    place: Place
    kind: Kind
    settings: Mapping[str, Any] = field(default_factory=dict)  # rows, size, from, of
    reason: str = ""
    is_guess: bool = False


def place_column(column: RawColumn, keys: Keys, actions: Sequence[ProposedAction]) -> ProposedField | str:
    """The field of a column, or why it is left out."""
    if (reason := left_out(column)) is not None:
        return reason
    kind, settings, doubt = kind_of(column)
    place, of, reason = next(_reasons(column, keys, actions), ("request", "", GUESS))
    if kind in ("multi", "vector") or "from" in settings or snake_case(column.name) != column.name.lower():
        settings = {"from": column.sql} | settings
    if settings.get("from", "").lower() == snake_case(column.name):
        del settings["from"]
    if of:
        settings = settings | {"of": of}
    reason = "; ".join(text for text in (reason, doubt) if text)
    return ProposedField(field_name(column), column, place, kind, settings, reason, GUESS in reason)


def field_name(column: RawColumn) -> str:
    """The name of a column's field."""
    name = snake_case(column.name)
    return name if name[0].isalpha() else f"f_{name}"


def left_out(column: RawColumn) -> str | None:
    """Why a column is no field, if it is none."""
    if not column.distinct:
        return "no value in the sample"
    if column.distinct == 1 and (column.null_share < 0.001 or column.truth is None):
        only = column.texts.iloc[0]
        return f"always {only!r}" if len(only) <= 24 else "always the same"
    if column.personal:
        return f"looks like {column.personal}"
    if column.times is not None or all(word in words.PART_OF_TIME for word in column.words):
        return "a time; [fields.request] has the kinds hour and weekday, and `from` can compute an age"
    return _unusable(column)


def _unusable(column: RawColumn) -> str | None:
    is_text = column.numbers is None and not column.is_list
    if column.separator or column.distinct <= 100:
        return None
    if (is_text or column.is_whole) and column.distinct > 0.98 * np.sum(column.codes >= 0):
        return "another value in every row"
    texts = column.texts.iloc[:1_000]
    if is_text and texts.str.len().mean() > 40 and texts.str.contains(" ").mean() > 0.5:
        return "free text; embed it elsewhere and declare the embedding as a vector"
    return None


def kind_of(column: RawColumn) -> tuple[Kind, dict[str, Any], str]:
    """The kind of a column's field, its settings, and a doubt about it."""
    if column.elements:
        return _list_kind(column)
    if column.numbers is not None and column.truth is None and (doubt := _number(column)) is not None:
        return "number", {}, doubt
    if column.distinct > MAX_CATEGORY or column.named(words.MAKER):
        return "id", {"rows": table_rows(column.distinct)}, ""
    return "category", {"rows": table_rows(column.distinct, 1, 128)} if column.distinct > 56 else {}, ""


def _number(column: RawColumn) -> str | None:
    """A doubt, or nothing, about a column of numbers that measure; None where they rather name things."""
    assert column.numbers is not None
    names_things = column.named(words.ID) or column.named(words.THING)
    if column.named(words.VERSION):
        return None
    if not column.is_whole or (column.named(words.NUMBER) and not column.named(words.ID)):
        return ""
    least, most = column.numbers.min(), column.numbers.max()
    numbered = least in (0, 1) and most - least == column.distinct - 1  # a number for each of some names
    if names_things or numbered or column.distinct <= 32 or most - least > 20 * column.distinct:
        return None
    return (
        'kind = "id", if it names things' if column.distinct > MAX_CATEGORY else 'kind = "category", if it names things'
    )


def table_rows(distinct: int, factor: int = 4, least: int = 1_024) -> int:
    """Rows of a table for as many ids, and for those that the sample lacks: a power of two."""
    return min(1 << 20, max(least, 1 << (factor * distinct - 1).bit_length()))


def _list_kind(column: RawColumn) -> tuple[Kind, dict[str, Any], str]:
    """A vector, if its lists are of numbers and of one length; else the ids of a bag."""
    lengths = [len(elements) for elements in column.elements]
    parts = [part for elements in column.elements for part in elements]
    sql = column.sql if column.is_list else f"split({column.sql}, {_split_pattern(column.separator)})"
    fractions = sum("." in part or "e-" in part for part in parts[:1_000]) > 0.5 * len(parts[:1_000])
    if fractions and len(set(lengths)) == 1 and 2 <= lengths[0] <= 4_096:
        is_json = column.texts.str.startswith("[").all()
        bare = f"from_json({column.sql}, 'array<double>')" if is_json else f"CAST({sql} AS array<double>)"
        bare = column.sql if column.is_list else bare
        return "vector", {"from": bare, "size": lengths[0]}, ""
    size = max(2, int(np.quantile(lengths, 0.98)))
    rows = table_rows(len(set(parts)))
    return (
        "multi",
        {"from": sql, "size": min(size, 64), "rows": rows},
        f"{np.mean(lengths):.1f} a row, at most {max(lengths)}",
    )


def _split_pattern(separator: str) -> str:
    """A Java pattern in a SQL text; `|` has a meaning in one."""
    return {"|": "'[|]'", ";": "' *; *'", ",": "' *, *'", " > ": "' > '", "/": "'/'"}[separator]


def _reasons(column: RawColumn, keys: Keys, actions: Sequence[ProposedAction]) -> Iterator[tuple[Place, str, str]]:
    """Places that a column may have, the best first: place, timed action that an outcome is of, reason."""
    of_keys = (keys.by_item, keys.by_user, keys.by_request)
    by_item, by_user, by_request = (pairs.agreement(column.codes) for pairs in of_keys)
    item, user, request = by_item or 0.0, by_user or 0.0, by_request or 0.0
    if max(item, user) >= DECIDED:
        yield ("item", "", "the same for all rows of an item") if item >= user else ("user", "", "the same for a user")
    if (outcome := _outcome(column, actions)) is not None:
        yield "event", *outcome
    if column.named(words.OUTCOME):
        yield "event", "", "an outcome, by its name"
    if column.named(words.SERVING):
        yield "request", "", "known when the item is served, by its name"
    if request >= DECIDED:
        yield "request", "", "the same for all items of a request"
    if item >= MOSTLY and (column.named(words.DESCRIBES_ITEM) or item > user):
        yield "item", "", f"nearly the same for all rows of an item (agreement {item:.2f})"
    if column.named(words.DESCRIBES_ITEM) and by_item is None:
        yield "item", "", "describes an item, by its name; few items recur in the sample"
    if column.named(words.DESCRIBES_USER) and (by_user is None or user >= MOSTLY):
        yield "user", "", "describes a user, by its name"


def _outcome(column: RawColumn, actions: Sequence[ProposedAction]) -> tuple[str, str] | None:
    """The timed action whose outcome a column is, or empty, and why; None where it is no outcome as far as rows say."""
    if not actions:
        return None
    filled = (column.codes >= 0) if column.numbers is None or column.truth is not None else column.holds()
    if 0 < filled.mean() < 0.98:
        for action in sorted(actions, key=lambda action: action.rate):  # the narrowest that has them all
            inside = np.mean(action.rows[filled])
            if inside >= 0.99 and action.rate < 0.9:
                return action.name if action.at else "", f"has a value only where {action.name} happened"
        some = np.any([action.rows for action in actions], axis=0)
        with_action, without = (float(filled[rows].mean()) if rows.any() else 0.0 for rows in (some, ~some))
        if without < 0.2 and with_action > 4 * without:
            return (
                "",
                f"has a value in {100 * with_action:.2g} % of rows with an action, in {100 * without:.2g} % of others",
            )
    for action in actions:
        if (auc := _auc(column, action.rows)) is not None and auc > 0.85:
            return "", f"tells {action.name} apart (AUC {auc:.2f}), so likely an outcome"
    return None


def _auc(column: RawColumn, rows: npt.NDArray[np.bool_]) -> float | None:
    """How well a column's number, or the rate of its category, ranks rows with an action before others."""
    some = column.codes >= 0
    positives = int(rows[some].sum())
    if column.is_list or min(positives, int(some.sum()) - positives) < MIN_ROWS_FOR_AUC:
        return None
    codes, holds = column.codes[some], rows[some]
    if column.numbers is None or column.distinct <= 64:
        if column.distinct > 64:
            return None
        value = (np.bincount(codes, holds, column.distinct) / np.maximum(column.counts, 1))[codes]
    else:
        value = column.numbers[codes]
    _, ranks, counts = np.unique(value, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # mean rank of equal values
    area = (middle[ranks][holds].sum() - positives * (positives + 1) / 2) / (positives * (len(holds) - positives))
    return float(max(area, 1 - area))
