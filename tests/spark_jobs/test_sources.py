"""Sources: raw columns keep their names and types, whatever the format; what would lose rows is refused by name."""

import gzip
import json
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from pyarrow import orc
from spark_helpers import DAY

from longreel.contracts.config import parse_config
from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import TEXT
from longreel.spark_jobs.sources.generic import GenericSource
from longreel.spark_jobs.sources.raw_columns import RawColumns

TABLE = pa.table({"uid": ["a", "b"], "sku": [1, 2], "shown_at": [10, 20], "price": [1.5, None]})
CONFIG = """
tasks = ["click"]
[source]
kind = "generic"
user_id = "uid"
item_id = "coalesce(sku, code)"
time_ms = "shown"
[source.derived]
shown = "shown_at + 0"
[fields.item]
price = {kind = "number", optional = true}
tags = {kind = "multi", from = "split(tag_text, ',')", size = 4, optional = true}
[actions]
click = "hour > 3"
"""
READ = RawColumns.of(parse_config(CONFIG))


def write_json(table: pa.Table, path: Path) -> None:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in table.to_pylist())


def write_csv(table: pa.Table, path: Path) -> None:
    with pa.output_stream(path, compression="gzip" if path.suffix == ".gz" else None) as stream:
        pacsv.write_csv(table, stream)


