"""A log schema is checked where it is declared, and decides which columns every dataset has."""

from dataclasses import replace

import pyarrow as pa
import pytest

from longreel.contracts import toml
from longreel.contracts.config import Config
from longreel.contracts.definitions import changes, conflicts, event_definitions, log_schema_changes, model_conflicts
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Field, Label, LogSchema, summary
from longreel.contracts.log_schema_toml import build_log_schema, duration_ms
from longreel.contracts.schemas import dataset_schemas
from longreel.contracts.sql_names import names_in
from tests.sample_tables import EVERY_KIND
from tests.short_video import SHORT_VIDEO

OTHER_CLICK = Label(name="click", when="NOT click")


def declared(text: str) -> LogSchema:
    return build_log_schema(toml.parse(text, "toml"), "UTC", "toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fields.shop]\nx = {kind = 'id'}", r"\[fields.shop\]: expected a place among item, request, event, user"),
        ("[fields.item]\nx = {}", r"\[fields.item\] x: expected a kind"),
        ("[fields.item]\nx = {kind = 'text'}", "kind expected one of id, category, number, multi, vector"),
        ("[fields.item]\nx = {kind = 'id', size = 3}", "size expected 2 .. 4096 of a multi or vector"),
        ("[fields.item]\nx = {kind = 'multi'}", "size expected 2 .. 4096 of a multi or vector"),
        ("[fields.item]\nx = {kind = 'id', rows = 2}", "expected at least 4 rows, got 2"),
        ("[fields.item]\nx = {kind = 'id', row = 9}", "unknown setting 'row'"),
        ("[fields.item]\nBrand = {kind = 'id'}", "'Brand' is no name; expected lower-case letters"),
        ("[fields.item]\nlabels = {kind = 'id'}", "labels is the name of a column of every log"),
        ("[fields.item]\nx = {kind = 'id'}\n[fields.event]\nx = {kind = 'id'}", "x is declared twice"),
        ("[fields.item]\nclick = {kind = 'id'}", r"\[fields\] and \[actions\] both declare click"),
        ("[fields.event]\nx = {kind = 'id', match = true}", r"only an id of \[fields.item\] can have match"),
        ("[fields.item]\nx = {kind = 'category', match = true}", r"only an id of \[fields.item\] can have match"),
        ("[fields.item]\nx = {kind = 'hour'}", r"hour belongs to \[fields.request\]"),
        ("[fields.request]\nx = {kind = 'hour', from = 't'}", "derived from the time; leave `from` out"),
        ("[fields.item]\nx = {kind = 'id', of = 'click'}", r"only a field of \[fields.event\] can have `of`"),
        ("[fields.event]\nx = {kind = 'id', of = 'buy'}", "of expected an action, got 'buy'"),
        ("[fields.user]\nitem_id = {rows = 9}", r"item_id belongs to \[fields.item\]"),
        ("[fields.item]\nitem_id = {kind = 'number'}", r"is an id from \[source\] item_id"),
        ("[labels]\nx = 'clicks > 2'", r"\[labels\] x: clicks is no field or action; expected some of .* click"),
        ("[labels]\nx = {when = 'click', value = '1'}", "expected either `when` or `value`"),
        ("[labels]\nx = {when = 'click', weight = 0}", "expected a positive weight, got 0"),
        ("[labels]\nx = {when = 'click', within = '2 weeks'}", "such as 48 h, got '2 weeks'"),
        ("[labels]\nx = ' '", "expected a SQL expression"),
        (
            "[history]\nevents = 'buy'",
            r"\[history\] events: buy is no field or action; .*; or 'impressions' alone, for all",
        ),
        ("[history]\nknown_after = 'tomorrow'", "expected 'next day', or a number and one of s, .*, got 'tomorrow'$"),
        ("[history]\nx = 1", r"\[history\]: unknown setting x; expected events and known_after"),
        ("actions = 3", r"\[actions\] is a table of names, got 3"),
        ("[actions]\n" + "\n".join(f"a{i} = 'x'" for i in range(61)), "expected at most 60, got 61"),
    ],
)
def test_a_declaration_that_does_not_fit_is_named(text: str, message: str) -> None:
    with pytest.raises(LongreelError, match=message) as refused:
        declared(text)
    assert str(refused.value).startswith("toml")


def test_what_came_of_an_impression_is_in_histories_and_never_of_a_target() -> None:
    schemas = dataset_schemas(EVERY_KIND)
    outcomes = {field.name for field in EVERY_KIND.of_place("event")} | {"actions", "labels", *EVERY_KIND.action_names}
    targets = {name.removeprefix("target_") for name in schemas.request_table.names if name.startswith("target_")}
    assert targets == {column.name for column in EVERY_KIND.item_columns}
    assert not targets & outcomes
    inputs = set(schemas.request_table.names)
    assert not any("label" in name or "purchase_ms" in name for name in inputs)
    assert set(schemas.samples.names) - inputs == {"target_labels", "target_label_spent"}
    assert {f"history_{field.name}" for field in EVERY_KIND.of_place("event")} < inputs


