"""Counted arithmetic of other readers is what their modules do."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.extrapolation.comparators import COMPARATORS, InPlaceOfSTCA
from benchmarks.extrapolation.compute import reader_flops, training_flops
from longreel.contracts.config import Config, ModelConfig
from longreel.model.nn.attention import Requests
from longreel.model.training.flops import training_flops as product_flops

EVENTS, TARGETS = 24, 5


@pytest.mark.parametrize("reader", COMPARATORS)
def test_counts_are_those_of_the_modules(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # the counter does not see what a kernel computes
    config = ModelConfig(width=32, heads=4, layers=2, expansion=2, dropout=0.0)
    module = InPlaceOfSTCA(COMPARATORS[reader](config, 0))
    requests = Requests(torch.tensor([0, TARGETS]), torch.tensor([0, EVENTS]))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.randn(TARGETS, 32), torch.randn(EVENTS, 32), requests)
    expected = reader_flops(reader, config, np.array([EVENTS]), np.array([TARGETS]))
    past, pair = EVENTS * (EVENTS + 1) // 2, config.layers * 4 * config.width
    if reader == "sasrec":  # the counter knows nothing of the fused kernel on a CPU
        expected -= pair * past
    if reader == "hstu":  # nor that half of a causal square is not wanted
        expected += pair * (EVENTS**2 - past)
    assert counter.get_total_flops() == expected


def test_ours_is_the_products_count() -> None:
    config, events, targets = Config(), np.array([10, 0, 300]), np.array([3, 1, 2])
    whole = product_flops(
        config.model, config.log_schema, requests=3, events=310, targets=6, pairs=630, tasks=len(config.tasks)
    )
    assert training_flops("stca", config, events, targets) == pytest.approx(whole)
    other = training_flops("sasrec", config, events, targets) - training_flops("mean", config, events, targets)
    assert other == pytest.approx(
        3
        * (reader_flops("sasrec", config.model, events, targets) - reader_flops("mean", config.model, events, targets))
    )
