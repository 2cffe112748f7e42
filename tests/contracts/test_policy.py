"""The gate policy is one file, checked where it is declared; what it says of error rates is what the gates use."""

from dataclasses import replace
from pathlib import Path

import pytest

from longreel.contracts.config import parse_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import Budget, GatePolicy, load_policy, parse_policy
from longreel.contracts.presets import preset
from longreel.lake.home import Home

SHIPPED = parse_policy(preset("gates"))


def test_the_shipped_policy_has_every_setting_with_its_default_and_budgets() -> None:
    assert replace(GatePolicy(), budgets=SHIPPED.budgets) == SHIPPED
    for name in GatePolicy.__dataclass_fields__:
        assert f"\n{name} = " in preset("gates"), name


@pytest.mark.parametrize(
    ("device", "first"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA"),
        ("cpu, 2 threads", "cpu"),
    ],
)
def test_the_shipped_policy_has_a_budget_for_the_devices_people_have(device: str, first: str) -> None:
    assert next(b.device for b in SHIPPED.budgets if b.device in device) == first


@pytest.mark.parametrize("source", ["simulated", "kuairand", "generic"])
def test_the_shipped_gate_task_is_a_task_of_every_preset(source: str) -> None:
    assert GatePolicy().task in parse_config(preset(source)).tasks


def test_a_home_without_a_policy_file_has_the_shipped_one(tmp_path: Path) -> None:
    assert Home(tmp_path).policy == SHIPPED
    (tmp_path / "gates.toml").write_text('task = "like"\nbudgets = [{device = "H200", latency_ms = 5, memory_mib = 1}]')
    assert Home(tmp_path).policy.task == "like"
    assert Home(tmp_path).policy.budgets == (Budget(device="H200", latency_ms=5.0, memory_mib=1.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_ack = 1", "unknown setting 'min_ack'"),
        ("false_promotion_rate = 0", "expected between 0 and 0.5"),
        ("evaluation_days = 0", "evaluation_days: expected 1 to 366, got 0"),
        ("superiority_metrics = ['gauc']", "superiority_metrics: expected some of auc, log_loss"),
        ("calibration = [1.1, 1.2]", "low <= 1 <= high"),
        ("slice_tolerance = -0.1", "slice_tolerance: expected 0.0 to 1.0, got -0.1"),
        ("budgets = [{device = 'H200', latency_ms = 1.0}]", "budget of H200: expected positive limits"),
        ("budgets = [{latency_ms = 1.0, memory_mib = 1.0}]", "name the device"),
        ("budgets = {device = 'H200'}", "budgets expected sections"),
        ("budgets = [1]", "budgets expected sections"),
        ("budgets = [{device = 1, latency_ms = 1, memory_mib = 1}]", "device expected a text"),
        ("superiority_metrics = [1]", "superiority_metrics, in its list, expected a text"),
        ("task = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named(text: str, message: str) -> None:
    with pytest.raises(LongreelError, match=message):
        parse_policy(text)


def test_any_change_changes_the_digest_and_the_file_alone_decides(tmp_path: Path) -> None:
    assert parse_policy('version = "2"').digest() != GatePolicy().digest()
    assert parse_policy("max_ece = 0.06").digest() != GatePolicy().digest()
    assert load_policy(tmp_path / "none.toml").digest() == SHIPPED.digest()


def test_evaluation_days_and_metrics_share_the_promotion_rate() -> None:
    assert parse_policy("").promotion_level(1) == 0.05
    assert parse_policy("evaluation_days = 5").promotion_level(2) == pytest.approx(0.005)
