"""An added column has its default in older tables, is ignored by older code, and rewrites nothing."""

import json
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longreel.contracts import schemas
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import DATASETS, READABLE_SINCE, AddedColumn, added_column, added_column_of
from longreel.lake.manifest import MANIFEST, Manifest
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.table import Lake

OLD_DAY = date(2026, 1, 5)
NEW_DAY = OLD_DAY + timedelta(days=1)
OLD = DATASETS["users"]


def grow(patch: pytest.MonkeyPatch, version: int = 2) -> pa.Schema:
    """The users dataset with three columns that came with schema version 2."""
    patch.setattr(schemas, "SCHEMA_VERSION", version)
    grown = pa.schema(
        [
            *OLD,
            added_column("network", pa.int32(), AddedColumn(since=2, default=-1)),
            added_column("city", pa.string(), AddedColumn(since=2, default=None)),
            added_column(
                "feature_weight", pa.list_(pa.int32()), AddedColumn(since=2, default=1, parallel_to="user_features")
            ),
        ]
    )
    patch.setitem(DATASETS, "users", grown)
    return grown


def publish(lake: Lake, day: date, rows: list[dict[str, object]]) -> Manifest:
    writer = lake.writer("users", day)
    pq.write_table(pa.Table.from_pylist(rows, schema=DATASETS["users"]), f"{writer.path}/part-0.parquet")
    return writer.commit(digest=f"{day}", inputs={})


OLD_ROWS: list[dict[str, object]] = [{"user_id": 1, "user_features": [5, 6]}, {"user_id": 2, "user_features": []}]
DEFAULTS: list[dict[str, object]] = [
    {"network": -1, "city": None, "feature_weight": [1, 1]},
    {"network": -1, "city": None, "feature_weight": []},
]
NEW_ROWS: list[dict[str, object]] = [
    {"user_id": 3, "user_features": [7], "network": 4, "city": "Riga", "feature_weight": [9]}
]


def test_older_partitions_have_the_default_and_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    before = publish(lake, OLD_DAY, OLD_ROWS)
    stored = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    grow(monkeypatch)
    after = publish(lake, NEW_DAY, NEW_ROWS)
    assert (before.schema_version, after.schema_version, after.readable_since) == (1, 2, 1)
    old, new = (lake.read(lake.require("users", day)) for day in (OLD_DAY, NEW_DAY))
    assert old.to_pylist() == [row | more for row, more in zip(OLD_ROWS, DEFAULTS, strict=True)]
    assert new.to_pylist() == NEW_ROWS
    assert pa.concat_tables([old, new]).num_rows == 3
    assert lake.read(before, ["feature_weight"]).to_pylist() == [{"feature_weight": [1, 1]}, {"feature_weight": []}]
    assert lake.require("users", OLD_DAY) == before
    assert {path: path.read_bytes() for path in stored} == stored


def test_older_code_ignores_columns_and_fields_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    with monkeypatch.context() as patch:
        grow(patch)
        publish(lake, NEW_DAY, NEW_ROWS)
    path = tmp_path / "users" / f"date={NEW_DAY}" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"region": "a field of a later manifest"}))
    assert lake.read(lake.require("users", NEW_DAY)).to_pylist() == [{"user_id": 3, "user_features": [7]}]


def test_a_change_other_than_an_added_column_separates_old_from_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path)
    old = publish(lake, OLD_DAY, OLD_ROWS)
    with monkeypatch.context() as patch:
        grow(patch, version=3)
        patch.setitem(READABLE_SINCE, "users", 3)
        assert lake.require("users", OLD_DAY) == old  # so its step can read the manifest and replace the partition
        with pytest.raises(LongreelError, match=r"users of 2026-01-05 has schema version 1, but users changed in ver"):
            lake.read(old)
        publish(lake, NEW_DAY, NEW_ROWS)
        publish(lake, OLD_DAY, NEW_ROWS)
        assert lake.read(lake.require("users", NEW_DAY)).num_rows == 1
    with pytest.raises(LongreelError, match=r"written by schema version 3 and needs version 3 .* has 1; upgrade"):
        lake.require("users", NEW_DAY)


def test_a_manifest_without_readable_since_needs_its_schema_version(tmp_path: Path) -> None:
    manifest = publish(Lake(tmp_path), OLD_DAY, OLD_ROWS)
    values = json.loads(manifest.to_json())
    values.pop("readable_since")
    assert Manifest.from_json(json.dumps(values)) == manifest
    with pytest.raises(LongreelError, match="upgrade longreel"):
        Manifest.from_json(json.dumps(values | {"schema_version": 2}))


def test_a_missing_column_without_a_default_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = grow(monkeypatch)
    table = pa.table({"user_id": pa.array([1])})
    with pytest.raises(LongreelError, match="the table: column user_features is missing; got user_id"):
        to_schema(table, grown, "the table")
    with pytest.raises(LongreelError, match="the table: "):
        to_schema(pa.table({"user_id": ["x"], "user_features": [[1]]}), grown, "the table")
    assert stored_columns(grown, ["user_features", "extra"]) == ["user_features"]
    assert stored_columns(pa.schema([grown.field("feature_weight")]), ["user_features"]) == ["user_features"]


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        (pa.int32(), AddedColumn(since=3, default=0)),  # SCHEMA_VERSION was not raised
        (pa.int32(), AddedColumn(since=1, default=0)),
        (pa.list_(pa.int32()), AddedColumn(since=2, default=0)),
        (pa.list_(pa.int32()), AddedColumn(since=2, default=None, parallel_to="user_features")),
        (pa.int32(), AddedColumn(since=2, default=0, parallel_to="user_features")),
        (pa.int32(), AddedColumn(since=2, default="none")),
    ],
)
def test_an_impossible_declaration_is_an_error(
    monkeypatch: pytest.MonkeyPatch, kind: pa.DataType, declared: AddedColumn
) -> None:
    monkeypatch.setattr(schemas, "SCHEMA_VERSION", 2)
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        added_column("x", kind, declared)
    assert added_column_of(added_column("x", pa.int32(), AddedColumn(since=2, default=0))) == AddedColumn(
        since=2, default=0
    )
    assert added_column_of(OLD.field("user_id")) is None
