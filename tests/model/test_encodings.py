"""Encodings are those of the published data, whatever is missing, constant or rare in it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from longreel.contracts.clock import transitions
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import UNKNOWN, Field, LogSchema
from longreel.lake.manifest import Manifest
from longreel.model.data.encodings import (
    Encodings,
    Moments,
    counted_categories,
    learn_encodings,
    quantile_boundaries,
    vector_scale,
)
from longreel.model.data.samples import SampleRows
from tests.model.every_kind import EVERY_KIND, make_sample_rows


@pytest.fixture
def rows() -> SampleRows:
    return make_sample_rows(EVERY_KIND, 1, requests=200)


def manifest(dataset: str, categories: dict[str, list[list[object]]]) -> Manifest:
    return Manifest(
        dataset=dataset, date="2026-01-05", digest="0" * 16, rows=1, files=(), details={"categories": categories}
    )


def test_encodings_survive_json(rows: SampleRows) -> None:
    encodings = learn_encodings(EVERY_KIND, rows)
    assert Encodings.from_dict(json.loads(json.dumps(encodings.to_dict()))) == encodings
    assert learn_encodings(EVERY_KIND, rows) == encodings
    with pytest.raises(LongreelError, match="not encodings"):
        Encodings.from_dict({"codes": {}})


def test_every_field_that_needs_one_has_an_encoding(rows: SampleRows) -> None:
    encodings = learn_encodings(EVERY_KIND, rows)
    assert set(encodings.codes) == set(encodings.names) == {"department", "device", "country"}
    assert set(encodings.boundaries) == {"price", "dwell_ms", "age"}
    assert set(encodings.vectors) == {"title", "response", "profile"}
    assert set(encodings.number_labels) == {"spent"}
    assert encodings.transitions == tuple(zip(*transitions("Europe/Berlin"), strict=True))
    assert learn_encodings(LogSchema(), make_sample_rows(LogSchema(), 1)).transitions == ()


def test_the_vocabulary_is_that_of_the_manifests_the_most_frequent_first(rows: SampleRows) -> None:
    counted = counted_categories(
        [
            manifest("events", {"device": [[7, "phone", 5], [9, "web", 3], [UNKNOWN, "", 99]]}),
            manifest("users", {"country": [[4, "DE", 2]]}),
            manifest("events", {"device": [[9, "web", 9], [2, "tv", 12]], "department": [[7, "shoes", 1]]}),
            Manifest(dataset="users", date="2026-01-06", digest="0" * 16, rows=0, files=()),
        ]
    )
    encodings = learn_encodings(EVERY_KIND, rows, counted)
    assert (encodings.codes["device"], encodings.names["device"]) == ((2, 9, 7), ("tv", "web", "phone"))
    assert (encodings.codes["country"], encodings.names["country"]) == ((4,), ("DE",))
    assert encodings.names["department"] == ("shoes",), "the code of a phone, and not its name"


def test_without_manifests_the_vocabulary_is_counted_in_the_rows(rows: SampleRows) -> None:
    encodings = learn_encodings(EVERY_KIND, rows)
    values = np.concatenate([rows.history["device"], rows.target["device"]])
    counts = {code: int((values == code).sum()) for code in set(values.tolist()) - {UNKNOWN}}
    assert list(encodings.codes["device"]) == sorted(counts, key=lambda code: (-counts[code], code))
    assert encodings.names["device"] == tuple(map(str, encodings.codes["device"]))
    assert set(encodings.codes["country"]) == set(rows.user["country"].tolist()) - {UNKNOWN}
    assert len(encodings.codes["department"]) == 6, "a table of 8 rows holds six values besides unknown and unseen"


def test_history_and_targets_share_the_boundaries_of_a_number(rows: SampleRows) -> None:
    rows.history["price"][:], rows.target["price"][:] = 1.0, 2.0
    assert learn_encodings(EVERY_KIND, rows).boundaries["price"] == (1.0,)


def test_values_are_parted_evenly() -> None:
    values = np.random.default_rng(0).lognormal(size=10_000).astype(np.float32)
    boundaries = quantile_boundaries(np.append(values, [np.nan, np.inf, -np.inf]).astype(np.float32), 32)
    assert len(boundaries) == 31
    assert list(boundaries) == sorted(set(boundaries))
    counts = np.bincount(np.searchsorted(np.array(boundaries, np.float32), values))
    assert counts.min() > 300
    assert counts.max() < 325


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ()),
        ([np.nan, np.nan], ()),
        ([3.0, 3.0, np.nan], ()),
        ([0.0, 1.0, 1.0], (0.0,)),
        ([5.0, -1.0, 2.0, 2.0], (-1.0, 2.0)),
        ([0.0] * 97 + [1.0, 2.0, 3.0], (0.0, 1.0, 2.0)),
        ([0.0] * 97 + [1.0, 2.0, 3.0, 4.0], (0.0,)),  # more values than buckets: rare ones share one
    ],
)
def test_few_or_no_distinct_values(values: list[float], expected: tuple[float, ...]) -> None:
    assert quantile_boundaries(np.array(values, np.float32), 4) == expected


def test_vectors_are_centred_and_scaled_as_a_whole() -> None:
    values = np.random.default_rng(0).normal([1, -2, 0], [3, 1, 2], (50_000, 3)).astype(np.float32)
    scale = vector_scale(np.concatenate([values, np.full((9, 3), np.nan, np.float32)]))
    assert scale.mean == pytest.approx((1, -2, 0), abs=0.05)
    assert scale.deviation == pytest.approx(np.sqrt((9 + 1 + 4) / 3), rel=0.02)
    for nothing in (np.zeros((0, 3), np.float32), np.full((4, 3), np.nan, np.float32)):
        assert vector_scale(nothing) == vector_scale(np.zeros((5, 3), np.float32))


def test_number_labels_have_the_moments_of_their_labelled_targets(rows: SampleRows) -> None:
    spent = rows.number_labels["spent"]
    moments = learn_encodings(EVERY_KIND, rows).number_labels["spent"]
    assert (moments.mean, moments.deviation) == pytest.approx((np.nanmean(spent), np.nanstd(spent)), rel=1e-5)
    for values, expected in ((np.nan, Moments()), (7.0, Moments(7.0, 1.0))):
        same = replace(rows, number_labels={"spent": np.full_like(spent, values)})
        assert learn_encodings(EVERY_KIND, same).number_labels["spent"] == expected


def test_a_constant_and_an_empty_column_are_no_error() -> None:
    fields = (*LogSchema().fields, Field(name="price", place="item", kind="number"))
    fields += (Field(name="color", place="request", kind="category"), Field(name="age", place="user", kind="number"))
    log = LogSchema(fields=fields)
    rows = make_sample_rows(log, 1)
    rows.history["color"][:], rows.target["color"][:] = UNKNOWN, UNKNOWN
    rows.user["age"][:] = np.nan
    encodings = learn_encodings(log, rows)
    assert (encodings.codes["color"], encodings.boundaries["age"]) == ((), ())
