"""FLOPs counted from sizes are those that PyTorch counts while the model runs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from longreel.contracts.config import Config
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.flops import BACKWARD, forward_flops, peak_flops, training_flops
from tests.model.every_kind import EVERY_KIND, make_sample_rows


@pytest.mark.parametrize("match_counts", [False, True], ids=["", "match counts"])
def test_count_equals_what_the_matrix_products_of_a_forward_pass_do(
    config: Config, make_ranker: Callable[..., Ranker], sample_rows: Callable[..., SampleRows], match_counts: bool
) -> None:
    sizes = replace(config.model, layers=3, expansion=2, mixer_layers=2, match_counts=match_counts)
    rows = sample_rows(3)
    log = replace(rows.log_schema, fields=tuple(replace(field, match=False) for field in rows.log_schema.fields))
    batch = rows.pack(np.arange(rows.num_requests), 48, ("click",))
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        make_ranker(sizes, ("click",), log).eval()(batch, "reference")
    pairs = int(batch.history_offsets.diff() @ batch.target_offsets.diff())
    counts = {"requests": batch.num_requests, "events": batch.num_events, "targets": batch.num_targets, "pairs": pairs}
    bits = 2 * 8 * sizes.width  # PyTorch multiplies the action bits once for all 256 patterns, not for every event
    expected = counter.get_total_flops() - 256 * bits + batch.num_events * bits
    flops = forward_flops(sizes, log, tasks=1, **counts)
    assert abs(flops - expected) < 1e-3 * expected
    assert training_flops(sizes, log, tasks=1, **counts) == BACKWARD * flops


def test_fields_of_every_kind_count_what_they_multiply(config: Config) -> None:
    log = replace(EVERY_KIND, fields=tuple(replace(field, match=False) for field in EVERY_KIND.fields))
    rows = make_sample_rows(log, 1)
    batch = rows.pack(np.arange(rows.num_requests), 48)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        Ranker(config.model, ("click",), log, learn_encodings(log, rows)).eval()(batch, "reference")
    pairs = int(batch.history_offsets.diff() @ batch.target_offsets.diff())
    counts = {"requests": batch.num_requests, "events": batch.num_events, "targets": batch.num_targets, "pairs": pairs}
    patterns = 2 * config.model.width * sum(bits << bits for bits in (8, 8, 8, 8, 5))
    bits = 2 * config.model.width * 37 * batch.num_events
    expected = counter.get_total_flops() - patterns + bits
    assert forward_flops(config.model, log, tasks=1, **counts) == pytest.approx(expected, rel=1e-3)


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
