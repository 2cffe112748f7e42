"""Random days: rows, and the files that spell them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz_days.expected import Expected, Values, expected_of
from tests.fuzz_days.files import DAMAGES, File, write
from tests.fuzz_days.settings import Settings
from tests.fuzz_days.spellings import UNREAD, draw_spelling, is_told_by_its_local_time

USERS: tuple[Any, ...] = (1, 2, 3, 2**31, 2**53 + 1, -5, 2**63 - 1)
LARGE = (2**63, 2**64 - 1)  # whole numbers that only unsigned columns hold
TEXTS = ("anna", "José", "Josè", "x y", "user-with-a-rather-long-name-of-more-than-32-bytes", "日本", "O'Neil", "0x1F")
ODD_TEXTS = (
    "nan",
    "None",
    "NULL",
    "\\N",
    "null",
    "007",
    "7.0",
    "1e3",
    "1.65E12",
    "1e+16",
    "\t7 ",
    "\u00a0",
    "-0",
    "+5",
    " 7 ",
    "  ",
    "",
    "a,b",
    'say "hi"',
    '"',
    "line\nbreak",
    "a\r\nb",
    "\\",
    "tab\there",
    "99999999999999999999",
    "1.5",
    "1_000",
    "٣",
    "😀",
    "a;b|c",
    "#x",
    "=1+1",
    "true",
    "2026-03-02",
    "-",
    "'",
    "a\\",
    "é" * 40,
)
ODD_NAMES = (  # of columns that nothing reads
    "note, free",
    'say "hi"',
    "a`b",
    "a.b",
    "_metadata",
    "_corrupt_record",
    "_source_file",
    "row",
    "copies",
    "reason",
    "select",
    "日本",
    "line\nbreak",
    "x" * 300,
    "1",
    " ",
)
HEADERS = ("lower", "upper", "title", "spaces")
SIMPLE_UNREAD = ("int64", "string", "float64", "bool")


@dataclass(frozen=True)
class Day:
    """The files of a day and the configuration that reads them, as plain data."""

    settings: Settings
    files: tuple[File, ...]

    def write(self, folder: Path) -> None:
        """Write the files into a home."""
        for file in self.files:
            write(file, self.settings, self.settings.day_folder(folder))

    def expected(self) -> Expected:
        """What the day must become."""
        rows = [
            {name: value for name, value in row.items() if name in (*self.settings.names, "number")}
            for file in self.files
            for row in ([] if file.damage == "empty" else file.rows)  # as Spark writes JSON lines without a row
        ]
        lines = [line for file in self.files for line in file.lines]
        return expected_of(rows, self.settings, lines)

    def may_be_refused(self) -> str:
        """Why ingest may refuse the day: what is no table of rows at all."""
        for file in self.files:
            if file.damage in ("cut", "empty", "flipped byte"):
                return f"{file.name}: {file.damage}"
            if file.options.get("encoding"):
                return f"{file.name}: {file.options['encoding']}"
        if (
            self.settings.time == "timestamp"
            and len({str(f.kinds.get("time")).endswith(" None") for f in self.files}) > 1
        ):
            return f"{self.settings.names['time']}: times with a zone and without"
        if self.has_column_twice():
            return "a column twice"
        for file in self.files:
            if file.kinds.get("vector") == "fixed_size_list" and any(row.get("vector") is None for row in file.rows):
                return f"{file.name}: pyarrow writes fixed-size lists with a null, and cannot read them"
        values = {name for file in self.files for row in file.rows for name in row if row[name] is not None}
        if self.settings.lists and {"tags", "vector"} & self.settings.names.keys() - values:
            return "a list without a value in any row has no type"
        for logical, name in self.settings.names.items():
            if not any(file.has_column(logical) for file in self.files):
                return f"no column {name}"
        for file in self.files:
            if not all(file.has_column(logical) for logical in ("user", "item", "time")):
                return f"{file.name}: no column of a key"
        return ""

    def has_column_twice(self) -> bool:
        """Whether two columns of a file have one name, which has no case."""
        for file in self.files:
            names = [name.lower() for name in file.table(self.settings).column_names]
            if len(set(names)) < len(names):
                return True
        return False


def draw_day(random: Random, *, odd: bool) -> Day:
    """A random day.

    Args:
        odd: whether files may be damaged, cells odd and headers spelled otherwise; else only types differ.
    """
    settings = Settings.draw(random)
    rows = _rows(random, settings, random.randint(0 if odd else 1, 9), odd)
    count = random.randint(1, 4)
    files: list[File] = []
    for number in range(count):
        mine = tuple(row for at, row in enumerate(rows) if at % count == number)
        file = draw_file(random, settings, number, mine, odd)
        is_complete = not number or file.unread.keys() & {name.upper() for name in settings.names.values()}
        files.append(file if is_complete else replace(file, rows=_lacking(random, settings, file.rows)))
    return Day(settings, tuple(files))


def _rows(random: Random, settings: Settings, count: int, odd: bool) -> list[Values]:
    """Distinct rows, and some of them twice; the twice ones are `count` places apart or none."""
    first, end = settings.bounds_ms()
    times = [first, first + 1, first - 1, end - 1, end, end - 1000, first + 86_400_000 - 1, first + 86_400_000]
    far = [-1, 0, -1001, *((253_402_000_000_000, -30_000_000_000_000) if settings.time != "ns" else ())] if odd else []
    of_users = random.choice(("numbers", "texts", "both", "large"))
    users = {"numbers": USERS, "texts": TEXTS, "both": (*USERS, *TEXTS), "large": (*USERS, *LARGE)}[of_users]
    users = (*users, *ODD_TEXTS) if odd and random.random() < 0.5 else users
    items_are_text = random.random() < 0.5
    rows = []
    for number in range(count):
        time = random.choice(times) if random.random() < 0.3 else random.randrange(first, end)
        time = random.choice(far) if far and random.random() < 0.1 else time
        if settings.time in ("s", "text"):
            time -= time % 1000
        if not is_told_by_its_local_time(time, settings):
            time -= 7_200_000
        row: Values = {
            "number": number,
            "user": _or_none(random, random.choice(users), 0.05),
            "item": f"item {number}" if items_are_text else number + 10,
            "time": _or_none(random, time, 0.05),
            "request": _or_none(random, random.choice(("r1", "r2", "page 3")), 0.2),
            "click": _or_none(random, random.random() < 0.5, 0.2),
            "stars": _or_none(random, random.randint(0, 5), 0.2),
            "surface": _or_none(random, random.choice(("home", "search", 33, 0)), 0.2),
            "price": _or_none(random, random.choice((0, 1, 1.5, 12.25, 1_000_000.5, 7)), 0.2),
            "tags": _or_none(random, [random.choice(("a", "b", "7", "c d")) for _ in range(random.randint(1, 5))], 0.2),
            "vector": _or_none(random, [random.choice((0.0, 1.5, -2.25)) for _ in range(2)], 0.2),
            "country": _or_none(random, random.choice(("DE", "LV", 7)), 0.2),
        }
        if odd and random.random() < 0.2:
            row[random.choice(("request", "surface", "country"))] = random.choice(ODD_TEXTS)
        if odd and random.random() < 0.05:
            row["vector"] = [1.0, 2.0, 3.0]
        rows.append({name: value for name, value in row.items() if name in (*settings.names, "number")})
    return rows


def _or_none(random: Random, value: Any, share: float) -> Any:
    return None if random.random() < share else value


def _lacking(random: Random, settings: Settings, rows: Sequence[Values]) -> tuple[Values, ...]:
    """The rows of a file, which may lack a column that other files have."""
    absent = {n for n in settings.names if n not in ("user", "item", "time") and random.random() < 0.1}
    return tuple({name: value for name, value in row.items() if name not in absent} for row in rows)


def draw_file(random: Random, settings: Settings, number: int, rows: tuple[Values, ...], odd: bool) -> File:
    """A random file with some rows."""
    has_lists = settings.lists and {"tags", "vector"} & settings.names.keys()
    is_typed = settings.time == "timestamp" or has_lists
    suffix = ".parquet" if is_typed or not rows else random.choice((".parquet",) * 5 + SUFFIXES)
    writer = random.choice(WRITERS_OF[suffix.removesuffix(".gz")])
    stem = random.choice(("part", "part", "part [1]", "part-10:30", "größe", "a b+c", "hour=05/part", "x%20y"))
    kinds = {}
    for name in settings.names:
        if random.random() < 0.7:
            kinds[name] = draw_spelling(random, name, [row.get(name) for row in rows], settings)
    if suffix != ".parquet":
        kinds = {name: kind for name, kind in kinds.items() if kind != "binary"}
    unread = {}
    of_type = list(UNREAD) if suffix == ".parquet" else SIMPLE_UNREAD
    for name in ("x1", "x2", random.choice(ODD_NAMES) if odd else "Größe 2"):
        if random.random() < 0.4:
            unread[name] = random.choice(of_type)
    if odd and writer in ("pyarrow", "csv") and random.random() < 0.06:  # the others rename one of the two
        unread[random.choice(list(settings.names.values())).upper()] = "int64"
    options = _options(random, suffix, writer)
    if writer == "spark" and str(kinds.get("time")).endswith(" None"):  # it takes them as of its session's zone
        kinds.pop("time")
    if str(kinds.get("time")).endswith(" None"):  # INT96 does not tell times without a zone from instants
        options.pop("use_deprecated_int96_timestamps", None)
    if rows and random.random() < 0.2 and "index" not in options:  # which numbers the rows, so none are equal
        rows = (*rows, random.choice(rows))
    file = File(f"{stem}-{number}{suffix}", writer, rows, kinds, unread, options=options)
    return _odd(random, file, settings) if odd else file


SUFFIXES = (".csv", ".csv.gz", ".csv", ".jsonl", ".json.gz", ".orc")
WRITERS_OF = {
    ".parquet": ("pyarrow",) * 6 + ("pandas", "pandas", "polars", "polars", "duckdb", "duckdb", "spark"),
    ".csv": ("csv", "csv", "csv", "pandas", "polars", "duckdb", "pyarrow csv"),
    ".jsonl": ("json", "json", "polars", "duckdb"),
    ".json": ("json", "json", "polars", "duckdb"),
    ".orc": ("orc", "orc", "spark"),
}
CODECS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")


def _options(random: Random, suffix: str, writer: str) -> dict[str, Any]:
    """Random options of a writer."""
    options: dict[str, Any] = {"reversed": True} if random.random() < 0.2 else {}
    if writer == "pyarrow":
        options |= {"compression": random.choice(CODECS), "data_page_version": random.choice(("1.0", "2.0"))}
        options |= {"use_dictionary": random.random() < 0.5, "version": random.choice(("1.0", "2.4", "2.6"))}
        options |= {"row_group_size": random.choice((1, 2, 1000)), "store_schema": random.random() < 0.7}
        options |= {"use_deprecated_int96_timestamps": random.random() < 0.2, "nan": random.random() < 0.2}
        options |= {"write_page_index": random.random() < 0.2, "use_compliant_nested_type": random.random() < 0.7}
        options |= {"store_decimal_as_integer": random.random() < 0.2}
    elif writer == "pandas":
        options |= random.choice(({}, {"index": True}, {"nullable": True}, {"types": "pyarrow"}))
    elif writer == "polars" and suffix == ".parquet":
        options["compression"] = random.choice(("uncompressed", "snappy", "gzip", "brotli", "zstd", "lz4"))
    elif writer == "duckdb" and suffix == ".parquet":
        options |= {"compression": random.choice(("uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4_raw"))}
        options["version"] = random.choice(("V1", "V2"))
    elif writer == "csv":
        options["end"] = random.choice(("\n", "\n", "\r\n"))
        options["quoting"] = random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
        options |= {"no last line break": True} if random.random() < 0.2 else {}
    elif writer == "pyarrow csv":
        options["style"] = random.choice(("needed", "all_valid"))
    elif writer == "json":
        options |= {"ascii": random.random() < 0.5, "sparse": random.random() < 0.5}
    elif writer == "orc":
        options["compression"] = random.choice(("uncompressed", "snappy", "zlib", "zstd", "lz4"))
    return options


def _odd(random: Random, file: File, settings: Settings) -> File:
    """The file, with an odd header, lines that do not fit it, or damage."""
    header = {}
    for logical, name in settings.names.items():
        if random.random() < 0.15:
            header[logical] = _spelled(random.choice(HEADERS), name, ".csv" in file.name)
    file = replace(file, header=header)
    if file.writer == "csv" and random.random() < 0.15:
        width = len(file.table(settings).column_names)
        cells = random.choice((width - 1, width + 1, width + 2))
        file = replace(file, lines=tuple(",".join(["9"] * cells) for _ in range(random.randint(1, 2)) if cells > 0))
    if file.writer == "csv" and random.random() < 0.1:
        mark = random.choice(({"mark": b"\xef\xbb\xbf"}, {"encoding": "latin-1"}, {"encoding": "utf-16"}))
        file = replace(file, options=file.options | mark)
    if random.random() < 0.08:
        possible = [name for name in DAMAGES if name != "zero padding" or file.name.endswith(".gz")]
        file = replace(file, damage=random.choice(possible))
    return file


def _spelled(how: str, name: str, is_csv: bool) -> str:
    """A raw name in another case, which is the same column, or in CSV between spaces."""
    if how == "spaces":
        return f" {name} " if is_csv else name
    other = {"lower": name.lower(), "upper": name.upper(), "title": name.title()}[how]
    return other if other.lower() == name.lower() else name
