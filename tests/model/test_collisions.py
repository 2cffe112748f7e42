"""What the census says of shared rows is what a dictionary of sets says."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.schemas import UNKNOWN
from longreel.model.data.batch import RequestBatch
from longreel.model.data.hashing import bucket
from longreel.model.data.samples import SampleRows
from longreel.model.nn.embeddings import Embeddings
from longreel.model.training.collisions import CollisionCounter, Collisions, warn
from longreel.model.training.device_loader import RowLookup

CPU = torch.device("cpu")


@pytest.fixture
def batches(sample_rows: Callable[..., SampleRows]) -> list[RequestBatch]:
    made = [sample_rows(seed) for seed in (1, 2)]
    return [rows.pack(np.arange(rows.num_requests), 48) for rows in made]


def census_of(embeddings: Embeddings, batches: list[RequestBatch]) -> CollisionCounter:
    finders, census = RowLookup(embeddings, CPU), CollisionCounter(embeddings.ids, CPU)
    for batch in batches:
        census.count(finders(batch))
    return census


def test_census_equals_sets_of_ids_by_row(config: Config, batches: list[RequestBatch]) -> None:
    embeddings = Embeddings(replace(config.model, item_buckets=1_024), 2)
    for found in census_of(embeddings, batches).report():
        ids, lookups = defaultdict(set), Counter()
        for batch in batches:
            for fields in (batch.history, batch.target):
                known = fields[found.feature][fields[found.feature] != UNKNOWN]
                rows = bucket(known, found.table_rows + 1).tolist()
                lookups.update(rows)
                for row, each in zip(rows, known.tolist(), strict=True):
                    ids[row].add(each)
        shared = [row for row, several in ids.items() if len(several) > 1]
        distinct = sum(map(len, ids.values()))
        assert found.rows_used == len(ids)
        assert found.shared_lookups == pytest.approx(sum(lookups[r] for r in shared) / sum(lookups.values()))
        assert found.ids == pytest.approx(distinct, rel=0.1)
        assert found.shared_ids == pytest.approx(sum(len(ids[r]) for r in shared) / distinct, abs=0.1)
    assert shared, "tags share rows in this table, or the test shows nothing"


def test_census_does_not_depend_on_order_and_merges_what_ranks_saw(config: Config, batches: list[RequestBatch]) -> None:
    embeddings = Embeddings(config.model, 2)
    whole = census_of(embeddings, batches)
    other = census_of(embeddings, batches[::-1])
    assert whole.report() == other.report()
    one, two = (census_of(embeddings, [batch]) for batch in batches)
    merged = CollisionCounter(embeddings.ids, CPU)
    merged.load({
        "low": torch.minimum(one.low, two.low),
        "high": torch.maximum(one.high, two.high),
        "lookups": one.lookups + two.lookups,
    })  # fmt: skip
    assert merged.report() == whole.report()


def test_a_crowded_table_is_warned_of_with_a_size_that_is_enough(
    config: Config,
    batches: list[RequestBatch],
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = census_of(Embeddings(config.model, 2), batches).report()
    (said, *_) = warn(found)
    assert "of item_id lookups share a table row" in said
    assert "set [model] item_buckets = " in caplog.text
    advised = int(said.rsplit("= ", 1)[1])
    ids = torch.unique(torch.cat([torch.cat([b.history["item_id"], b.target["item_id"]]) for b in batches]))
    counts = torch.bincount(bucket(ids, advised))
    assert float(counts[counts > 1].sum()) / len(ids) < 0.12
    assert warn([each for each in found if each.shared_lookups < 0.2]) == []


def test_a_table_in_which_two_hot_ids_met_by_chance_is_told_to_grow() -> None:
    """Large enough for its ids by any count; only another size parts the two."""
    found = Collisions(feature="tag", table_rows=1_023, rows_used=59, ids=60, shared_ids=0.03, shared_lookups=0.3)
    (said,) = warn([found])
    assert said.endswith("set [model] tag_buckets = 2048")
