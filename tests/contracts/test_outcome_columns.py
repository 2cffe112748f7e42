"""A field that is made from an outcome is refused where it is declared."""

import pytest

from longreel.contracts.config import parse_config
from longreel.contracts.errors import LongreelError

COMMON = """
[source]
kind = "generic"
time_ms = "shown_at"
derived = {watched = "play_ms / 1000", seconds = "watched"}
[actions]
click = "clicked_at IS NOT NULL"
long_view = "play_ms >= duration_ms"
purchase = {when = "bought", at = "bought_at"}
[fields.event]
rating = {kind = "number", from = "stars"}
"""


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            '[fields.item]\nhot = {kind = "number", from = "if(clicked_at > 0, 1, 0)"}',
            r"hot reads clicked_at, as \[act",
        ),
        ('[fields.request]\nx = {kind = "category", from = "bought"}', r"x reads bought, as \[actions\] purchase"),
        (
            '[fields.user]\nx = {kind = "number", from = "hour(bought_at)"}',
            r"x reads bought_at, as \[actions\] purchase",
        ),
        ('[fields.item]\nstars = {kind = "number"}', r"stars reads stars, as \[fields.event\] rating"),
        (
            '[fields.item]\nduration_ms = {kind = "number"}\nx = {kind = "number", from = "log1p(seconds)"}',
            r"\[fields.item\] x reads play_ms, as \[actions\] long_view",
        ),
    ],
)
def test_a_field_that_reads_the_columns_of_an_outcome_is_refused(fields: str, text: str) -> None:
    with pytest.raises(LongreelError, match=text):
        parse_config(COMMON + fields)


@pytest.mark.parametrize(
    "fields",
    [
        '[fields.item]\nduration_ms = {kind = "number"}',  # an outcome's expression may name an item's column
        '[fields.request]\nage_h = {kind = "number", from = "(shown_at - released_at) / 3600000"}',
    ],
)
def test_columns_that_items_and_keys_have_tell_nothing(fields: str) -> None:
    parse_config(COMMON + fields)
