"""FLOPs counted from sizes are those that PyTorch counts while the model runs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from longreel.contracts.config import Config
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.flops import BACKWARD, forward_flops, peak_flops, training_flops


@pytest.mark.parametrize("match_counts", [False, True], ids=["", "match counts"])
def test_count_equals_what_the_matrix_products_of_a_forward_pass_do(
    config: Config, sample_rows: Callable[..., SampleRows], match_counts: bool
) -> None:
    sizes = replace(config.model, layers=3, expansion=2, mixer_layers=2, id_match_fields=(), match_counts=match_counts)
    rows = sample_rows(3)
    batch = rows.pack(np.arange(rows.num_requests), 48, ("click",))
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        Ranker(sizes, ("click",), 2).eval()(batch, "reference")
    pairs = int(batch.history_offsets.diff() @ batch.target_offsets.diff())
    counts = {"requests": batch.num_requests, "events": batch.num_events, "targets": batch.num_targets, "pairs": pairs}
    bits = 2 * 8 * sizes.width  # PyTorch multiplies the action bits once for all 256 patterns, not for every event
    expected = counter.get_total_flops() - 256 * bits + batch.num_events * bits
    flops = forward_flops(sizes, tasks=1, **counts)
    assert abs(flops - expected) < 1e-3 * expected
    assert training_flops(sizes, tasks=1, **counts) == BACKWARD * flops


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
