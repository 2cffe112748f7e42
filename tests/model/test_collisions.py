"""What the counter says of shared rows is what a dictionary of sets says."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.log_schema import UNKNOWN, LogSchema
from longreel.model.data.batch import RequestBatch
from longreel.model.data.encodings import Encodings, learn_encodings
from longreel.model.data.hashing import bucket
from longreel.model.data.samples import SampleRows
from longreel.model.nn.embeddings import Embeddings
from longreel.model.training.collisions import CollisionCounter, Collisions, warn
from longreel.model.training.device_loader import RowLookup
from tests.model.every_kind import EVERY_KIND, make_sample_rows

CPU = torch.device("cpu")


@pytest.fixture
def batches(sample_rows: Callable[..., SampleRows]) -> list[RequestBatch]:
    row_sets = [sample_rows(seed) for seed in (1, 2)]
    return [rows.pack(np.arange(rows.num_requests), 48) for rows in row_sets]


def counter_of(embeddings: Embeddings, batches: list[RequestBatch]) -> CollisionCounter:
    lookup, counter = RowLookup(embeddings, CPU), CollisionCounter(embeddings, CPU)
    for batch in batches:
        counter.count(lookup(batch))
    return counter


@pytest.fixture
def embeddings(config: Config, log_schema: LogSchema, encodings: Encodings) -> Embeddings:
    return Embeddings(config.model, log_schema, encodings)


def test_census_equals_sets_of_ids_by_row(
    config: Config, log_schema: LogSchema, encodings: Encodings, batches: list[RequestBatch]
) -> None:
    item, *others = log_schema.fields
    larger = replace(log_schema, fields=(replace(item, rows=1_024), *others))
    embeddings = Embeddings(config.model, larger, encodings)
    for feature in counter_of(embeddings, batches).report():
        ids, lookups = defaultdict(set), Counter()
        for batch in batches:
            for fields in (batch.history, batch.target):
                known_ids = fields[feature.feature][fields[feature.feature] != UNKNOWN]
                rows = bucket(known_ids, feature.table_rows + 1).tolist()
                lookups.update(rows)
                for row, known_id in zip(rows, known_ids.tolist(), strict=True):
                    ids[row].add(known_id)
        shared = [row for row, several in ids.items() if len(several) > 1]
        distinct = sum(map(len, ids.values()))
        assert feature.rows_used == len(ids)
        assert feature.shared_lookups == pytest.approx(sum(lookups[r] for r in shared) / sum(lookups.values()))
        assert feature.ids == pytest.approx(distinct, rel=0.1)
        assert feature.shared_ids == pytest.approx(sum(len(ids[r]) for r in shared) / distinct, abs=0.1)
    assert shared, "tags share rows in this table, or the test shows nothing"


def test_multis_are_counted_id_by_id(config: Config) -> None:
    rows = make_sample_rows(EVERY_KIND, 1, requests=40)
    embeddings = Embeddings(config.model, EVERY_KIND, learn_encodings(EVERY_KIND, rows))
    batch = rows.pack(np.arange(rows.num_requests), 48)
    report = {feature.feature: feature for feature in counter_of(embeddings, [batch]).report()}
    assert list(report) == [f.name for f in EVERY_KIND.fields if f.place != "user" and f.kind in ("id", "multi")]
    tags = torch.cat([batch.history["tags"].flatten(), batch.target["tags"].flatten()])
    tags = tags[tags != UNKNOWN]
    assert report["tags"].rows_used == len(bucket(tags.unique(), 64).unique())
    (message,) = warn([replace(report["tags"], shared_lookups=0.9)], EVERY_KIND)
    assert "set [fields.item] tags: rows = " in message


def test_census_does_not_depend_on_order_and_merges_what_ranks_saw(
    embeddings: Embeddings, batches: list[RequestBatch]
) -> None:
    whole = counter_of(embeddings, batches)
    other = counter_of(embeddings, batches[::-1])
    assert whole.report() == other.report()
    one, two = (counter_of(embeddings, [batch]) for batch in batches)
    merged = CollisionCounter(embeddings, CPU)
    merged.load({
        "low": torch.minimum(one.low, two.low),
        "high": torch.maximum(one.high, two.high),
        "lookups": one.lookups + two.lookups,
    })  # fmt: skip
    assert merged.report() == whole.report()


def test_a_crowded_table_is_warned_of_with_a_size_that_is_enough(
    embeddings: Embeddings,
    log_schema: LogSchema,
    batches: list[RequestBatch],
    caplog: pytest.LogCaptureFixture,
) -> None:
    report = counter_of(embeddings, batches).report()
    (message, *_) = warn(report, log_schema)
    assert "of item_id lookups share a table row" in message
    assert "set [fields.item] item_id: rows = " in caplog.text
    advised = int(message.rsplit("= ", 1)[1])
    ids = torch.unique(torch.cat([torch.cat([b.history["item_id"], b.target["item_id"]]) for b in batches]))
    counts = torch.bincount(bucket(ids, advised))
    assert float(counts[counts > 1].sum()) / len(ids) < 0.12
    assert warn([feature for feature in report if feature.shared_lookups < 0.2], log_schema) == []


def test_a_table_in_which_two_hot_ids_met_by_chance_is_told_to_grow(log_schema: LogSchema) -> None:
    """Large enough for its ids by any count; only another size parts the two."""
    tag = Collisions(feature="tag", table_rows=1_023, rows_used=59, ids=60, shared_ids=0.03, shared_lookups=0.3)
    (message,) = warn([tag], log_schema)
    assert message.endswith("set [fields.item] tag: rows = 2048")
