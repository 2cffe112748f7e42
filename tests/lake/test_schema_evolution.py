"""An added column has its default in older tables, is ignored by older code, and rewrites nothing."""

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_helpers import stored_values

from longreel.contracts import schemas
from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import Field, LogSchema
from longreel.contracts.schemas import (
    READABLE_SINCE,
    SCHEMA_VERSION,
    AddedColumn,
    added_column,
    added_column_of,
    dataset_schemas,
)
from longreel.lake.lineage import stale_partitions
from longreel.lake.manifest import MANIFEST, Manifest, with_checksum
from longreel.lake.schema_evolution import stored_columns, to_schema
from longreel.lake.table import Lake
from longreel.spark_jobs.days import is_unchanged

OLD_DAY = date(2026, 1, 5)
NEW_DAY = OLD_DAY + timedelta(days=1)
OLD = LogSchema()
GROWN = LogSchema(
    fields=(
        *OLD.fields,
        Field(name="price", place="item", kind="number", optional=True),
        Field(name="tags", place="item", kind="multi", size=2, optional=True),
        Field(name="region", place="user", kind="category", optional=True),
        Field(name="interests", place="user", kind="multi", size=2, optional=True),
    )
)
NETWORK = added_column("network", pa.string(), AddedColumn(since=SCHEMA_VERSION, default=None))


def publish(lake: Lake, day: date, rows: list[dict[str, object]]) -> Manifest:
    writer = lake.writer("users", day)
    pq.write_table(pa.Table.from_pylist(rows, schema=lake.schemas.users), f"{writer.path}/part-0.parquet")
    return writer.commit(digest=f"{day}", inputs={})


OLD_ROWS: list[dict[str, object]] = [{"user_id": 1}, {"user_id": 2}]
UNKNOWN: dict[str, object] = {"user_region": -1, "user_interests": [-1, -1]}
NEW_ROWS: list[dict[str, object]] = [{"user_id": 3, "user_region": 4, "user_interests": [9, -1]}]


def test_older_partitions_read_as_unknown_and_stay_as_they_are(tmp_path: Path) -> None:
    before = publish(Lake(tmp_path, OLD), OLD_DAY, OLD_ROWS)
    stored = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    lake = Lake(tmp_path, GROWN)
    publish(lake, NEW_DAY, NEW_ROWS)
    old, new = (lake.read(lake.require("users", day)) for day in (OLD_DAY, NEW_DAY))
    assert old.to_pylist() == [row | UNKNOWN for row in OLD_ROWS]
    assert new.to_pylist() == NEW_ROWS
    assert pa.concat_tables([old, new]).num_rows == 3
    assert lake.read(before, ["user_interests"]).to_pylist() == [{"user_interests": [-1, -1]}] * 2
    assert lake.require("users", OLD_DAY) == before
    assert {path: path.read_bytes() for path in stored} == stored


def test_lists_of_a_sample_row_get_elements_for_each_event_and_target() -> None:
    old, grown = dataset_schemas(OLD).samples, dataset_schemas(GROWN).samples
    lists: dict[str, object] = {name: [0, 0] for name in old.names if name != "user_id"}
    rows = [lists | {"user_id": 1, "request_id": ["r", "s"]}, {name: [] for name in old.names} | {"user_id": 2}]
    one, two = to_schema(pa.Table.from_pylist(rows, schema=old), grown, "samples").to_pylist()
    assert one["target_tags"] == one["history_tags"] == [-1] * 4
    assert str(one["target_price"]) == "[nan, nan]"
    assert (two["target_tags"], two["history_price"], two["user_interests"]) == ([], [], [-1, -1])


def test_columns_and_manifest_fields_that_are_not_known_are_ignored(tmp_path: Path) -> None:
    publish(Lake(tmp_path, GROWN), NEW_DAY, NEW_ROWS)
    lake = Lake(tmp_path, OLD)
    path = tmp_path / "users" / f"date={NEW_DAY}" / MANIFEST
    path.write_text(with_checksum(stored_values(path.read_text()) | {"region": "a field of a later manifest"}))
    assert lake.read(lake.require("users", NEW_DAY)).to_pylist() == [{"user_id": 3}]


