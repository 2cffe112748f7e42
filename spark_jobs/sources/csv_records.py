"""CSV files as batches of text columns, by RFC 4180.

A row ends at a line end outside quotes. pyarrow parses rows, but it takes a missing quote for a value that reaches to
the next quote, however far away, and cannot show rows that are not UTF-8. So whole rows are cut out first.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.csv as pacsv

from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import FILE, TEXT, UNREADABLE, require_distinct, source_name
from longreel.spark_jobs.sources.text_files import MARK, is_utf8, open_file, read_bytes

CHUNK_BYTES = 4 * 2**20
PART_BYTES = 32 * 2**20  # what one task reads of a plain file
ROW_BYTES = 16 * 2**20  # the longest row

QUOTED = rb'"(?:[^"]++|"")*+"'
VALUE = rb'(?:%b|[^",\n][^,\n]*+)?+' % QUOTED  # a quote inside an unquoted value is a character
ROW = rb"%b(?:,%b)*+\r*+\n" % (VALUE, VALUE)
_row, _rows = re.compile(ROW), re.compile(rb"(?:%b)*+" % ROW)
_row_to_pyarrow = re.compile(ROW.replace(rb",\n]", rb",\r\n]"))  # to which any \r outside quotes ends a row
_values, _quoted = re.compile(rb"(?:%b,)*+" % VALUE), re.compile(QUOTED)


@dataclass(frozen=True)
class CsvPart:
    """Whole rows of a CSV file: bytes [start, end), of a gzipped file as unpacked; to its end without `end`."""

    path: Path
    names: tuple[str, ...]
    start: int
    end: int | None = None


def header_of(path: Path) -> CsvPart:
    """The column names of a CSV file, and all rows after them. A column without a name is `_c<N>`, as Spark calls it.

    Raises:
        LongreelError: the file cannot be read, is empty, not UTF-8, or has two columns of one name.
    """
    with open_file(path) as stream:
        head = read_bytes(stream, path, ROW_BYTES)
    mark = len(MARK) * head.startswith(MARK)
    row = _row.match(head + b"\n", mark)
    if row is None:
        raise LongreelError(f"{path}, line 1: {_fault(head[mark:])}")
    if not row[0].strip():
        raise LongreelError(f"{path} is empty; expected a header line")
    if not _row_to_pyarrow.fullmatch(row[0]):
        raise LongreelError(f"{path}: its header has a carriage return; write the file with line feeds at line ends")
    try:
        row[0].decode()
    except UnicodeDecodeError as error:
        raise LongreelError(f"{path}: its header is not UTF-8 ({error}); write the file as UTF-8") from error
    with pacsv.open_csv(pa.BufferReader(row[0]), parse_options=pacsv.ParseOptions(newlines_in_values=True)) as reader:
        stripped = [name.strip() for name in reader.schema.names]
    names = tuple(name or f"_c{number}" for number, name in enumerate(stripped))
    require_distinct(path, names)
    return CsvPart(path, names, min(row.end(), len(head)))


def parts_of(path: Path) -> list[CsvPart]:
    """A file's rows in parts for a task each. A gzipped file is one.

    Raises:
        LongreelError: as `header_of`; or the file's quotes do not balance.
    """
    whole = header_of(path)
    if path.name.endswith(".gz") or path.stat().st_size <= PART_BYTES:
        return [whole]
    starts, end = [whole.start], whole.start
    for rows in _whole_rows(whole):
        end += len(rows)
        if end - starts[-1] >= PART_BYTES:
            starts.append(end)
    return [CsvPart(path, whole.names, start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]


def batches_of(part: CsvPart, columns: tuple[str, ...] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a part: text columns, FILE, UNREADABLE and TEXT. An empty cell is null, and a quoted one is empty
    text. Rows that do not fit the header or are not UTF-8 have nulls, with the reason and their text.

    Args:
        columns: the columns of batches; None: all.

    Raises:
        LongreelError: the file cannot be read to its end, its quotes do not balance, or a row is longer than ROW_BYTES.
    """
    columns = part.names if columns is None else columns
    fields = [pa.field(name, pa.string()) for name in (*columns, FILE, UNREADABLE, TEXT)]
    label = source_name(part.path)

    def batch(values: list[pa.Array], reason: str | None, texts: list[str] | None, rows: int) -> pa.RecordBatch:
        more = [pa.repeat(pa.scalar(value, pa.string()), rows) for value in (label, reason)]
        text = pa.nulls(rows, pa.string()) if texts is None else pa.array(texts, pa.string())
        return pa.record_batch([*values, *more, text], schema=pa.schema(fields))

    def unreadable(reason: str, texts: list[str]) -> pa.RecordBatch:
        return batch([pa.nulls(len(texts), pa.string())] * len(columns), reason, texts, len(texts))

    for chunk in _whole_rows(part):
        good, malformed, not_utf8 = _without_unreadable(chunk)
        for parsed in _parse(good, part.names, columns, malformed):
            yield batch(parsed.columns, None, None, len(parsed))
        if malformed:
            yield unreadable("malformed_row", malformed)
        if not_utf8:
            yield unreadable("not_utf8", not_utf8)


