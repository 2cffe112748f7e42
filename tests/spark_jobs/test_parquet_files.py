"""Parquet and ORC files: every type that writers use is read without loss, or refused with the file and column."""

import gzip
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc
from spark_helpers import DAY, MIDNIGHT_MS, longreel, published, row, write_raw

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources import columnar_files, json_files
from longreel.spark_jobs.sources.base import name_damaged_file
from longreel.spark_jobs.sources.columnar_files import OPEN_BYTES, PARTS
from longreel.spark_jobs.sources.generic import GenericSource
from longreel.spark_jobs.sources.parquet_files import ParquetRows
from longreel.spark_jobs.sources.raw_columns import RawColumns

AT = datetime(2026, 3, 2, 12, 0, 0, 123456)
KEYS = {"user_id": ["a", "b"], "item_id": [1, 2], "time_ms": [MIDNIGHT_MS, MIDNIGHT_MS + 1]}
READ = RawColumns(expressions=("user_id", "item_id", "time_ms", "at"), ids=frozenset({"user_id", "item_id"}))
NS = pa.timestamp("ns")
UUIDS = [UUID(int=number) for number in (1, 2)]

# Of a column: its values in one file and in another, and how all of them are read.
COLUMNS: dict[str, tuple[pa.Array, pa.Array, list[Any]]] = {
    "unsigned": (pa.array([1, 2**64 - 1], pa.uint64()), pa.array([-1, 2]), [*map(Decimal, (1, 2**64 - 1, -1, 2))]),
    "unsigned_both": (pa.array([1, 2], pa.uint32()), pa.array([2**64 - 1, 1], pa.uint64()), [1, 2, 2**64 - 1, 1]),
    "decimal": (pa.array([Decimal("1.50")] * 2), pa.array([2**63 - 1] * 2), [Decimal("1.5")] * 2 + [2**63 - 1] * 2),
    "wide": (
        pa.array([Decimal(10**45)] * 2, pa.decimal256(50, 2)),
        pa.array([Decimal(1)] * 2, pa.decimal256(38, 0)),
        [f"{10**45}.00"] * 2 + ["1"] * 2,
    ),
    "number": (pa.array([2**53 + 1, 1]), pa.array([1.5, None]), ["9007199254740993", "1", "1.5", None]),
    "small": (pa.array([2**31 - 1, 1], pa.int32()), pa.array([1.5, float("nan")]), [2.0**31 - 1, 1, 1.5, None]),
    "half": (pa.array([1.5, None], pa.float16()), pa.array([0.25, 1]), [1.5, None, 0.25, 1]),
    "text": (pa.nulls(2), pa.array(["x", None]), [None, None, "x", None]),
    "flag": (pa.nulls(2), pa.array([True, False]), [None, None, True, False]),
    "texts": (pa.array([[None], None]), pa.array([["x"], []]), [[None], None, ["x"], []]),
    "nothing": (pa.nulls(2), pa.nulls(2), [None] * 4),
    "category": (pa.array(["x", None]).dictionary_encode(), pa.array(["x", "y"]), ["x", None, "x", "y"]),
    "code": (pa.array(["x", "y"], pa.large_string()), pa.array([1, 2]), ["x", "y", "1", "2"]),
    "bytes": (pa.array([b"x", b"y"], pa.binary(1)), pa.array(["x", "y"], pa.string_view()), ["x", "y", "x", "y"]),
    "counts": (pa.array([[1], None], pa.list_(pa.uint32())), pa.array([[2**40], []]), [[1], None, [2**40], []]),
    "pair": (
        pa.array([[1, 2]] * 2, pa.list_(pa.int8(), 2)),
        pa.array([[3]] * 2, pa.list_view(pa.int64())),
        [[1, 2]] * 2 + [[3]] * 2,
    ),
    "times": (pa.array([[AT], None], pa.list_(NS)), pa.array([[AT], []]), [[AT], None, [AT], []]),
    "inside": (
        pa.array([{"at": AT}, None], pa.struct([("at", NS)])),
        pa.array([{"at": None}] * 2),
        [(AT,), None, (None,), (None,)],
    ),
    "map": (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.uint16())), pa.nulls(2), [{"k": 1}, {}, None, None]),
    "uuid": (pa.array([u.bytes for u in UUIDS], pa.uuid()), pa.array(map(str, UUIDS)), [*map(str, UUIDS)] * 2),
    "day": (pa.array([date(2026, 3, 2)] * 2, pa.date64()), pa.nulls(2), [date(2026, 3, 2)] * 2 + [None] * 2),
    "early": (
        pa.array([-1, 1_999], NS),
        pa.nulls(2),
        [datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(1970, 1, 1, 0, 0, 0, 1), None, None],
    ),
    "clock": (
        pa.array([time(0, 0, 1)] * 2, pa.time32("s")),
        pa.array([timedelta(0, 2)] * 2, pa.duration("ms")),
        [1000, 1000, 2000, 2000],
    ),
    "unread": (pa.array([AT] * 2), pa.array([1, 2]), [str(AT)] * 2 + ["1", "2"]),
    "late": (
        pa.array([2**55, 1], pa.timestamp("ms")),
        pa.nulls(2),
        [None, datetime(1970, 1, 1, 0, 0, 0, 1000), None, None],
    ),
    "a`b": (pa.array([1, 2]), pa.array([3, 4]), [1, 2, 3, 4]),
    "a.b": (pa.array([1, 2]), pa.array([3, 4]), [1, 2, 3, 4]),
    "a": (pa.array([{"b": 5}] * 2), pa.array([{"b": 6}] * 2), [(5,), (5,), (6,), (6,)]),
    "_metadata": (pa.array([1, 2]), pa.array([3, 4]), [1, 2, 3, 4]),
    "_corrupt_record": (pa.array(["x", "y"]), pa.nulls(2), ["x", "y", None, None]),
    "_source_file": (pa.array(["x", "y"]), pa.nulls(2), ["x", "y", None, None]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a log day."""
    path = tmp_path / "raw" / f"date={DAY}"
    path.mkdir(parents=True)
    return path


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(KEYS | columns), path, **options)
    return path


def rows_of(spark: Any, folder: Path, columns: RawColumns = READ) -> list[dict[str, Any]]:
    """Raw rows with their file, in the order of files and times."""
    with name_damaged_file([]):
        rows = GenericSource(folder.parent, columns=columns).rows(spark, DAY).select("row.*", "source_file").collect()
    return sorted((row.asDict() for row in rows), key=lambda row: (row["source_file"], row["time_ms"]))


def test_types_that_differ_between_files_are_read_without_loss(spark: Any, folder: Path) -> None:
    write(folder / "a.parquet", {name: one for name, (one, _, _) in COLUMNS.items()})
    write(folder / "b.parquet", {name: other for name, (_, other, _) in COLUMNS.items()})
    rows = rows_of(spark, folder)
    assert {name: [row[name] for row in rows] for name in COLUMNS} == {
        name: want for name, (_, _, want) in COLUMNS.items()
    }
    frame = GenericSource(folder.parent, columns=READ).rows(spark, DAY)
    assert frame.groupBy("row").count().count() == 4


def test_seconds_in_32_bits_do_not_overflow(spark: Any, folder: Path) -> None:
    seconds = MIDNIGHT_MS // 1_000
    write(folder / "a.parquet", {"seconds": pa.array([seconds, None], pa.int32())})
    rows = GenericSource(folder.parent, columns=READ).rows(spark, DAY).selectExpr("row.seconds * 1000 AS ms").collect()
    assert [row["ms"] for row in rows] == [MIDNIGHT_MS, None]


def test_times_of_int96_are_instants(spark: Any, folder: Path) -> None:
    """As Spark and Hive write them; in lists and structs too, and beyond the nanoseconds of 64 bits."""
    lists = pa.array([[AT], None], pa.list_(pa.timestamp("us")))
    structs = pa.array([{"n": 1, "at": AT}, None], pa.struct([("n", pa.int64()), ("at", pa.timestamp("us"))]))
    columns = {"at": pa.array([AT, datetime(3000, 1, 1)], pa.timestamp("us")), "list": lists, "struct": structs}
    write(folder / "a.parquet", columns, use_deprecated_int96_timestamps=True)
    write(folder / "b.parquet", {"at": pa.array([AT, None], pa.timestamp("us", "Europe/Riga"))})
    schema = GenericSource(folder.parent, columns=READ).rows(spark, DAY).schema["row"].dataType
    assert schema["at"].dataType.simpleString() == "timestamp"
    rows = rows_of(spark, folder)
    assert [row["at"] for row in rows[:3]] == [AT, datetime(3000, 1, 1), AT]
    assert (rows[0]["list"], rows[0]["struct"]) == ([AT], (1, AT))


def test_any_encoding_and_any_name(spark: Any, folder: Path) -> None:
    values = {"x": [0.5, 1.5]}
    write(folder / "part-10:30.parquet", values, compression="brotli")
    write(
        folder / "hour=01" / "p[0]*?.parquet", values, use_dictionary=False, column_encoding={"x": "BYTE_STREAM_SPLIT"}
    )
    (folder / ".part-10:30.parquet.crc").write_bytes(b"crc\0stale")
    assert [(row["source_file"], row["x"]) for row in rows_of(spark, folder)] == [
        ("hour=01/p[0]*?.parquet", 0.5),
        ("hour=01/p[0]*?.parquet", 1.5),
        ("part-10:30.parquet", 0.5),
        ("part-10:30.parquet", 1.5),
    ]


def cut(path: Path, column: int) -> None:
    """Write zeros over a column's page."""
    at = pq.read_metadata(path).row_group(0).column(column).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[at : at + 12] = bytes(12)
    path.write_bytes(content)


def test_what_cannot_be_read_is_refused_with_file_and_column(spark: Any, folder: Path) -> None:
    path = folder / "a.parquet"
    write(path, {"at": pa.array([2**55, 1], pa.timestamp("ms"))})
    with pytest.raises(LongreelError, match=r"a\.parquet: column at of type timestamp\[ms\] has a value .* overflow"):
        rows_of(spark, folder)
    write(path, {"at": [1, 2]})
    cut(path, 3)
    with pytest.raises(LongreelError, match=r"a\.parquet: column at cannot be read: .*; fetch the file again"):
        rows_of(spark, folder)
    write(path, {"item_id": [1.0, float(2**53 + 2)]})
    with pytest.raises(LongreelError, match=r"a\.parquet: column item_id of type double has the id 9007199254740994.0"):
        rows_of(spark, folder)
    write(path, {"item_id": [1.0, float(2**53)], "at": [AT] * 2})
    assert len(rows_of(spark, folder)) == 2
    write(folder / "b.parquet", {"at": [1, 2]})
    with pytest.raises(
        LongreelError, match=r"column at is of types .*: bigint in b\.parquet, timestamp_ntz in a\.parq"
    ):
        rows_of(spark, folder)


def test_a_damaged_flat_log_is_refused_before_its_days_are_counted(spark: Any, make_home: Any, capsys: Any) -> None:
    home = make_home(log="log.parquet", source='day = "to_date(timestamp_millis(time_ms))"')
    cut(write(home.path / "log.parquet", {}), 2)
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "log.parquet: column time_ms cannot be read: " in line
    cut(write(home.path / "log.parquet", {}), 0)  # not read for the days
    assert longreel(home, "data check-arrival", "--date", str(DAY)) == 0


def test_the_largest_unsigned_id_is_an_id(spark: Any, make_home: Any) -> None:
    """2**64 - 1 is not -1, which means unknown, and equals the same id as text."""
    home = make_home()
    ids = {"a": pa.array([2**64 - 1, 7], pa.uint64()), "b": pa.array([7, 8]), "c": pa.array([str(2**64 - 1), "8"])}
    folder = write_raw(home, DAY, [row(item=1)])
    for name, values in ids.items():
        table = pa.Table.from_pylist([row(item=0, at=ord(name)), row(item=0, at=ord(name) + 1_000)])
        pq.write_table(table.set_column(1, "item_id", values), folder / f"{name}.parquet")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    items = [event["item_id"] for event in sorted(published(home, "events", DAY), key=lambda event: event["time_ms"])]
    largest = items[1]
    assert items == [1, largest, 7, largest, 7, 8, 8]
    assert largest not in (-1, 7)


def test_a_task_reads_many_small_files_or_a_part_of_a_large_one(folder: Path, monkeypatch: Any) -> None:
    paths = [write(folder / f"{number:03}.parquet", {}) for number in range(100)]
    parts = [pieces for (pieces,) in columnar_files._parts(paths, ParquetRows)]
    assert [path for pieces in parts for path, _ in pieces] == paths
    assert len(parts) <= PARTS + 2
    monkeypatch.setattr(columnar_files, "PART_BYTES", (1, OPEN_BYTES + 1))
    large = write(folder / "large.parquet", {}, row_group_size=1)
    assert columnar_files._parts([large], ParquetRows) == [([(large, (0,))],), ([(large, (1,))],)]


def test_orc_of_spark_and_of_pyarrow(spark: Any, folder: Path, tmp_path: Path) -> None:
    """Times without a zone, also those that Spark writes as numbers, text of a fixed length, and times before 1970."""
    early = datetime(1960, 3, 1, 12, 0, 0, 5)
    columns = {"at": pa.array([AT, early], NS), "there": pa.array([AT, early], pa.timestamp("ns", "UTC"))}
    orc.write_table(pa.table(KEYS | columns | {"a.b": [1, 2], "a": [{"b": 3}, None]}), folder / "a-10:30.orc")
    values = (
        f"timestamp_ntz'{AT}' at, timestamp_ntz'{AT}' plain, array(timestamp_ntz'{AT}') list, cast('x' as char(3)) code"
    )
    written = spark.sql(f"SELECT 'c' user_id, 3 item_id, 5L time_ms, {values}")
    written.coalesce(1).write.orc(str(tmp_path / "written"))
    next((tmp_path / "written").glob("*.orc")).rename(folder / "b.orc")
    (folder / ".b.orc.crc").write_bytes(b"crc\0stale")
    first, second, third = rows_of(spark, folder)
    assert (first["at"], second["at"], second["there"], third["at"]) == (AT, early, early, AT)
    assert (first["a.b"], first["a"], second["a"]) == (1, (3,), None)
    assert (third["plain"], third["list"], third["code"].strip()) == (AT, [AT], "x")


def test_json_lines_of_any_name_and_ids_of_any_length(spark: Any, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(json_files, "PART_BYTES", 40)
    lines = [f'{{"user_id": "u{number}", "item_id": {2**60 + number}, "time_ms": {number}}}' for number in range(9)]
    (folder / "part-10:30.jsonl").write_text("\r\n".join(lines) + "\n\n", newline="")
    (folder / ".part-10:30.jsonl.crc").write_bytes(b"crc\0stale")
    packed = gzip.compress(b'{"user_id": "v", "item_id": 1.5, "time_ms": 9, "_corrupt_record": "mine", "a`b": 1}\n')
    (folder / "zeros[1].json.gz").write_bytes(packed + bytes(512))
    rows = rows_of(spark, folder)
    assert [row["item_id"] for row in rows] == [*(str(2**60 + number) for number in range(9)), "1.5"]
    assert (rows[-1]["_corrupt_record"], rows[-1]["a`b"], rows[-1]["source_file"]) == ("mine", 1, "zeros[1].json.gz")
    (folder / "bad.json").write_bytes('{"user_id": "José", "item_id": 1, "time_ms": 1}\n[{}, {}]\n'.encode("latin-1"))
    unreadable = GenericSource(folder.parent, columns=READ).rows(spark, DAY).where("unreadable IS NOT NULL").collect()
    assert {row["unreadable"]: row["row"]["_longreel_text"][:20] for row in unreadable} == {
        "not_utf8": '{"user_id": "Jos\\xe9',
        "malformed_row": "[{}, {}]",
    }


def test_json_files_may_spell_a_column_in_another_case(spark: Any, folder: Path) -> None:
    for number, name in enumerate(("At", "AT", "At")):
        (folder / f"{number}.jsonl").write_text(f'{{"user_id": "u", "item_id": 1, "time_ms": 5, "{name}": {number}}}\n')
    rows = [{name.lower(): value for name, value in row.items()} for row in rows_of(spark, folder)]
    assert [row["at"] for row in rows] == [0, 1, 2]
    with (folder / "1.jsonl").open("a") as stream:
        stream.write('{"user_id": "u", "item_id": 1, "time_ms": 5, "aT": 3}\n')
    with pytest.raises(LongreelError, match=r"1\.jsonl has more than one column at; rename all but one"):
        rows_of(spark, folder)
