"""Sample of a raw log: its layout, and raw columns of its first and last days as ingest would read them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson
import pyarrow.orc as paorc
import pyarrow.parquet as pq

from longreel.contracts.dates import parse_day
from longreel.contracts.errors import LongreelError
from longreel.spark_jobs.sources.base import UNREADABLE
from longreel.spark_jobs.sources.csv_records import batches_of, header_of

TableFiles = Mapping[str, list[Path]]  # the files of tables beside the log, by name
TABLES = ("items", "users")
Layout = Literal["folders", "flat", "kuairand"]
SUFFIXES = (".parquet", ".orc", ".csv", ".csv.gz", ".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
SAMPLE_ROWS = 250_000  # of each end of the log
TABLE_ROWS = 2_000_000  # of a table beside the log
BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class RawSample:
    """Rows of the first and the last day of a log, or of the first and the last file of a flat one."""

    log: Path
    layout: Layout
    days: tuple[date, ...]  # of the folders, oldest first; none of a flat log
    rows: pa.Table  # raw columns; structs are flattened to `a.b`
    row_days: tuple[int, ...]  # rows of each sampled day or file, one after another
    items: pa.Table | None  # of the table of items beside the log, the newest if they are daily
    users: pa.Table | None  # likewise, of users
    optional: frozenset[str]  # columns that one of the sampled days lacks, also for want of a table
    files: int  # data files of the log

    @property
    def sampled_days(self) -> tuple[date, ...]:
        """The sampled days of `days`."""
        return tuple(sorted({self.days[0], self.days[-1]})) if self.days else ()


def read_sample(log: Path) -> RawSample:
    """Look at a log: a folder of date=YYYY-MM-DD folders, one of data files, one data file, or KuaiRand's folder.

    Raises:
        LongreelError: there is nothing that can be read, and what was expected.
    """
    if log.is_file():
        return _flat(log, [log], {})
    if not log.is_dir():
        raise LongreelError(f"expected a raw log at {log}, but nothing is there")
    if logs := _data_files(log, "log_"):
        return _kuairand(log, [path for path in logs if not path.name.startswith("log_history")] or logs)
    tables = {name: _table_files(log, name) for name in TABLES}
    if folders := {_day_of(path): path for path in sorted(log.glob("date=*")) if path.is_dir()}:
        days = tuple(sorted(folders))
        files = {day: _files_below(folders[day]) for day in days}
        sampled = [files[day] for day in days if files[day]]
        if not sampled:
            raise LongreelError(f"the date= folders of {log} hold no data files; expected {', '.join(SUFFIXES)}")
        return _sample(log, "folders", days, sampled[:1] + sampled[1:][-1:], tables, sum(map(len, files.values())))
    paths = [path for path in _data_files(log) if path not in [*tables["items"], *tables["users"]]]
    if not paths:
        names = ", ".join(sorted(path.name for path in log.iterdir())[:5]) or "nothing"
        raise LongreelError(
            f"no data in {log}, but {names}; expected date=YYYY-MM-DD folders or files {', '.join(SUFFIXES)}"
        )
    return _flat(log, paths, tables)


def _table_files(log: Path, name: str) -> list[Path]:
    """The files of a table beside a log; of daily tables, of the newest."""
    dated = sorted(path for path in (log / name).glob("date=*") if path.is_dir())
    return _files_below(dated[-1]) if dated else _data_files(log, f"{name}.")[:1]


def _is_late(log: Path, name: str, days: tuple[date, ...]) -> bool:
    """Whether the first of daily tables is dated after the first day of the log."""
    dated = sorted(path.name for path in (log / name).glob("date=*") if path.is_dir())
    return bool(dated and days) and dated[0] > f"date={days[0]}"


def _flat(log: Path, paths: list[Path], tables: TableFiles) -> RawSample:
    return _sample(log, "flat", (), [paths[:1], *([paths[-1:]] if len(paths) > 1 else [])], tables, len(paths))


def _sample(
    log: Path, layout: Layout, days: tuple[date, ...], ends: list[list[Path]], tables: TableFiles, files: int
) -> RawSample:
    items, users = (_read_files(tables[name], TABLE_ROWS) if tables.get(name) else None for name in TABLES)
    rows = [_read_files(paths, SAMPLE_ROWS) for paths in ends]
    together = concatenated(rows)
    in_all = set.intersection(*({name.lower() for name in table.column_names} for table in rows))
    late = [
        table.column_names
        for name, table in (("items", items), ("users", users))
        if table and _is_late(log, name, days)
    ]
    return RawSample(
        log=log,
        layout=layout,
        days=days,
        rows=together,
        row_days=tuple(len(table) for table in rows),
        items=items,
        users=users,
        optional=frozenset(n for n in together.column_names if n.lower() not in in_all).union(*late),
        files=files,
    )


def _kuairand(log: Path, logs: list[Path]) -> RawSample:
    """KuaiRand's files: rows with the columns of their videos, and the user table."""
    tables = {"users": _data_files(log, "user_features")[:1]}
    sample = _sample(log, "kuairand", (), [logs[:1]], tables, len(logs))
    rows = sample.rows
    for path in _data_files(log, "video_features_basic"):
        videos = _read_files([path], TABLE_ROWS)
        places = pc.index_in(rows.column("video_id"), value_set=videos.column("video_id"))
        for name in videos.column_names:
            if name not in rows.column_names:
                rows = rows.append_column(name, videos.column(name).take(places))
    return RawSample(**(vars(sample) | {"rows": rows, "row_days": (len(rows),)}))