def test_a_change_other_than_an_added_column_separates_old_from_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, version = Lake(tmp_path), SCHEMA_VERSION + 1
    old = publish(lake, OLD_DAY, OLD_ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(schemas, "SCHEMA_VERSION", version)
        patch.setitem(READABLE_SINCE, "users", version)
        assert lake.require("users", OLD_DAY) == old  # so its step can read the manifest and replace the partition
        with pytest.raises(LongreelError, match=r"users of 2026-01-05 has schema version \d, but users changed in ver"):
            lake.read(old)
        assert not is_unchanged(old, old.inputs, force=False)
        (stale,) = stale_partitions(lake, Config(), ("users",))
        assert stale.reasons == (f"it has schema version {version - 1}, which is read no more",)
        publish(lake, NEW_DAY, OLD_ROWS)
        publish(lake, OLD_DAY, OLD_ROWS)
        assert lake.read(lake.require("users", NEW_DAY)).num_rows == 2
    expected = rf"written by schema version {version} and needs version {version} .* has {SCHEMA_VERSION}; upgrade"
    with pytest.raises(LongreelError, match=expected):
        lake.require("users", NEW_DAY)


def test_a_manifest_without_readable_since_needs_its_schema_version(tmp_path: Path) -> None:
    manifest = publish(Lake(tmp_path), OLD_DAY, OLD_ROWS)
    values = stored_values(manifest.to_json())
    values.pop("readable_since")
    assert Manifest.from_json(with_checksum(values)).files == manifest.files
    with pytest.raises(LongreelError, match="upgrade longreel"):
        Manifest.from_json(with_checksum(values | {"schema_version": SCHEMA_VERSION + 1}))


def test_a_column_that_came_with_a_schema_version_may_be_null() -> None:
    grown = pa.schema([*dataset_schemas(OLD).users, NETWORK])
    assert to_schema(pa.table({"user_id": pa.array([1])}), grown, "users").to_pylist() == [
        {"user_id": 1, "network": None}
    ]


def test_a_missing_column_without_a_default_is_named() -> None:
    grown = dataset_schemas(GROWN).users
    with pytest.raises(LongreelError, match="the table: column user_id is missing; got user_region"):
        to_schema(pa.table({"user_region": pa.array([1])}), grown, "the table")
    with pytest.raises(LongreelError, match="the table: "):
        to_schema(pa.table({"user_id": ["x"]}), grown, "the table")
    assert stored_columns(grown, ["user_id", "extra"]) == ["user_id"]
    history = dataset_schemas(GROWN).history
    assert stored_columns(pa.schema([history.field("history_tags")]), ["history_time_ms"]) == ["history_time_ms"]


@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        (pa.int32(), AddedColumn(since=SCHEMA_VERSION + 1, default=0)),  # SCHEMA_VERSION was not raised
        (pa.int32(), AddedColumn(since=1, default=0)),
        (pa.list_(pa.int32()), AddedColumn(since=2, default=0)),
        (pa.list_(pa.int32()), AddedColumn(since=2, default=None, parallel_to="history_time_ms")),
        (pa.int32(), AddedColumn(since=2, default=0, parallel_to="history_time_ms")),
        (pa.int32(), AddedColumn(since=2, default="none")),
    ],
)
def test_an_impossible_declaration_is_an_error(kind: pa.DataType, declared: AddedColumn) -> None:
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        added_column("x", kind, declared)
    assert added_column_of(added_column("x", pa.int32(), AddedColumn(since=2, default=0))) == AddedColumn(
        since=2, default=0
    )
    assert added_column_of(dataset_schemas(OLD).users.field("user_id")) is None
