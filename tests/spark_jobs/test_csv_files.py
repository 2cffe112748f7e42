"""CSV files: RFC 4180, rows that do not fit, names, bytes and line ends of any kind."""

import csv
import gzip
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spark_helpers import DAY, MIDNIGHT_MS, longreel, published

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources import csv_records
from longreel.spark_jobs.sources.base import TEXT, UNREADABLE
from longreel.spark_jobs.sources.csv_records import batches_of, header_of, parts_of
from longreel.spark_jobs.sources.generic import GenericSource

CLICKS = """
[actions]
click = "click"
[labels]
click = "click"
like = "click"
"""
HEADER = "user_id,item_id,time_ms,click,note\n"
NOTE = (*"ab, \n\r\"';é", '","', "\r\n", '""', "\u2028", "\x00")
Rows = tuple[list[dict[str, str | None]], list[tuple[str, str]]]


def write(path: Path, data: str | bytes) -> Path:
    """A file of these bytes, gzipped if its name says so."""
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path) -> Rows:
    """The good rows of a file, and the others' reasons and texts."""
    good, bad = [], []
    for part in parts_of(path):
        for row in (row for batch in batches_of(part) for row in batch.to_pylist()):
            if row[UNREADABLE]:
                bad.append((row[UNREADABLE], row[TEXT]))
            else:
                good.append({name: row[name] for name in part.names})
    return good, bad


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few bytes and parts of several, so that every cut falls everywhere."""
    monkeypatch.setattr(csv_records, "CHUNK_BYTES", 7)
    monkeypatch.setattr(csv_records, "PART_BYTES", 40)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a,b\n1,2", [("1", "2")]),
        ("a,b\r\n1,2\r\n", [("1", "2")]),
        ("a,b\r\r\n1,2\r\r\n", [("1", "2")]),  # text mode on Windows
        ("\ufeffa,b\n1,2\n", [("1", "2")]),
        ("a,b\n\n1,2\n\r\n", [("1", "2")]),  # lines without a character are no rows
        ("a,b\n", []),
        ("a,b", []),
        ('a,b\n"",\n', [("", None)]),  # an empty cell is null, a quoted one is empty text
        ("a,b\n 1 ,\t2\n", [(" 1 ", "\t2")]),
        ('a,b\n1,5" disk\n', [("1", '5" disk')]),
        ('a,b\n1, "x"\n', [("1", ' "x"')]),
        ("a,b\n1,\x00\n", [("1", "\x00")]),
        ('a,b\n"x\ny","say ""hi"", then"\n', [("x\ny", 'say "hi", then')]),
        ('a,b\n"\r\n2,3",4\n', [("\r\n2,3", "4")]),
        ("a\n1\n\n2\n", [("1",), ("2",)]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_what_a_cell_is(tmp_path: Path, small_chunks: None, suffix: str, text: str, values: list[Any]) -> None:
    good, bad = read(write(tmp_path / f"log{suffix}", text))
    assert [tuple(row.values()) for row in good] == values
    assert bad == []


def test_python_writes_what_is_read(tmp_path: Path, small_chunks: None) -> None:
    """Any text, in files cut at every place; a row with a cell too many or too few is given back as it is."""
    generator = random.Random(7)
    for number in range(300):
        names = [f"c{column}" for column in range(generator.randrange(2, 5))]
        rows, good, bad = io.StringIO(newline=""), [], []
        end = generator.choice(["\n", "\r\n"])
        writer = csv.writer(rows, lineterminator=end, quoting=generator.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer.writerow(names)
        for _ in range(generator.randrange(6)):
            width = len(names) + generator.choice([0, 0, 0, -1, 1])
            cells = ["".join(generator.choices(NOTE, k=generator.randrange(6))).rstrip("\r") for _ in range(width)]
            before = rows.tell()
            writer.writerow(cells)
            text = rows.getvalue()[before:].removesuffix(end)
            if width == len(names) and "\r" not in re.sub('"[^"]*"', "", text):
                good.append(cells)
            elif text:  # Python quotes no \r where lines end with \n
                bad.append(("malformed_row", text))
        path = write(tmp_path / f"{number}.csv{generator.choice(['', '.gz'])}", rows.getvalue())
        read_good, read_bad = read(path)
        assert [[value or "" for value in row.values()] for row in read_good] == good
        assert sorted(read_bad) == sorted(bad)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('a,b\n1,"x\n2,y\n3,z\n', 2, "a value's opening quote has no closing quote"),
        ('a,b\n1,"x\ny"\n2,"say "hi""\n', 4, "a value goes on after its closing quote"),
        ('a,b\n1,"x\n2,"y"\n', 2, "a value goes on after its closing quote"),
        ('a,"b\n1,2\n', 1, "a value's opening quote has no closing quote"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_quotes_that_do_not_balance_swallow_no_rows(
    tmp_path: Path, small_chunks: None, suffix: str, text: str, line: int, reason: str
) -> None:
    path = write(tmp_path / f"log{suffix}", text)
    with pytest.raises(LongreelError, match=rf"log\{suffix}, line {line}: {reason}; write the file again, with each"):
        read(path)


def test_a_row_may_be_long_but_not_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "CHUNK_BYTES", 1_000)
    long = "x" * 50_000
    assert read(write(tmp_path / "a.csv", f'a,b\n1,"{long}\n"\n'))[0] == [{"a": "1", "b": f"{long}\n"}]
    monkeypatch.setattr(csv_records, "ROW_BYTES", 10_000)
    with pytest.raises(LongreelError, match=r"a\.csv, line 2: a value's opening quote has no closing quote"):
        read(tmp_path / "a.csv")
    with pytest.raises(LongreelError, match=r"b\.csv, line 3: no row ends within 10,000 bytes; expected lines of"):
        read(write(tmp_path / "b.csv", f"a,b\n1,2\n{long}"))


@pytest.mark.parametrize("rows_before", [0, 3_000])
def test_bytes_that_are_no_utf8_merge_no_values(tmp_path: Path, small_chunks: None, rows_before: int) -> None:
    """Wherever in the file they are."""
    data = "a,b\n" + "1,é\n" * rows_before + 'José,1\nJosè,"1\n2"\nJosê,1,2\nx,y\n'
    good, bad = read(write(tmp_path / "log.csv", data.replace("é\n", "e\n").encode("latin-1")))
    assert len(good) == rows_before + 1
    assert good[-1] == {"a": "x", "b": "y"}
    assert bad == [("not_utf8", text) for text in ("Jos\\xe9,1", 'Jos\\xe8,"1\n2"', "Jos\\xea,1,2")]
    with pytest.raises(LongreelError, match=r"log\.csv: its header is not UTF-8 .*; write the file as UTF-8"):
        read(write(tmp_path / "log.csv", "a,é\n".encode("latin-1")))
    with pytest.raises(LongreelError, match="its header is not UTF-8"):
        read(write(tmp_path / "log.csv", "a,b\n1,2\n".encode("utf-16")))


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ('user_id,"note, free", a ', ("user_id", "note, free", "a")),
        ('"a""b","x\ny",c`d,e.f,_metadata', ('a"b', "x\ny", "c`d", "e.f", "_metadata")),
        (",a,b,,", ("_c0", "a", "b", "_c3", "_c4")),
    ],
)
def test_names_of_columns(tmp_path: Path, header: str, names: tuple[str, ...]) -> None:
    cells = {name: str(number) for number, name in enumerate(names)}
    path = write(tmp_path / "log.csv", f"{header}\n{','.join(cells.values())}\n")
    assert header_of(path).names == names
    assert read(path) == ([cells], [])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "log.csv is empty; expected a header line"),
        (b"\na,b\n", "log.csv is empty; expected a header line"),
        (b"a,A\n", "log.csv has more than one column a; rename all but one"),
        (b"a,_c0,\n,_c2\n", ""),
        (b"a,,_c1\n", "log.csv has more than one column _c1"),
        (b"a,b\r1,2\r", "log.csv: its header has a carriage return; write the file with line feeds"),
        (b"a,_longreel_text\n", "log.csv has a column _longreel_text; rename it"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, data: bytes, text: str) -> None:
    path = write(tmp_path / "log.csv", data)
    if not text:
        assert header_of(path).names == ("a", "_c0", "_c2")
        return
    with pytest.raises(LongreelError, match=text):
        header_of(path)


def test_gzip_of_several_members_with_padding_is_read_whole_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n")
    path = tmp_path / "log.csv.gz"
    for padding in (b"", bytes(512)):
        path.write_bytes(packed + padding)
        assert [row["a"] for row in read(path)[0]] == ["1", "3"]
    for damaged in (packed[:-9], packed + b"more", b"a,b\n1,2\n", packed[:40] + b"\xff" + packed[41:]):
        path.write_bytes(damaged)
        with pytest.raises(LongreelError, match=r"log\.csv\.gz cannot be read to its end: .*; fetch the file again"):
            read(path)


def test_a_users_text_writes_no_event(spark: Any, make_home: Callable[..., Any]) -> None:
    """A line break in quotes, wherever its column is; ids of other bytes; names of files and columns of any kind."""
    home = make_home(schema=CLICKS)
    folder = home.path / "raw" / f"date={DAY}"
    (folder / "hour=05").mkdir(parents=True)
    at = MIDNIGHT_MS
    (folder / "part-10:30.csv").write_text(f'{HEADER}1,10,{at},1,"title\n666,66,{at},1,x"\n1,11,{at},0\n')
    (folder / "50% [a]+{b} ü.csv").write_text(HEADER.replace("click", "Click") + f"2,20,{at},1,\n")
    data = f"note,{HEADER[:-6]}\n" + f'"a\n666,66,{at},1",José,30,{at},1\n'
    (folder / "hour=05" / "late.csv.gz").write_bytes(gzip.compress(data.encode("latin-1")) + bytes(512))
    names = "user_id,item_id,time_ms,CLICK,a`b,_metadata,_source_file,_corrupt_record,row,copies,unreadable,,"
    (folder / "names.csv").write_text(f"{names}\n3,30,{at},1,b,m,s,c,r,4,u,,\n")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    events = published(home, "events", DAY)
    assert sorted((e["user_id"], e["item_id"], e["actions"]) for e in events) == [(1, 10, 1), (2, 20, 1), (3, 30, 1)]
    counts = home.lake.require("events", DAY).counts
    assert (counts["quarantined_malformed_row"], counts["quarantined_not_utf8"]) == (1, 1)
    rejected = {row["reason"]: row for row in published(home, "quarantine", DAY)}
    assert rejected["malformed_row"]["source_file"] == "part-10:30.csv"
    assert json.loads(rejected["malformed_row"]["row"])[TEXT] == f"1,11,{at},0"
    assert rejected["not_utf8"]["source_file"] == "hour=05/late.csv.gz"
    assert json.loads(rejected["not_utf8"]["row"])[TEXT].endswith(f'1",Jos\\xe9,30,{at},1')
    rows = GenericSource(home.path / "raw").rows(spark, DAY).select("row.*", "source_file").collect()
    assert {row["source_file"] for row in rows} >= {"50% [a]+{b} ü.csv", "names.csv"}
    (named,) = [row.asDict() for row in rows if row["source_file"] == "names.csv"]
    assert [named[name] for name in ("a`b", "_metadata", "_source_file", "_corrupt_record")] == ["b", "m", "s", "c"]


def test_a_refusal_in_a_task_ends_in_one_line(spark: Any, make_home: Callable[..., Any], capsys: Any) -> None:
    home = make_home(schema=CLICKS)
    folder = home.path / "raw" / f"date={DAY}"
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text(f'{HEADER}1,10,{MIDNIGHT_MS},1,"a\n2,20,{MIDNIGHT_MS},1,b\n')
    assert longreel(home, "data ingest", "--date", str(DAY)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "log.csv" in line]
    assert len(lines) == 1
    assert "log.csv, line 2: a value's opening quote has no closing quote; write the file again" in lines[0]


def test_json_lines_are_read_from_the_same_files_and_bytes(spark: Any, make_home: Callable[..., Any]) -> None:
    """Names with a colon, padded gzip, bytes that are no UTF-8, columns named as Spark's own, and any case."""
    home = make_home(schema=CLICKS)
    folder = home.path / "raw" / f"date={DAY}"
    folder.mkdir(parents=True)
    lines = [
        f'{{"user_id": "{user}", "item_id": 1, "time_ms": {MIDNIGHT_MS}, "Click": 1, "_metadata": 2, "a`b": 3}}\n'
        for user in ("José", "Josè", "1")
    ]
    (folder / "part-10:30.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode("latin-1")) + bytes(512))
    (folder / "b%20+.json").write_bytes(b"\xef\xbb\xbf" + lines[2].replace('"1"', '"2"').encode() + b"[1]\r\n\r\n")
    (folder / "c.csv").write_text(HEADER + f"3,10,{MIDNIGHT_MS},1,\n")
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert [(e["user_id"], e["actions"]) for e in published(home, "events", DAY)] == [(1, 1), (2, 1), (3, 1)]
    rejected = [(row["reason"], row["source_file"]) for row in published(home, "quarantine", DAY)]
    assert sorted(rejected) == [("malformed_row", "b%20+.json"), *[("not_utf8", "part-10:30.jsonl.gz")] * 2]