def concatenated(tables: list[pa.Table]) -> pa.Table:
    """Tables one below another; names match without case, and a column whose types disagree becomes text."""
    names: dict[str, str] = {}
    for name in (name for table in tables for name in table.column_names):
        names.setdefault(name.lower(), name)
    tables = [table.rename_columns([names[name.lower()] for name in table.column_names]) for table in tables]
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = [table.cast(pa.schema([(name, pa.string()) for name in table.column_names])) for table in tables]
        return pa.concat_tables(texts, promote_options="permissive").combine_chunks()


def _day_of(path: Path) -> date:
    try:
        return parse_day(path.name.removeprefix("date="))
    except LongreelError as error:
        raise LongreelError(f"{path}: expected a folder date=YYYY-MM-DD; rename it") from error


def _data_files(folder: Path, stem: str = "") -> list[Path]:
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name.endswith(SUFFIXES))
    return [path for path in files if path.name.startswith(stem) and not path.name.startswith((".", "_"))]


def _files_below(folder: Path) -> list[Path]:
    """A day's files, in its folder or in hour=HH folders."""
    hours = [path for path in sorted(folder.glob("hour=*")) if path.is_dir()]
    return [*_data_files(folder), *(path for hour in hours for path in _data_files(hour))]


def _read_files(paths: list[Path], limit: int) -> pa.Table:
    """The first rows of some files, `limit` together and as many of each."""
    share = max(1, limit // len(paths))
    tables = []
    for path in paths:
        try:
            tables.append(_flattened(_read(path, share)))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise LongreelError(f"{path} cannot be read: {error}") from error
    return concatenated(tables)


def _read(path: Path, limit: int) -> pa.Table:
    if path.name.endswith(".parquet"):
        with pq.ParquetFile(path) as file:
            return _first(file.iter_batches(65_536), limit, file.schema_arrow)
    if path.name.endswith(".orc"):
        return paorc.read_table(path).slice(0, limit)
    if re.search(r"\.csv(\.gz)?$", path.name):
        return _read_csv(path, limit)
    return _read_json(path, limit)


def _first(batches: object, limit: int, schema: pa.Schema) -> pa.Table:
    """The first `limit` rows of an iterator of record batches."""
    taken, rows = [], 0
    for batch in batches:  # type: ignore[attr-defined]
        taken.append(batch)
        rows += len(batch)
        if rows >= limit:
            break
    return pa.Table.from_batches(taken, schema=schema).slice(0, limit)


def _read_csv(path: Path, limit: int) -> pa.Table:
    """A CSV file as ingest reads it, without the rows that it rejects for their cells or bytes."""
    rows = header_of(path)
    schema = pa.schema([(name, pa.string()) for name in rows.names])
    readable = (batch.filter(pc.is_null(batch[UNREADABLE])).select(rows.names) for batch in batches_of(rows))
    return _first(readable, limit, schema)


def _read_json(path: Path, limit: int) -> pa.Table:
    """JSON lines; times stay text, as Spark has them."""
    options = pajson.ReadOptions(block_size=BLOCK_BYTES)
    with pajson.open_json(path, read_options=options) as head:
        schema = head.schema
    texts = pa.schema([field.with_type(_without_times(field.type)) for field in schema])
    parse = pajson.ParseOptions(explicit_schema=texts)
    with pajson.open_json(path, read_options=options, parse_options=parse) as reader:
        return _first(reader, limit, reader.schema)


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_times(field.type)) for field in kind])
    return pa.string() if pa.types.is_null(kind) else kind


def _flattened(table: pa.Table) -> pa.Table:
    """Columns of structs as `a.b`."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table
