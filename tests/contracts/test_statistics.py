"""Statistics as longreel.toml declares them, and the columns that follow."""

import pytest

from longreel.contracts.config import parse_config
from longreel.contracts.definitions import changes, model_conflicts, sample_definitions, stored_log_schema
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas

LOG = """
[fields.item]
brand = {kind = "id"}
[fields.request]
surface = {kind = "category"}
[actions]
click = "click"
[statistics]
"""


def test_statistics_become_columns_of_users_and_targets() -> None:
    log = parse_config(
        LOG + 'user_id = ["impressions", "rate(click)"]\n"user_id * surface" = ["rate(click)"]\nbrand = ["impressions"]'
    ).log_schema
    assert [field.name for field in log.user_fields] == [
        f"user_id_{measure}_{days}d" for measure in ("impressions", "click_rate") for days in (1, 7, 28)
    ]
    assert [field.name for field in log.target_fields[3:]] == [
        *(f"user_id_surface_click_rate_{days}d" for days in (1, 7, 28)),
        *(f"brand_impressions_{days}d" for days in (1, 7, 28)),
    ]
    schemas = dataset_schemas(log)
    assert "target_brand_impressions_7d" in schemas.samples.names
    assert "user_user_id_click_rate_1d" in schemas.request_table.names
    for dataset in ("events", "users", "history"):
        assert not [name for name in schemas[dataset].names if name.endswith("d") and "rate" in name]
    assert schemas.counters.names[-2:] == ["impressions", "action_click"]
    assert LogSchema.from_dict(log.to_dict()) == log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'price = ["impressions"]',
            r"price: a statistic is of user_id, or of ids .* here user_id, item_id, .*; got price",
        ),
        ('brand = ["rate(buy)"]', r"\[statistics\] brand: rate of buy, expected some of click"),
        ('brand = ["clicks"]', r"\[statistics\] brand: expected impressions or rate\(action\), got 'clicks'"),
        ('brand = "impressions"', r"\[statistics\] brand: expected a list such as"),
        ("brand = []", r"\[statistics\] brand: expected a list such as"),
        ('"surface * brand" = ["impressions"]\n"brand * surface" = ["impressions"]', "is declared twice"),
        ('"user_id, brand" = ["impressions"]', r"joined by ' \* ' if several; got user_id, brand"),
        ('brand = ["rate(click)", "rate(click)"]', "names a measure twice"),
        ('brand = ["impressions", "impressions"]', "names a measure twice"),
    ],
)
def test_a_statistic_that_does_not_fit_is_named(text: str, message: str) -> None:
    with pytest.raises(LongreelError, match=message):
        parse_config(LOG + text)


def test_a_day_built_without_a_statistic_conflicts_with_it_and_one_more_does_not() -> None:
    less, more = (
        parse_config(LOG + f"brand = [{measures}]") for measures in ('"impressions"', '"impressions", "rate(click)"')
    )
    added = ["statistic brand: rate(click) was added"]
    assert [change.text for change in changes(sample_definitions(less), more) if change.is_conflict] == added
    assert model_conflicts(sample_definitions(less), more.log_schema, ("click",)) == added
    removed = changes(sample_definitions(more), less)
    assert [change.text for change in removed] == [f"{added[0][:-9]}was removed, and its columns are still stored"]
    assert not removed[0].is_conflict
    assert model_conflicts(sample_definitions(more), less.log_schema, ("click",)) == []
    columns = dataset_schemas(more.log_schema).samples.names
    assert stored_log_schema(sample_definitions(more), columns).statistics == more.log_schema.statistics
