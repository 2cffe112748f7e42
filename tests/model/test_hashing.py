"""Ids find the same rows everywhere."""

import numpy as np
import torch

from longreel.contracts.log_schema import UNKNOWN
from longreel.model.data.hashing import bucket, mix64
from longreel.model.data.windows import splitmix64
from longreel.model.nn.embeddings import age_bucket, position_bucket


def test_mix64_equals_splitmix64_on_unsigned_integers() -> None:
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1_000)
    assert (mix64(torch.from_numpy(ids)).numpy().view(np.uint64) == splitmix64(ids.view(np.uint64))).all()
    # First output of SplitMix64 seeded with 0 (published test vector).
    assert int(splitmix64(np.zeros(1, np.uint64))[0]) == 0xE220A8397B1DCDAF


def test_buckets_spread_and_unknown_has_row_0_to_itself() -> None:
    rows = bucket(torch.arange(100_000), 1_001)
    counts = torch.bincount(rows, minlength=1_001)
    assert counts[0] == 0
    assert counts[1:].min() > 50
    assert counts[1:].max() < 160
    assert bucket(torch.tensor([UNKNOWN], dtype=torch.int32), 1_001).item() == 0


def test_buckets_are_defined_at_any_age_and_position() -> None:
    year = 365 * 86_400_000
    ages = torch.tensor([0, 1, 1_000, 60_000, 3_600_000, 86_400_000, year, 100 * year])
    assert age_bucket(ages).tolist()[:6] == [0, 0, 3, 17, 35, 49]
    assert (age_bucket(ages).diff() >= 0).all()
    assert int(age_bucket(ages).max()) < 96
    assert position_bucket(torch.tensor([0, 1, 10_239])).tolist() == [0, 3, 39]
