"""Days that a training must not read are named before it reads them."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from longreel.contracts.config import Config
from longreel.contracts.definitions import sample_definitions
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Field, Label
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake
from longreel.model.training.day_checks import check_evaluation_day, check_training_days
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


def test_days_of_the_configurations_definitions_are_trained_on(config: Config, lake: Lake) -> None:
    check_training_days(config, lake, [samples(config, 5), samples(config, 6)])
    check_training_days(config, lake, [replace(samples(config, 5), details={}, counts={})])


def test_days_of_other_definitions_are_named_with_what_differs(config: Config, lake: Lake) -> None:
    log = config.log_schema
    labels = tuple(Label(name="like", when="like OR follow") if label.name == "like" else label for label in log.labels)
    other = replace(config, log_schema=replace(log, labels=labels, history="click"))
    days = [samples(config, 5), samples(other, 6), samples(other, 7), samples(config, 8)]
    with pytest.raises(LongreelError) as error:
        check_training_days(config, lake, days)
    text = str(error.value)
    assert "label like was sql like OR follow, is sql like (2026-01-06 .. 2026-01-07, 2 days)" in text
    assert "history was click, is click OR" in text
    assert "2026-01-05" not in text
    assert "longreel data stale" in text


def test_a_new_optional_field_conflicts_with_no_day(config: Config, lake: Lake) -> None:
    log, old = config.log_schema, samples(config, 5)
    for optional in (True, False):
        brand = Field(name="brand", place="item", kind="category", optional=optional)
        wider = replace(config, log_schema=replace(log, fields=(*log.fields, brand)))
        if optional:
            check_training_days(wider, lake, [old])
        else:
            with pytest.raises(LongreelError, match="field brand was added, and is not optional"):
                check_training_days(wider, lake, [old])


def test_a_log_of_positives_only_is_recognised_over_all_days(config: Config, lake: Lake) -> None:
    positives = samples(config, 5, {"targets": 90, "label_click": 90, "label_like": 5})
    check_training_days(config, lake, [positives, samples(config, 6)])
    with pytest.raises(LongreelError) as error:
        check_training_days(config, lake, [positives, replace(positives, date="2026-01-06")])
    text = str(error.value)
    assert text.startswith("nothing to learn from: all 180 targets of 2026-01-05 .. 2026-01-06, 2 days have click")
    assert "passed over" in text
    assert "docs/log-schema.md#a-log-of-positives-only" in text


def test_a_label_that_nothing_has_is_named(config: Config, lake: Lake) -> None:
    nothing = samples(config, 5, {"targets": 90, "label_click": 9, "label_like": 0})
    with pytest.raises(LongreelError, match=r"none of the 90 targets of 2026-01-05 has like.*\[labels\] like"):
        check_training_days(config, lake, [nothing])
    check_training_days(replace(config, tasks=("click",)), lake, [nothing])


def test_training_refuses_such_days_before_it_begins(
    config: Config, own_lake: Lake, days: list[date], tmp_path: Path
) -> None:
    manifest = own_lake.require("samples", days[1])
    other = replace(config, log_schema=replace(config.log_schema, history="click"))
    own_lake.rewrite_manifest(replace(manifest, details={"definitions": sample_definitions(other)}))
    with pytest.raises(LongreelError, match=r"history was click, is .* \(2026-01-06\)"):
        train(config, own_lake, days, tmp_path / "work", tmp_path / "model")
    assert not (tmp_path / "work").exists()


def test_every_task_is_named_with_its_counts_in_one_message(config: Config, lake: Lake) -> None:
    with pytest.raises(LongreelError) as error:
        check_training_days(config, lake, [samples(config, 5, {"targets": 90, "label_click": 90, "label_like": 0})])
    assert "all 90 targets of 2026-01-05 have click" in str(error.value)
    assert "[samples] sampled_negatives" in str(error.value)
    assert "none of the 90 targets of 2026-01-05 has like" in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([float("nan")], "none of the {n} targets of 2026-01-05 .. 2026-01-06, 2 days has a value of watch_s"),
        ([float("nan"), 7.0], "every value of watch_s in {n} targets of 2026-01-05 .. 2026-01-06, 2 days is 7:"),
        ([7.0, float("nan"), 8.0], ""),
    ],
)
def test_a_number_label_without_values_or_with_one_is_refused(
    config: Config,
    days: list[date],
    tmp_path: Path,
    publish_rows: Callable[..., None],
    rows: Callable[..., list[dict[str, Any]]],
    values: list[float],
    message: str,
) -> None:
    label = Label(name="watch_s", value="play_ms / 1000")
    log = replace(config.log_schema, labels=(*config.log_schema.labels, label))
    numbers, lake, total = replace(config, log_schema=log, tasks=("watch_s",)), Lake(tmp_path / "lake", log), 0
    for day in days[:2]:
        user_days = rows(0, users=8)
        for row in user_days:
            row["target_label_watch_s"] = [values[i % len(values)] for i in range(len(row["target_labels"]))]
            total += len(row["target_labels"])
        publish_rows(lake, day, user_days)
    manifests = [lake.require("samples", day) for day in days[:2]]
    if not message:
        check_training_days(numbers, lake, manifests)
        return
    with pytest.raises(LongreelError, match=re.escape(message.format(n=total))):
        check_training_days(numbers, lake, manifests)


def test_a_day_whose_gate_task_has_one_class_is_refused_before_the_training(config: Config, lake: Lake) -> None:
    day = samples(config, 8, {"targets": 90, "label_click": 0, "label_like": 90})
    with pytest.raises(LongreelError, match=r"none of the 90 targets of 2026-01-08 has click.*take another --date"):
        check_evaluation_day(config, lake, day, "click")
    check_evaluation_day(config, lake, replace(day, counts={**day.counts, "label_click": 9}), "click")