WRITERS: dict[str, Callable[[pa.Table, Path], Any]] = {
    ".parquet": pq.write_table,
    ".orc": orc.write_table,
    ".json": write_json,
    ".jsonl": write_json,
    ".ndjson": write_json,
    ".jsonl.gz": write_json,
    ".csv": write_csv,
    ".csv.gz": write_csv,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a log day."""
    path = tmp_path / "raw" / f"date={DAY}"
    path.mkdir(parents=True)
    return path


def write(table: pa.Table, path: Path) -> Path:
    """A file in the format of its name."""
    path.parent.mkdir(exist_ok=True)
    WRITERS[path.name.removeprefix(path.name.partition(".")[0])](table, path)
    return path


def source_of(folder: Path, columns: RawColumns = READ) -> GenericSource:
    return GenericSource(folder.parent, columns=columns)


def rows_of(spark: Any, source: Any, day: date = DAY) -> list[dict[str, Any]]:
    """Raw rows with their file and why they are unreadable."""
    rows = source.rows(spark, day).select("row.*", "source_file", "unreadable").collect()
    return sorted((row.asDict() for row in rows), key=str)


def types_of(spark: Any, source: Any, day: date = DAY) -> dict[str, str]:
    row = source.rows(spark, day).schema["row"].dataType
    return {field.name: field.dataType.simpleString() for field in row}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows(spark: Any, folder: Path, suffix: str) -> None:
    write(TABLE, folder / f"part[0]{suffix}")
    source = source_of(folder)
    is_text = suffix.startswith(".csv")
    number = "string" if is_text else "bigint"
    price = "string" if is_text else "double"
    kinds = {"uid": "string", "sku": number, "shown_at": number, "price": price}
    assert {name: kind for name, kind in types_of(spark, source).items() if name != TEXT} == kinds
    first, second = rows_of(spark, source)
    assert (first["uid"], int(first["sku"]), int(first["shown_at"]), float(first["price"])) == ("a", 1, 10, 1.5)
    assert (second["uid"], second["price"], second["unreadable"]) == ("b", None, None)
    assert first["source_file"] == f"part[0]{suffix}"
    assert source.input_bytes(DAY) == (folder / f"part[0]{suffix}").stat().st_size


def test_avro_is_read_or_the_package_is_named(spark: Any, folder: Path) -> None:
    (folder / "part-0.avro").write_bytes(b"Obj\x01")
    with pytest.raises(LongreelError, match=r"part-0\.avro: .* org\.apache\.spark:spark-avro_2\.13:4\.\d+\.\d+"):
        source_of(folder).rows(spark, DAY)


def test_hour_and_minute_folders_are_part_of_their_day(spark: Any, folder: Path) -> None:
    write(TABLE.slice(0, 1), folder / "hour=01" / "part+0.parquet")
    (folder / "hour=02").mkdir()
    write(TABLE.slice(1, 1), folder / "hour=02" / "minute=05" / "part 0.parquet")
    (folder / "hour=01" / "_SUCCESS").write_text("")
    (folder / "hour=03").mkdir()
    source = source_of(folder)
    assert [(row["uid"], row["source_file"]) for row in rows_of(spark, source)] == [
        ("a", "hour=01/part+0.parquet"),
        ("b", "hour=02/minute=05/part 0.parquet"),
    ]
    assert "hour" not in types_of(spark, source)
    digest = source.digest(DAY)
    write(TABLE, folder / "hour=03" / "late.csv")
    assert source.digest(DAY) != digest
    (folder / "hour=03" / "region=eu").mkdir()
    with pytest.raises(LongreelError, match=r"hour=03 holds region=eu; expected .* hour=HH folders"):
        source.files(DAY)


@pytest.mark.parametrize("name", ["part-2.CSV", "part-2.csv.zst", "part-2.tsv", "late.json.bz2"])
def test_files_of_rows_in_another_format_are_refused(folder: Path, name: str) -> None:
    write(TABLE, folder / "part-0.parquet")
    (folder / name).write_text("")
    with pytest.raises(LongreelError, match=f"holds {name}; expected files .parquet, .orc, .avro, .json"):
        source_of(folder).files(DAY)


def test_columns_are_matched_without_case_and_types_that_differ_become_text(spark: Any, folder: Path) -> None:
    write(TABLE, folder / "a.parquet")
    write(pa.table({"UID": ["c"], "Sku": pa.array([3], pa.int32()), "SHOWN_AT": [1.5]}), folder / "b.parquet")
    write(pa.table({"Uid": ["d"], "sku": [4], "Shown_At": [40]}), folder / "c.orc")
    source = source_of(folder)
    assert types_of(spark, source) == {"uid": "string", "sku": "bigint", "shown_at": "string", "price": "double"}
    assert [(row["uid"], row["sku"], row["shown_at"]) for row in rows_of(spark, source)] == [
        ("a", 1, "10"),
        ("b", 2, "20"),
        ("c", 3, "1.5"),
        ("d", 4, "40"),
    ]
    write(pa.table({"uid": ["e"], "sku": [5], "shown_at": [50]}), folder / "d.csv")
    assert types_of(spark, source)["sku"] == "string"
    assert [row["sku"] for row in rows_of(spark, source)] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("suffix", [".parquet", ".orc", ".jsonl", ".csv"])
def test_two_columns_that_differ_only_in_case_are_refused(spark: Any, folder: Path, suffix: str) -> None:
    names = ["uid", "sku", "shown_at", "Sku"]
    write(TABLE.rename_columns(names), folder / f"part{suffix}")
    with pytest.raises(LongreelError, match=rf"part\{suffix} has more than one column sku; rename all but one"):
        source_of(folder).rows(spark, DAY)


def test_columns_that_nothing_reads_never_fail_a_day(spark: Any, folder: Path) -> None:
    """Types that Spark lacks, that differ between files, and a NaN or nanoseconds in a column that is read."""
    more = {
        "half": pa.array([1, 2], pa.float16()),
        "long": pa.array([1, 2], pa.decimal256(50, 2)),
        "place": pa.array([{"at": 1}, None]),
        "lasted": pa.array([1, 2], pa.duration("ms")),
        "counts": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    }
    table = TABLE
    for name, values in more.items():
        table = table.append_column(name, values)
    write(table, folder / "a.parquet")
    write(TABLE.append_column("place", [["Riga", None]]).append_column("lasted", [["x", "y"]]), folder / "b.parquet")
    kinds = types_of(spark, source_of(folder))
    assert (kinds["place"], kinds["lasted"], kinds["counts"]) == ("string", "string", "map<string,bigint>")
    assert (kinds["half"], kinds["long"]) == ("float", "string")
    rows = source_of(folder).rows(spark, DAY)
    assert rows.groupBy("row").count().count() == 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            pa.array([[1], [2]]),
            r"column price is of types that are not one: array<bigint> in a\.parquet, double in b\.parquet; write",
        ),
    ],
)
def test_a_column_that_is_read_must_be_readable(spark: Any, folder: Path, values: pa.Array, text: str) -> None:
    write(TABLE.set_column(3, "price", values), folder / "a.parquet")
    write(TABLE, folder / "b.parquet")
    with pytest.raises(LongreelError, match=text):
        source_of(folder).rows(spark, DAY)


def test_missing_numbers_and_times_of_pandas_are_read_as_such(spark: Any, folder: Path) -> None:
    at = datetime(2026, 3, 2, 12, 0, 0, 5)
    times = pa.array([at, None], pa.timestamp("ns"))
    table = TABLE.set_column(3, "price", pa.array([1.0, float("nan")]))
    table = table.append_column("naive", times).append_column("utc", times.cast(pa.timestamp("ns", "UTC")))
    table = table.append_column("empty", pa.nulls(2))
    write(table, folder / "a.parquet")
    source = source_of(folder)
    kinds = types_of(spark, source)
    assert (kinds["naive"], kinds["utc"], kinds["empty"]) == ("timestamp_ntz", "timestamp", "string")
    first, second = rows_of(spark, source)
    assert first["naive"] == at
    assert (second["price"], second["naive"], second["empty"]) == (None, None, None)


@pytest.mark.parametrize("suffix", [".parquet", ".orc", ".csv", ".jsonl"])
def test_a_file_without_a_column_for_user_item_or_time_is_named(spark: Any, folder: Path, suffix: str) -> None:
    """Of an expression over several columns, one will do; a derived column stands for what it reads."""
    write(TABLE.rename_columns(["uid", "code", "shown_at", "price"]), folder / f"a{suffix}")
    source = source_of(folder)
    assert len(rows_of(spark, source)) == 2
    write(TABLE.drop_columns(["sku"]), folder / f"b{suffix}")
    if suffix == ".jsonl":  # a line, not a file, has columns
        assert len(rows_of(spark, source)) == 4
        (folder / "a.jsonl").unlink()
    with pytest.raises(LongreelError, match=rf"b\{suffix} has no column code or sku; its columns are "):
        source.rows(spark, DAY)
    write(TABLE.rename_columns(["uid", "sku", "at", "price"]), folder / f"b{suffix}")
    with pytest.raises(LongreelError, match=rf"b\{suffix} has no column shown_at"):
        source.rows(spark, DAY)


def test_a_json_line_that_is_no_object_is_unreadable(spark: Any, folder: Path) -> None:
    write_json(TABLE, folder / "a.jsonl")
    (folder / "b.jsonl").write_text('{"uid": "c", "sku": 3, "shown_at": 30, "tags": ["x"]}\n{"uid": "d", \n\n')
    by_reason = {row["unreadable"]: row for row in rows_of(spark, source_of(folder))}
    assert by_reason["malformed_row"][TEXT] == '{"uid": "d", '
    assert by_reason["malformed_row"]["source_file"] == "b.jsonl"
    assert by_reason[None]["uid"] in ("a", "b", "c")
    assert types_of(spark, source_of(folder))["tags"] == "array<string>"
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text("not an object\n")
    with pytest.raises(LongreelError, match=r"a\.jsonl \.\. b\.jsonl in .*: no line is a JSON object"):
        source_of(folder).rows(spark, DAY)


def test_a_day_without_rows_has_no_columns(spark: Any, folder: Path) -> None:
    source = source_of(folder)
    assert source.rows(spark, DAY).count() == 0
    (folder / "a.jsonl").write_text("")
    assert rows_of(spark, source) == []


def test_a_user_table_keeps_its_names_and_types(spark: Any, folder: Path) -> None:
    raw = folder.parent
    assert source_of(folder).users.read(spark, DAY) is None
    table = pa.table({"uid": ["a", "b"], "Age": [30, None], "langs": [["de"], []]})
    pq.write_table(table, raw / "users.parquet")
    users = source_of(folder).users.read(spark, DAY)
    assert users is not None
    assert users.dtypes == [("uid", "string"), ("Age", "bigint"), ("langs", "array<string>")]
    assert sorted(row["uid"] for row in users.collect()) == ["a", "b"]
    (raw / "users.csv").write_text("uid,city\n")
    with pytest.raises(LongreelError, match=r"expected one table users in .*, found users\.csv, users\.parquet"):
        source_of(folder).files(DAY)
    (raw / "users.parquet").unlink()
    (raw / "users.csv").write_text("uid,city\na,Riga\nb,Riga,2\n")
    users = source_of(folder).users.read(spark, DAY)
    assert users is not None
    assert [row.asDict() for row in users.select("city").collect()] == [
        {"city": "Riga"}
    ]  # also where columns are left out
    (raw / "users.csv").write_text("user,city\na,Riga\n")
    with pytest.raises(LongreelError, match=r"users\.csv has no column uid; its columns are user, city"):
        source_of(folder).users.read(spark, DAY)


def test_the_digest_is_of_names_and_bytes(folder: Path) -> None:
    path = write(TABLE, folder / "a.parquet")
    source = source_of(folder)
    first = source.digest(DAY)
    path.touch()
    assert source_of(folder).digest(DAY) == first
    path.rename(folder / "b.parquet")
    assert source.digest(DAY) != first
    (folder / "b.parquet").rename(path)
    write(TABLE.slice(1), path)
    assert source.digest(DAY) != first


def test_which_columns_are_read_follows_from_the_configuration() -> None:
    """A word of SQL that names a column counts; the fields of a catalog of no day do not."""
    names = ("UID", "sku", "code", "shown_at", "price", "tag_text", "hour", "request_id")
    assert all(READ.reads(name) for name in names)
    assert not any(READ.reads(name) for name in ("place", "surface", "tags_text", "item_id"))
    assert READ.keys == (frozenset({"uid"}), frozenset({"sku", "code"}), frozenset({"shown_at"}))
    everything = RawColumns()
    assert everything.reads("place")
    dated = parse_config('[source]\nkind = "generic"\ntime_ms = "timestamp"\nlog = "log.csv"\nday = "to_date(dt)"')
    assert RawColumns.of(dated).keys[2] == {"timestamp"}
    assert RawColumns.of(dated).reads("dt")
