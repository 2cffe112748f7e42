"""Objects of the operators' own kinds against the models that their projects publish (kubeflow-trainer-api,
kubeflow-spark-api).

The models leave unknown fields aside in silence; so an object is valid where reading and writing it gives it back.
"""

import copy
from typing import Any

import pytest

from tests.manifests.rendering import DAYS, STANDING, of_kind, rendered


def models() -> dict[str, Any]:
    trainer = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed")
    spark = pytest.importorskip("kubeflow_spark_api.models", reason="kubeflow-spark-api is not installed")
    return {
        "TrainJob": trainer.TrainerV1alpha1TrainJob,
        "TrainingRuntime": trainer.TrainerV1alpha1TrainingRuntime,
        "SparkApplication": spark.SparkV1beta2SparkApplication,
    }


def read_and_written(item: dict[str, Any]) -> Any:
    return models()[item["kind"]].from_dict(copy.deepcopy(item)).to_dict()


@pytest.mark.parametrize("folder", STANDING + DAYS)
def test_every_field_is_one_that_the_operator_knows(folder: str) -> None:
    checked = [item for item in rendered(folder) if item["kind"] in models()]
    assert len(checked) == (1 if folder in STANDING else 3)
    for item in checked:
        assert read_and_written(item) == item


@pytest.mark.parametrize(
    ("folder", "kind", "path"),
    [
        ("manifests/day", "TrainJob", ["spec", "trainer"]),
        ("manifests/base", "TrainingRuntime", ["spec", "template", "spec"]),
        ("manifests/day", "SparkApplication", ["spec", "driver", "podSecurityContext"]),
    ],
)
def test_an_unknown_field_is_noticed(folder: str, kind: str, path: list[str]) -> None:
    item = copy.deepcopy(of_kind(folder, kind)[0])
    inner = item
    for name in path:
        inner = inner[name]
    inner["numberOfNodes"] = 2
    assert read_and_written(item) != item


def test_a_value_of_the_wrong_kind_is_rejected() -> None:
    from pydantic import ValidationError

    item = copy.deepcopy(of_kind("manifests/day", "TrainJob")[0])
    item["spec"]["trainer"]["numNodes"] = "two"
    with pytest.raises(ValidationError):
        read_and_written(item)
