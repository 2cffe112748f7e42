"""The identity of a training: what changes a model changes it, what only changes how the training runs does not."""

import copy
from dataclasses import fields, replace
from typing import Any

import pytest

from longreel.contracts.config import Config, ModelConfig, TrainingConfig
from longreel.contracts.training_identity import RESULT_NEUTRAL, training_identity
from tests.short_video import SHORT_VIDEO

CONFIG, DATA = Config(log_schema=SHORT_VIDEO), {"2026-01-01": "a", "2026-01-02": "b"}
RETYPED = tuple(replace(field, kind="category") if field.name == "tag" else field for field in SHORT_VIDEO.fields)


def changed(record: Any, name: str, value: Any) -> Any:
    """The record with one value changed, allowed or not."""
    other = copy.copy(record)
    object.__setattr__(other, name, value)
    return other


def unchanged_by(section: str, kind: type) -> set[str]:
    """The settings of a section that leave the identity as it is."""
    same = training_identity(CONFIG, DATA, None)
    configs = {
        field.name: changed(CONFIG, section, changed(getattr(CONFIG, section), field.name, "another"))
        for field in fields(kind)
    }
    return {name for name, config in configs.items() if training_identity(config, DATA, None) == same}


def test_only_how_a_training_runs_leaves_its_identity_as_it_is() -> None:
    """Turning CUDA graphs, compilation or activation checkpointing off trains the same model."""
    assert unchanged_by("training", TrainingConfig) == RESULT_NEUTRAL
    assert {"compile", "cuda_graphs", "activation_checkpointing"} < RESULT_NEUTRAL
    assert unchanged_by("model", ModelConfig) == set()


@pytest.mark.parametrize(
    ("config", "data", "start"),
    [
        (replace(CONFIG, tasks=("like",)), DATA, None),
        (replace(CONFIG, log_schema=replace(SHORT_VIDEO, fields=RETYPED)), DATA, None),
        (CONFIG, DATA | {"2026-01-02": "c"}, None),
        (CONFIG, {"2026-01-01": "a"}, None),
        (CONFIG, DATA, "champion"),
    ],
    ids=["tasks", "log schema", "a day's samples", "a day less", "start"],
)
def test_other_tasks_data_or_start_are_another_training(
    config: Config, data: dict[str, str], start: str | None
) -> None:
    assert training_identity(config, data, start) != training_identity(CONFIG, DATA, None)