def test_columns_have_the_types_of_their_kinds() -> None:
    samples = dataset_schemas(EVERY_KIND).samples
    types = {
        "color": pa.int32(),
        "price": pa.float32(),
        "topics": pa.int64(),
        "title": pa.float32(),
        "brand": pa.int64(),
    }
    assert {name: samples.field(f"target_{name}").type.value_type for name in types} == types
    assert samples.field("user_age").type == pa.float32()
    assert samples.field("user_interests").type == pa.list_(pa.int64())
    assert not any("hour" in name or "weekday" in name for name in samples.names)  # computed from times
    assert dataset_schemas(SHORT_VIDEO).events.field("labels").type == pa.int32()


def test_any_declaration_changes_the_digest_and_json_gives_the_same_schema() -> None:
    assert LogSchema.from_dict(EVERY_KIND.to_dict()) == EVERY_KIND
    other = replace(EVERY_KIND, labels=(*EVERY_KIND.labels[:-1], replace(EVERY_KIND.labels[-1], weight=3.0)))
    assert other.digest() != EVERY_KIND.digest()
    assert summary(EVERY_KIND)["number labels"] == "spent"
    with pytest.raises(LongreelError, match="not a log schema"):
        LogSchema.from_dict({"fields": [{"name": "item_id"}]})


def test_bits_are_in_the_order_of_declarations() -> None:
    assert [SHORT_VIDEO.action_bit(name) for name in SHORT_VIDEO.action_names] == [1 << i for i in range(8)]
    assert EVERY_KIND.timed_actions == ("purchase",)
    assert (EVERY_KIND.label_bit("click"), EVERY_KIND.label_bit("bought")) == (1, 2)  # a number label has none
    with pytest.raises(LongreelError, match="'buy' is not a label; expected some of click, spent, bought"):
        EVERY_KIND.label("buy")


def test_durations() -> None:
    assert [duration_ms(text, "") for text in ("30 s", "10min", "48 h", "1.5 d")] == [
        30_000,
        600_000,
        172_800_000,
        129_600_000,
    ]


def test_names_in_sql_are_columns_and_neither_functions_text_nor_words_of_sql() -> None:
    sql = "coalesce(Price, 0) > 2 AND `like` AND name LIKE '%x y%' AND NOT a.b IS NULL OR CAST(t AS double) = 1"
    assert names_in(sql) == {"price", "like", "name", "a", "t"}


def retyped(log: LogSchema, name: str, kind: str) -> LogSchema:
    fields = tuple(replace(field, kind=kind, size=1) if field.name == name else field for field in log.fields)
    return replace(log, fields=fields)


def test_changed_definitions_are_told_in_words() -> None:
    config = Config(log_schema=SHORT_VIDEO)
    stored = event_definitions(config)
    assert changes(stored, config) == []
    cases = {
        "field tag was declared with kind id, is with kind category": retyped(SHORT_VIDEO, "tag", "category"),
        "field price was added, and is not optional": replace(
            SHORT_VIDEO, fields=(*SHORT_VIDEO.fields, Field(name="price", place="item", kind="number"))
        ),
        "history was": replace(SHORT_VIDEO, history="click"),
        "label skip was removed": replace(SHORT_VIDEO, labels=SHORT_VIDEO.labels[:-1]),
        "label click was": replace(
            SHORT_VIDEO, labels=(Label(name="click", when="NOT click"), *SHORT_VIDEO.labels[1:])
        ),
    }
    for text, log in cases.items():
        assert [conflict[: len(text)] for conflict in conflicts(stored, replace(config, log_schema=log))] == [text]
    optional = Field(name="price", place="item", kind="number", optional=True)
    grown = replace(SHORT_VIDEO, fields=(*SHORT_VIDEO.fields, optional))
    assert changes(stored, replace(config, log_schema=grown)) == []
    removed = replace(SHORT_VIDEO, fields=tuple(f for f in SHORT_VIDEO.fields if f.name != "tag"))
    (change,) = changes(stored, replace(config, log_schema=removed))
    assert (change.text, change.is_conflict) == ("field tag was removed, and its column is still stored", False)
    assert log_schema_changes(SHORT_VIDEO, grown) == ["field price was added"]


def test_a_model_may_read_days_with_more_fields_and_none_whose_values_mean_something_else() -> None:
    model = replace(SHORT_VIDEO, fields=tuple(f for f in SHORT_VIDEO.fields if f.name != "tag"))
    day = event_definitions(Config(log_schema=SHORT_VIDEO))
    assert model_conflicts(day, model, ("click",)) == []
    assert len(model_conflicts(day, retyped(SHORT_VIDEO, "tag", "category"), ("click",))) == 1
