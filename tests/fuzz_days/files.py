"""Files of a random day: what each holds, and how pyarrow, pandas, polars, DuckDB, Spark and others write them."""

import csv
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pyarrow import orc

from tests.fuzz_days.expected import Values
from tests.fuzz_days.settings import Settings
from tests.fuzz_days.spellings import UNREAD, nulls, spellings


@dataclass(frozen=True)
class File:
    """One file of a day, as plain data, so that a smaller one can be made of it."""

    name: str
    writer: str  # of WRITERS
    rows: tuple[Values, ...]
    kinds: dict[str, str] = field(default_factory=dict)  # spellings by logical column; others have the plainest
    unread: dict[str, str] = field(default_factory=dict)  # columns that nothing reads, with their types
    header: dict[str, str] = field(default_factory=dict)  # raw names that are spelled otherwise
    options: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()  # further lines of a CSV file, which do not fit the header
    damage: str = ""  # of DAMAGES

    @property
    def is_text(self) -> bool:
        """Whether the file's format has no types."""
        return ".csv" in self.name

    def has_column(self, logical: str) -> bool:
        """Whether the file has a column; JSON lines may lack the keys of missing values."""
        rows = [row for row in self.rows if row.get(logical) is not None or not self.options.get("sparse")]
        return any(logical in row for row in rows) or not (self.rows or ".json" in self.name)

    def table(self, settings: Settings) -> pa.Table:
        """The rows in the types of the file."""
        columns = {}
        for logical, name in settings.names.items():
            if not any(logical in row for row in self.rows) and self.rows:
                continue
            values = [row.get(logical) for row in self.rows]
            kinds = spellings(logical, values, settings) | nulls(values)
            spelling = kinds.get(self.kinds.get(logical, ""), next(iter(kinds.values())))
            columns[self.header.get(logical, name)] = spelling.array(values)
        numbers = [row["number"] for row in self.rows]
        columns = {name: UNREAD[kind](numbers) for name, kind in self.unread.items()} | columns
        names = list(columns)
        if self.options.get("reversed"):
            names.reverse()
        return pa.table({name: columns[name] for name in names})


