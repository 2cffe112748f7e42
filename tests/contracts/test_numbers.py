"""Every number of every configuration and option is finite and bounded."""

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest

from longreel.contracts.argument_types import at_least, calendar_day, number_between
from longreel.contracts.config import Config, parse_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.policy import GatePolicy, parse_policy

NOT_FINITE = ("nan", "-nan", "inf", "-inf", "1e999", f"{10**400}", f"-{2**60}")


def number_settings(kind: Any) -> Iterator[tuple[str, str]]:
    """Names of the numbers of a dataclass, and a TOML form that a value is put into."""
    for field in dataclasses.fields(kind):
        if field.type in (int, float):
            yield field.name, "{}"
        elif get_origin(field.type) is tuple and get_args(field.type)[0] in (int, float):
            yield field.name, "[{0}, {0}]"


SECTIONS = {field.name: field.type for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)}
SETTINGS = [
    (section, name, form)
    for section, kind in SECTIONS.items()
    if section != "log_schema"
    for name, form in number_settings(kind)
]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_no_setting_takes_a_number_that_is_not_finite_or_huge(value: str) -> None:
    assert len(SETTINGS) > 40
    for section, name, form in SETTINGS:
        with pytest.raises(LongreelError, match=name):
            parse_config(f"[{section}]\n{name} = {form.format(value)}")


@pytest.mark.parametrize("value", [*NOT_FINITE, "-2000", "1e15"])
def test_no_limit_of_the_gates_takes_a_number_that_turns_it_off(value: str) -> None:
    limits = list(number_settings(GatePolicy))
    assert {"max_ece", "calibration", "min_r2"} <= {name for name, _ in limits}
    for name, form in limits:
        with pytest.raises(LongreelError, match=name):
            parse_policy(f"{name} = {form.format(value)}")
    for name in ("latency_ms", "memory_mib"):
        budget = {"latency_ms": "1", "memory_mib": "1"} | {name: value}
        if value != "1e15":
            with pytest.raises(LongreelError, match="budget"):
                parse_policy(f'budgets = [{{device = "cpu", {", ".join(f"{k} = {v}" for k, v in budget.items())}}}]')


@pytest.mark.parametrize("kind", [int, float])
def test_a_log_schema_takes_no_number_that_is_not_finite(kind: type) -> None:
    for value in NOT_FINITE:
        line = f"weight = {value}" if kind is float else f"rows = {value}"
        text = (
            f'[labels]\nclick = {{when = "click", {line}}}'
            if kind is float
            else f'[fields.item]\nbrand = {{kind = "id", {line}}}'
        )
        with pytest.raises(LongreelError, match=line.split(maxsplit=1)[0]):
            parse_config(text)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (at_least(1), ["1", " 7 ", "2147483647"], ["", "0", "-1", "1.5", "nan", "inf", "1e3", "1_0", "٣", "9" * 5_000]),
        (at_least(0, 9), ["0", "9"], ["10"]),
        (number_between(0, 1), ["0", "1", "1e-3"], ["", "nan", "inf", "-0.1", "1.1", "x", "1e999"]),
        (number_between(0, 9, open_low=True), ["0.1", "9"], ["0", "-1"]),
        (calendar_day, ["2026-02-28"], ["", "2026-02-30", "20260228", "nan"]),
    ],
)
def test_an_option_takes_what_it_says_and_refuses_the_rest_in_words(kind: Any, good: list[str], bad: list[str]) -> None:
    for text in good:
        kind(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="expected a") as error:
            kind(text)
        assert len(str(error.value)) < 160
