"""What the cluster page says a day costs is what its formulas give from the benchmarks' results."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cost() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cost", ROOT / "manifests/cost.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_page_holds_current_tables(cost: ModuleType) -> None:
    text = cost.PAGE.read_text()
    assert text == cost.page(text), "the benchmarks' results have changed: run `python manifests/cost.py`"


def test_cost_of_a_day_follows_its_users(cost: ModuleType) -> None:
    small, large = cost.day(10**8, 1), cost.day(10**9, 1)
    for name in ("ingest, core hours", "samples, core hours", "training, tokens", "stored, TB"):
        assert large[name] == pytest.approx(10 * small[name])
    assert large["evaluation, GPU hours"] == small["evaluation, GPU hours"]  # a sample of users is evaluated


def test_training_by_hand(cost: ModuleType) -> None:
    one = cost.day(10**6, 1)
    assert one["training, tokens"] == 10**6 * (10 * 1_000 + 100)
    assert one["training, GPU hours"] == pytest.approx(1.01e10 / cost.measured().tokens_a_gpu / 3_600)