def _parse(rows: bytes, names: tuple[str, ...], columns: tuple[str, ...], malformed: list[str]) -> list[pa.RecordBatch]:
    """Whole rows of UTF-8; the text of those that do not fit `names` is added to `malformed`."""
    if not rows:
        return []

    def keep_text(row: pacsv.InvalidRow) -> str:
        malformed.append(row.text)
        return "skip"

    return cast(
        "list[pa.RecordBatch]",
        pacsv.read_csv(
            pa.BufferReader(rows),
            pacsv.ReadOptions(use_threads=False, block_size=len(rows) + 1, column_names=names),
            pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep_text),
            pacsv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(columns, pa.string()),
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        .combine_chunks()
        .to_batches(),
    )


def _without_unreadable(rows: bytes) -> tuple[bytes, list[str], list[str]]:
    """Of whole rows, those that pyarrow splits as they are; the text of those with a \\r outside quotes that ends no
    line, and of those that are not UTF-8, their other bytes as \\xNN."""
    malformed: list[str] = []
    not_utf8: list[str] = []
    if is_utf8(rows) and rows.count(b"\r") == rows.count(b"\r\n"):
        return rows, malformed, not_utf8
    good = []
    for match in _row.finditer(rows):
        row = match[0]
        if not is_utf8(row):
            not_utf8.append(row.rstrip(b"\r\n").decode(errors="backslashreplace"))
        elif not _row_to_pyarrow.fullmatch(row):
            malformed.append(row.rstrip(b"\r\n").decode())
        else:
            good.append(row)
    return b"".join(good), malformed, not_utf8


def _whole_rows(part: CsvPart) -> Iterator[bytes]:
    """The bytes of a part, cut after whole rows."""
    position, rest = part.start, b""  # `rest` begins at `position`
    with open_file(part.path) as stream:
        stream.seek(part.start)
        while True:
            left = CHUNK_BYTES if part.end is None else min(CHUNK_BYTES, part.end - position - len(rest))
            more = read_bytes(stream, part.path, left)
            rest += more or (b"\n" if rest else b"")
            end = _end_of_rows(rest)
            if end:
                yield rest[:end]
            position, rest = position + end, rest[end:]
            if rest and (not more or len(rest) > ROW_BYTES):
                raise LongreelError(f"{part.path}, line {_line_at(part.path, position)}: {_fault(rest)}")
            if not more:
                return


def _end_of_rows(data: bytes) -> int:
    """Where the last whole row ends of bytes that begin with a row."""
    if b'"' in data:
        rows = _rows.match(data)
        return rows.end() if rows else 0
    return data.rfind(b"\n") + 1


def _fault(row: bytes) -> str:
    """Why bytes begin with no whole row."""
    values = _values.match(row)
    value = row[values.end() if values else 0 :]
    remedy = 'write the file again, with each quote inside a quoted value as ""'
    if _quoted.match(value):
        return f"a value goes on after its closing quote; {remedy}"
    if value.startswith(b'"'):
        return f"a value's opening quote has no closing quote; {remedy}"
    return f"no row ends within {ROW_BYTES:,} bytes; expected lines of cells, separated by commas"


def _line_at(path: Path, position: int) -> int:
    lines = 1
    with open_file(path) as stream:
        while position > 0 and (data := stream.read(min(position, CHUNK_BYTES))):
            lines, position = lines + data.count(b"\n"), position - len(data)
    return lines
