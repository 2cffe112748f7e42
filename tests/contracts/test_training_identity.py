"""The identity of a training: what changes a model changes it, what only changes how the training runs does not."""

import copy
from dataclasses import fields, replace
from typing import Any

import pytest

from longreel.contracts.config import Config, ModelConfig, TrainingConfig
from longreel.contracts.training_identity import RESULT_NEUTRAL, training_identity

CONFIG, DATA = Config(), {"2026-01-01": "a", "2026-01-02": "b"}


def with_another(section: Any, name: str) -> Any:
    """The section with one setting changed, allowed or not."""
    changed = copy.copy(section)
    object.__setattr__(changed, name, f"not {getattr(section, name)}")
    return changed


def unchanged_by(section: str, kind: type) -> set[str]:
    """The settings of a section that leave the identity as it is."""
    same = training_identity(CONFIG, DATA, None)
    configs = {
        field.name: replace(CONFIG, **{section: with_another(getattr(CONFIG, section), field.name)})
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
        (CONFIG, DATA | {"2026-01-02": "c"}, None),
        (CONFIG, {"2026-01-01": "a"}, None),
        (CONFIG, DATA, "champion"),
    ],
    ids=["tasks", "a day's samples", "a day less", "start"],
)
def test_other_tasks_data_or_start_are_another_training(
    config: Config, data: dict[str, str], start: str | None
) -> None:
    assert training_identity(config, data, start) != training_identity(CONFIG, DATA, None)
