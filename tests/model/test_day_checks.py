"""Days that a training must not read are named before it reads them."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from longreel.contracts.config import Config
from longreel.contracts.definitions import sample_definitions
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Field, Label
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.training.day_checks import check_training_days
from longreel.model.training.train import train

GOOD = {"targets": 100, "label_click": 30, "label_like": 1}


def samples(config: Config, day: int, counts: dict[str, int] | None = None) -> Manifest:
    return Manifest(
        dataset="samples",
        date=f"2026-01-{day:02}",
        digest="0" * 16,
        rows=1,
        files=(),
        counts=GOOD if counts is None else counts,
        details={"definitions": sample_definitions(config)},
    )


def test_days_of_the_configurations_definitions_are_trained_on(config: Config) -> None:
    check_training_days(config, [samples(config, 5), samples(config, 6)])
    check_training_days(config, [replace(samples(config, 5), details={}, counts={})])


def test_days_of_other_definitions_are_named_with_what_differs(config: Config) -> None:
    log = config.log_schema
    labels = tuple(Label(name="like", when="like OR follow") if label.name == "like" else label for label in log.labels)
    other = replace(config, log_schema=replace(log, labels=labels, history="click"))
    days = [samples(config, 5), samples(other, 6), samples(other, 7), samples(config, 8)]
    with pytest.raises(LongreelError) as error:
        check_training_days(config, days)
    text = str(error.value)
    assert "label like was sql like OR follow, is sql like (2026-01-06 .. 2026-01-07, 2 days)" in text
    assert "history was click, is click OR" in text
    assert "2026-01-05" not in text
    assert "longreel data stale" in text


def test_a_new_optional_field_conflicts_with_no_day(config: Config) -> None:
    log, old = config.log_schema, samples(config, 5)
    for optional in (True, False):
        brand = Field(name="brand", place="item", kind="category", optional=optional)
        wider = replace(config, log_schema=replace(log, fields=(*log.fields, brand)))
        if optional:
            check_training_days(wider, [old])
        else:
            with pytest.raises(LongreelError, match="field brand was added, and is not optional"):
                check_training_days(wider, [old])


def test_a_log_of_positives_only_is_recognised_over_all_days(config: Config) -> None:
    positives = samples(config, 5, {"targets": 90, "label_click": 90, "label_like": 5})
    check_training_days(config, [positives, samples(config, 6)])
    with pytest.raises(LongreelError) as error:
        check_training_days(config, [positives, replace(positives, date="2026-01-06")])
    text = str(error.value)
    assert text.startswith("all 180 targets of 2026-01-05 .. 2026-01-06, 2 days have click")
    assert "passed over" in text
    assert "docs/log-schema.md#a-log-of-positives-only" in text


def test_a_label_that_nothing_has_is_named(config: Config) -> None:
    nothing = samples(config, 5, {"targets": 90, "label_click": 9, "label_like": 0})
    with pytest.raises(LongreelError, match=r"none of the 90 targets of 2026-01-05 has like.*\[labels\] like"):
        check_training_days(config, [nothing])
    check_training_days(replace(config, tasks=("click",)), [nothing])


def test_training_refuses_such_days_before_it_begins(
    config: Config, own_lake: Lake, days: list[date], tmp_path: Path
) -> None:
    manifest = own_lake.require("samples", days[1])
    other = replace(config, log_schema=replace(config.log_schema, history="click"))
    own_lake.rewrite_manifest(replace(manifest, details={"definitions": sample_definitions(other)}))
    with pytest.raises(LongreelError, match=r"history was click, is .* \(2026-01-06\)"):
        train(config, own_lake, days, tmp_path / "work", tmp_path / "model")
    assert not (tmp_path / "work").exists()