def write(file: File, settings: Settings, folder: Path) -> Path:
    """Write a file into the folder of a day; by another writer where its own cannot write such a table."""
    path, table = folder / file.name, file.table(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        WRITERS[file.writer](file, table, path)
    except Exception:  # each library has exceptions of its classes for a type that it lacks
        plain = {".parquet": "pyarrow", ".orc": "orc", ".csv": "csv", ".jsonl": "json", ".json": "json"}
        suffix = next(suffix for suffix in plain if suffix in file.name)
        if suffix == ".orc":
            table = replace(file, kinds=dict.fromkeys(settings.names, "string"), unread={}).table(settings)
        WRITERS[plain[suffix]](replace(file, options={}), table, path)
    if file.damage:
        DAMAGES[file.damage](path)
    return path


def _pyarrow(file: File, table: pa.Table, path: Path) -> None:
    options = {name: value for name, value in file.options.items() if name != "reversed"}
    if options.pop("nan", False):  # as some writers spell a missing number
        floats = [(i, f) for i, f in enumerate(table.schema) if f.type in (pa.float32(), pa.float64())]
        for i, kind in floats:
            table = table.set_column(i, kind, table.column(i).fill_null(float("nan")))
    pq.write_table(table, path, **options)


def _orc(file: File, table: pa.Table, path: Path) -> None:
    orc.write_table(table, path, compression=file.options.get("compression", "uncompressed"))


def _pandas(file: File, table: pa.Table, path: Path) -> None:
    exact = max((abs(n) for c in table.columns if pa.types.is_integer(c.type) for n in c.to_pylist() if n), default=0)
    is_exact_type = file.options.get("types") or exact > 2**53  # else integers with a missing value become floats
    frame = table.to_pandas(types_mapper=pandas.ArrowDtype if is_exact_type else None)
    if file.options.get("nullable"):
        frame = frame.convert_dtypes()
    if path.name.endswith(".parquet"):
        frame.to_parquet(path, index=file.options.get("index"))
    elif ".csv" in path.name:
        frame.to_csv(path, index=bool(file.options.get("index")))  # its column has no name
    else:
        frame.to_json(path, orient="records", lines=True)


def _polars(file: File, table: pa.Table, path: Path) -> None:
    try:
        frame = polars.DataFrame(polars.from_arrow(table))
    except polars.exceptions.PanicException as error:  # is no Exception
        raise TypeError(str(error)) from error
    if path.name.endswith(".parquet"):
        frame.write_parquet(path, compression=file.options.get("compression", "zstd"))
        return
    text = frame.write_csv() if ".csv" in path.name else frame.write_ndjson()
    _packed(path, text.encode())


def _duckdb(file: File, table: pa.Table, path: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("raw", table)
        if path.name.endswith(".parquet"):
            version, codec = file.options.get("version", "V1"), file.options.get("compression", "snappy")
            form = f"FORMAT parquet, COMPRESSION {codec}, PARQUET_VERSION {version}"
        elif ".csv" in path.name:
            form = f"FORMAT csv, HEADER{', COMPRESSION gzip' * path.name.endswith('.gz')}"
        else:
            form = f"FORMAT json{', COMPRESSION gzip' * path.name.endswith('.gz')}"
        connection.execute(f"COPY raw TO '{str(path).replace(chr(39), chr(39) * 2)}' ({form})")


def _spark(file: File, table: pa.Table, path: Path) -> None:
    """Spark's own files: INT96 in Parquet is its default, which our sessions change."""
    from longreel.spark_jobs.session import spark_session

    spark = spark_session("fuzz days")
    frame = spark.createDataFrame(table).coalesce(1)
    outer = tempfile.mkdtemp()
    try:
        out = f"{outer}/out"
        if path.name.endswith(".parquet"):
            spark.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
            frame.write.option("compression", "snappy").parquet(out)
            spark.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        elif ".csv" in path.name:
            packed = "gzip" if path.name.endswith(".gz") else "none"
            frame.write.option("header", True).option("escape", '"').option("compression", packed).csv(out)
        else:
            frame.write.orc(out)
        shutil.move(next(Path(out).glob("part-*")), path)
    finally:
        shutil.rmtree(outer)


def _csv_module(file: File, table: pa.Table, path: Path) -> None:
    text = io.StringIO(newline="")
    end, quoting = file.options.get("end", "\n"), file.options.get("quoting", csv.QUOTE_MINIMAL)
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerow(table.column_names)
    writer.writerows([["" if cell is None else _cell(cell) for cell in row.values()] for row in table.to_pylist()])
    body = text.getvalue() + "".join(line + end for line in file.lines)
    if file.options.get("no last line break") and body.endswith(end):
        body = body[: -len(end)]
    _packed(path, file.options.get("mark", b"") + body.encode(file.options.get("encoding", "utf-8")))


def _cell(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _pyarrow_csv(file: File, table: pa.Table, path: Path) -> None:
    options = pacsv.WriteOptions(quoting_style=file.options.get("style", "needed"))
    stream = io.BytesIO()
    pacsv.write_csv(table, stream, options)
    _packed(path, stream.getvalue())


def _json_module(file: File, table: pa.Table, path: Path) -> None:
    as_text = file.options.get("ascii", True)
    lines = []
    for row in table.to_pylist():
        cells = {name: value for name, value in row.items() if value is not None or not file.options.get("sparse")}
        lines.append(json.dumps(cells, default=str, ensure_ascii=as_text) + "\n")
    _packed(path, "".join(lines).encode())


def _packed(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


WRITERS: dict[str, Callable[[File, pa.Table, Path], None]] = {
    "pyarrow": _pyarrow,
    "pandas": _pandas,
    "polars": _polars,
    "duckdb": _duckdb,
    "spark": _spark,
    "csv": _csv_module,
    "pyarrow csv": _pyarrow_csv,
    "json": _json_module,
    "orc": _orc,
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-11])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _pad(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(512))


def _stale_checksum(path: Path) -> None:
    path.with_name(f".{path.name}.crc").write_bytes(b"crc\x00\x00\x00\x02\x00\x01\x02\x03\x04")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


# What may happen to a file afterwards.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "empty": _empty,
    "zero padding": _pad,
    "stale checksum": _stale_checksum,
    "flipped byte": _flip,
}
