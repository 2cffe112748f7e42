"""A configuration is checked where it is declared, and its errors name the setting."""

import dataclasses
from pathlib import Path

import pytest

from longreel.contracts.config import SOURCES, Config, load_config, parse_config
from longreel.contracts.dates import day_range, parse_day
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Action, Field, Label, LogSchema
from longreel.contracts.policy import Budget, GatePolicy
from longreel.contracts.presets import preset
from longreel.reference import meanings

SECTIONS = [field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)]
SECTIONS.remove(LogSchema)  # its parts are tables
TABLES = {Field: {"name", "place"}, Action: {"name"}, Label: {"name"}}  # with what a table's heading and key say


@pytest.mark.parametrize("name", SOURCES)
def test_presets_are_valid(name: str) -> None:
    config = parse_config(preset(name))
    assert config.source.kind == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nepoch = 2", "unknown setting 'epoch'"),
        ("[training]\nepochs = 'two'", "epochs expected a whole number, got 'two'"),
        ("[training]\nwindow_mean = 20000", "window_min < window_mean < window_max"),
        ("[model]\nwidth = 65", "not a multiple of heads"),
        (
            "[source]\nkind = 'kafka'",
            r"\[source\]: kind expected one of simulated, shop, kuairand, generic, got 'kafka'",
        ),
        ("[training]\ndevice = 'tpu'", r"\[training\]: device expected one of auto, cpu, cuda, got 'tpu'"),
        ("[training]\ntable_optimizer = 'sgd'", "table_optimizer expected one of rowwise_adagrad, adamw, got 'sgd'"),
        ("[training]\ncompile = true", "compile expected one of auto, on, off, got True"),
        ("[samples]\nrequest_rule = 'day'", "request_rule expected one of auto, request_id, delivery_time, gap"),
        ("[source]\ntime_zone = 'Europe/Ravensburg'", "expected an IANA name such as Europe/Berlin or UTC"),
        ("[source]\nitem_id = ' '", r"\[source\] item_id: expected a column or SQL expression"),
        ("[source]\nlog = 'raw'\ntable = 'a.b'\nday = 'dt'", "expected either log or table, got both"),
        ("[source]\ntable = 'a.b'", r"\[source\] day: expected SQL for the log day of a row of the table"),
        ("[labels]\nclick = {when = 'click', within = '2 h'}", r"set \[source\] outcome_hours = 2"),
        ("[model]\nwidth = 4\nheads = 1\n[fields.item]\nbrand = {kind = 'id', match = true}", "each of the 2 ids"),
        ("tasks = ['buy']", "'buy' is not a label"),
        ("[source]\nmax_lateness_hours = -1", "expected 0 or a number of hours"),
        ("[source]\nmax_lateness_hours = inf", "max_lateness_hours expected a finite number, got inf"),
        ("[evaluation]\nwindows = [512, 128]", "expected to increase"),
        ("[nosuch]\nx = 1", "unknown setting 'nosuch'"),
        ("name = {x = 1}", "name expected a text"),
        ("source = 3", r"'source' is a section: expected \[source\], got 3"),
        ("name = 'my/log'", "letters, digits"),
        ("name = ''", "letters, digits"),
        ("tasks = 'click'", "tasks expected a list"),
        ("tasks = [1]", "tasks, in its list, expected a text"),
        ("[evaluation]\nwindows = ['a', 3]", r"windows, in its list, expected a whole number, got 'a'"),
        ("[evaluation]\nwindows = [1.5, 3]", "expected a whole number, got 1.5"),
        ("[drift]\nvolume = ['a', 'b']", "volume, in its list, expected a number"),
        ("tasks = [", "not valid TOML"),
        ("tasks = ['click', 'click']", "tasks: expected each once"),
        ("[training]\nclip_norm = 0", "clip_norm: expected a positive number"),
        ("[training]\nlearning_rate = -0.001", "learning_rate: expected a positive number"),
        ("[training]\nwarmup_share = 5", "0 <= warmup_share < 1"),
        ("[training]\nseed = -1", r"\[training\] seed: expected 0 \.\. 4294967295, got -1"),
        ("[training]\nseed = 4294967296", "seed: expected 0"),
        ("[evaluation]\nseed = -1", r"\[evaluation\] seed: expected 0"),
        ("[evaluation]\nmax_users = -5", "max_users: expected 0"),
    ],
)
def test_a_wrong_setting_is_named(text: str, message: str) -> None:
    with pytest.raises(LongreelError, match=message) as refused:
        parse_config(text, "longreel.toml")
    assert str(refused.value).startswith("longreel.toml")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "longreel.toml").write_bytes(b"name = '\xb8'")
    with pytest.raises(LongreelError, match=r"longreel\.toml is not valid TOML: it is not UTF-8"):
        load_config(tmp_path / "longreel.toml")


def test_an_integer_may_stand_for_a_float() -> None:
    assert parse_config("[training]\nlearning_rate = 1").training.learning_rate == 1.0
    assert parse_config("[drift]\nvolume = [2, 3.5]").drift.volume == (2.0, 3.5)


def test_a_missing_file_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LongreelError, match="longreel init"):
        load_config(tmp_path / "longreel.toml")


def test_digest_follows_settings_and_not_the_place_of_the_log() -> None:
    base = Config().digest()
    assert parse_config("[source]\nlog = '/elsewhere'").digest() == base
    assert parse_config("[training]\nseed = 1").digest() != base


def test_days() -> None:
    assert [day.isoformat() for day in day_range(parse_day("2026-02-27"), parse_day("2026-03-01"))] == [
        "2026-02-27",
        "2026-02-28",
        "2026-03-01",
    ]
    for other in ("01.02.2026", "20260201", "2026-W05-7", "2026-2-1", "2026-02-30", ""):
        with pytest.raises(LongreelError, match="YYYY-MM-DD"):
            parse_day(other)
    with pytest.raises(LongreelError, match="got none; in Airflow, enter one"):
        parse_day("")
    with pytest.raises(LongreelError, match="before it starts"):
        day_range(parse_day("2026-02-02"), parse_day("2026-02-01"))


@pytest.mark.parametrize("kind", [Config, *SECTIONS, *TABLES, GatePolicy, Budget])
def test_every_setting_has_its_meaning_under_it(kind: type) -> None:
    settings = {field.name for field in dataclasses.fields(kind) if not dataclasses.is_dataclass(field.type)}
    assert settings - TABLES.get(kind, set()) == set(meanings(kind))
