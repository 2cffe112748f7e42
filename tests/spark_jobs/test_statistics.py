"""Statistics of users and targets are those of the definition, spelled out in plain Python over all events."""

import math
import random
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F
from spark_helpers import Row, longreel, new_home, publish_events, published

from longreel.contracts import clock
from longreel.contracts.clock import transitions
from longreel.contracts.dates import day_of_number
from longreel.contracts.statistics import Statistic
from longreel.lake.home import Home
from longreel.lake.lineage import stale_partitions
from longreel.spark_jobs import build_samples, counters
from longreel.spark_jobs.array_checks import impossible_statistics
from longreel.spark_jobs.local_days import local_day_column
from longreel.spark_jobs.statistic_values import value_column, values_of

ZONE = ZoneInfo("Europe/Berlin")
FIRST = date(2026, 3, 2)  # clocks go forward on 29 March
DAYS = [FIRST + timedelta(days=number) for number in range(34)]
SCHEMA = """
[fields.item]
brand = {kind = "id"}

[fields.request]
device = {kind = "category"}

[actions]
click = "click"
buy = {when = "bought_at IS NOT NULL", at = "bought_at"}
like = "like"

[history]
events = "impressions"

[labels]
click = "click"
like = "like"

[statistics]
user_id = ["impressions", "rate(click)", "rate(buy)"]
item_id = ["rate(buy)"]
device = ["impressions", "rate(click)"]
"user_id * item_id" = ["impressions", "rate(like)"]
"brand * device" = ["rate(click)", "impressions"]
"""


def midnight_ms(day: date) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=ZONE).timestamp() * 1_000)


def local_day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1_000, ZONE).date()


def random_events(rng: random.Random, day: date, count: int) -> list[Row]:
    """Events of a log day: late ones, ones next to midnights, purchases known days later or at a midnight."""
    start, end = midnight_ms(day), midnight_ms(day + timedelta(days=1))
    rows = []
    for number in range(count):
        near = [start, start - 1, start + 1, end - 1, start - 86_400_000, rng.randrange(start - 86_400_000, end)]
        time_ms = rng.choice([*near, *(rng.randrange(start, end) for _ in range(6))])
        delays = [0, 5_000, midnight_ms(local_day(time_ms) + timedelta(days=1)) - time_ms, 86_400_000, 3 * 86_400_000]
        bought = rng.choice([None, None, *(time_ms + delay for delay in delays)])
        actions = rng.randrange(2) | rng.randrange(2) << 2 | (bought is not None) << 1
        row = {
            "user_id": rng.randrange(1, 6),
            "time_ms": time_ms,
            "request_id": rng.choice([None, f"{day} {number % 9}"]),
        }
        row |= {"item_id": rng.randrange(1, 8), "brand": rng.randrange(-1, 3), "device": rng.randrange(-1, 2)}
        rows.append(row | {"actions": actions, "buy_ms": bought, "history": 1, "labels": 0})
    return rows


def make(folder: Path, days: dict[date, list[Row]], buckets: int = 1, **values: Any) -> Home:
    home = new_home(folder, time_zone="Europe/Berlin", source="", schema=SCHEMA, **values)
    home_events(home, days, buckets)
    return home


def home_events(home: Home, days: dict[date, list[Row]], buckets: int = 1) -> None:
    for day, rows in days.items():
        publish_events(home, day, rows, buckets)


def build(home: Home, first: date, last: date) -> None:
    assert longreel(home, "data build-samples", "--start", str(first), "--end", str(last), "--accept-drift") == 0


class Definition:
    """The definition of contracts/statistics.py, over all events in memory."""

    def __init__(self, home: Home, days: dict[date, list[Row]]) -> None:
        self.log, self.days = home.lake.log_schema, days
        self._cache: dict[Any, list[float]] = {}

    def columns(self, statistic: Statistic, row: Row, request_day: date, log_day: date) -> list[float]:
        value = tuple(row[name] for name in statistic.of)
        if any(part == -1 for part in value):
            return [math.nan] * len(statistic.columns())
        key = (statistic.of, value, request_day, log_day)
        if key not in self._cache:
            self._cache[key] = list(self._columns(statistic, value, request_day, log_day))
        return self._cache[key]

    def _columns(self, statistic: Statistic, value: Any, request_day: date, log_day: date) -> Iterator[float]:
        for column in statistic.columns():
            n = a = total_n = total_a = 0
            for day, rows in self.days.items():
                if not day < log_day:
                    continue
                for row in rows:
                    values = tuple(row[name] for name in statistic.of)
                    shown = local_day(row["time_ms"])
                    if -1 in values or not request_day - timedelta(days=column.days) <= shown < request_day:
                        continue
                    acted = column.action is not None and row["actions"] & self.log.action_bit(column.action) != 0
                    known_day = shown
                    if acted and column.action in self.log.timed_actions:
                        known_day = local_day(row[f"{column.action}_ms"] - 1)  # at midnight: when the next day begins
                    counts = acted and known_day < request_day
                    total_n, total_a = total_n + 1, total_a + counts
                    n, a = n + (values == value), a + (counts and values == value)
            if column.action is None:
                yield float(n)
            else:
                yield (a + 10.0 * total_a / total_n) / (n + 10.0) if n else math.nan

    def check(self, home: Home, day: date) -> int:
        """Compare a day's samples; returns how many numbers were compared."""
        compared = 0
        for sample in published(home, "samples", day):
            first = min(local_day(sample["request_time_ms"][0]), day)
            for statistic in self.log.statistics:
                if statistic.is_of_user:
                    compared += self._equal(statistic, sample, "user", None, sample, first, day)
            ends = [0, *sample["request_target_end"]]
            for number, time_ms in enumerate(sample["request_time_ms"]):
                for target in range(ends[number], ends[number + 1]):
                    row = {name: sample[f"target_{name}"][target] for name in ("item_id", "brand", "device")}
                    row["user_id"] = sample["user_id"]
                    for statistic in self.log.statistics:
                        if not statistic.is_of_user:
                            at = local_day(time_ms)
                            compared += self._equal(statistic, sample, "target", target, row, at, day)
        return compared

    def _equal(
        self, statistic: Statistic, sample: Row, prefix: str, place: int | None, row: Row, request_day: date, day: date
    ) -> int:
        expected = self.columns(statistic, row, request_day, day)
        stored = (sample[f"{prefix}_{column.name}"] for column in statistic.columns())
        actual = [value if place is None else value[place] for value in stored]
        assert str(np.float32(actual)) == str(np.float32(expected)), (statistic.key, row, request_day, day)
        assert np.float32(actual).tobytes() == np.float32(expected).tobytes()
        return len(actual)


def digests(home: Home, dataset: str, days: list[date]) -> list[str]:
    return [home.lake.require(dataset, day).digest for day in days]


def use_small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files a day, of counters, statistics and samples."""
    monkeypatch.setattr(counters, "ROWS_PER_BUCKET", 40)
    monkeypatch.setattr(build_samples, "EVENTS_PER_BUCKET", 300)


def test_samples_hold_what_the_definition_gives(spark: Any, tmp_path: Path, capsys: Any) -> None:
    rng = random.Random(7)
    days = {day: random_events(rng, day, 30) for day in DAYS[:31]}
    home = make(tmp_path / "home", days)
    build(home, DAYS[0], DAYS[30])
    output = capsys.readouterr().out
    assert output.count("counters 2026-") == output.count("statistics 2026-") == len(days)
    definition = Definition(home, days)
    assert sum(definition.check(home, DAYS[number]) for number in (0, 1, 7, 8, 26, 27, 28, 29, 30)) > 5_000


@pytest.mark.slow
def test_any_way_of_building_gives_the_same_and_corrections_reach_28_days(
    spark: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(11)
    days = {day: random_events(rng, day, 30) for day in DAYS}
    home = make(tmp_path / "range", days)
    build(home, DAYS[0], DAYS[-1])

    # The same days in other files, the newest of them one by one.
    use_small_buckets(monkeypatch)
    other = make(tmp_path / "days", days, buckets=4, compact_every_days=3)
    build(other, DAYS[0], DAYS[30])
    for day in DAYS[31:]:
        build(other, day, day)
    assert min(other.lake.require(name, DAYS[-1]).buckets for name in ("counters", "statistics", "samples")) > 1
    for dataset in ("counters", "statistics", "samples"):
        assert digests(home, dataset, DAYS) == digests(other, dataset, DAYS), dataset
    capsys.readouterr()
    build(other, DAYS[0], DAYS[-1])
    output = capsys.readouterr().out
    assert "counters" not in output
    assert "statistics" not in output

    # A corrected day changes the statistics of the days after it, up to the longest window and the lateness.
    days[DAYS[4]] = random_events(rng, DAYS[4], 25)
    home_events(home, {DAYS[4]: days[DAYS[4]]})
    before = digests(home, "statistics", DAYS)
    capsys.readouterr()
    build(home, DAYS[0], DAYS[-1])
    assert capsys.readouterr().out.count("counters 2026-") == 1
    changed = [old != new for old, new in zip(before, digests(home, "statistics", DAYS), strict=True)]
    assert changed == [4 <= number <= 33 for number in range(len(DAYS))]
    definition = Definition(home, days)
    for number in (3, 4, 5, 32, 33):
        definition.check(home, DAYS[number])


def test_sampled_negatives_have_their_own_numbers(spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user and item of a negative together may not occur in the day, and have been shown before."""
    use_small_buckets(monkeypatch)
    rng = random.Random(8)
    days = {day: random_events(rng, day, 20) for day in DAYS[24:]}
    home = make(tmp_path / "home", days, samples='sampled_negatives = 4\nrequest_rule = "gap"\ngap_ms = 20000000')
    build(home, DAYS[24], DAYS[-1])
    definition = Definition(home, days)
    assert sum(definition.check(home, day) for day in DAYS[29:]) > 5_000


def test_no_file_names_an_erased_user(spark: Any, tmp_path: Path, capsys: Any) -> None:
    """And the statistics of days to come are those of a log without the user."""
    rng, erased = random.Random(9), 3
    days = {day: random_events(rng, day, 20) for day in DAYS[:5]}
    days[DAYS[1]] = [row for row in days[DAYS[1]] if row["user_id"] != erased]
    home = make(tmp_path / "home", days)
    build(home, DAYS[0], DAYS[3])
    kept = digests(home, "counters", [DAYS[1]])
    items = np.arange(1, 8)
    both = Statistic(of=("user_id", "item_id"))
    pairs, _ = values_of(both, {"user_id": np.full_like(items, erased), "item_id": items})

    def files_with_user() -> list[Path]:
        tables = {path: pq.read_table(path, partitioning=None) for path in (home.path / "lake").rglob("*.parquet")}
        return [path for path, table in tables.items() if names_user(table)]

    def names_user(table: pa.Table) -> bool:
        if "value" not in table.column_names:
            return erased in table.column("user_id").to_pylist()
        rows = zip(table.column("statistic").to_pylist(), table.column("value").to_pylist(), strict=True)
        return any((number == 0 and value == erased) or (number == 3 and value in pairs) for number, value in rows)

    assert {path.parts[-4] for path in files_with_user()} == {"events", "users", "samples", "counters", "statistics"}
    assert longreel(home, "data forget", "--user", str(erased)) == 0
    assert files_with_user() == []
    assert list(home.lake.days("counters")) == list(home.lake.days("statistics")) == [DAYS[1]]
    assert stale_partitions(home.lake, home.config) == []
    capsys.readouterr()
    build(home, DAYS[0], DAYS[3])
    assert capsys.readouterr().out.count("unchanged") == 4

    # The other users' samples keep numbers that counted the user, until they are built again.
    without = {day: [row for row in rows if row["user_id"] != erased] for day, rows in days.items()}
    home_events(home, {DAYS[4]: without[DAYS[4]]})
    build(home, DAYS[4], DAYS[4])
    other = make(tmp_path / "other", without)
    build(other, DAYS[0], DAYS[4])
    assert digests(home, "counters", DAYS[:5]) == digests(other, "counters", DAYS[:5])
    for dataset in ("statistics", "samples"):
        assert digests(home, dataset, [DAYS[4]]) == digests(other, dataset, [DAYS[4]])
    assert digests(home, "counters", [DAYS[1]]) == kept


def test_values_and_days_are_the_same_in_spark_and_numpy(spark: Any) -> None:
    rng = np.random.default_rng(3)
    ids = np.concatenate([rng.integers(-(2**63), 2**63 - 1, 500), [-1, 0, 1, 2**63 - 1, -(2**63)]])
    columns = {
        "user_id": ids,
        "item_id": rng.permutation(ids),
        "device": rng.integers(-1, 3, len(ids)).astype(np.int32),
    }
    zone = "America/New_York"
    changes = np.array(transitions(zone)[0][1:])
    midnights = (np.arange(len(ids)) * 50 + 7_400) * 86_400_000  # from 1990 to 2060
    times = np.concatenate([midnights + 4 * 3_600_000 + rng.integers(-2, 3, len(ids)), changes, changes - 1])
    since = int(changes[9]) - 5
    times = times[times >= since][: len(ids)]
    frame = spark.createDataFrame(pa.table(columns | {"time_ms": np.resize(times, len(ids))}))
    statistics = [Statistic(of=of) for of in (("user_id",), ("device",), ("item_id", "device"), tuple(columns))]
    selected = [value_column(statistic).alias(str(number)) for number, statistic in enumerate(statistics)]
    table = frame.select(*selected, local_day_column(F.col("time_ms"), zone, since).alias("day")).toArrow()
    for number, statistic in enumerate(statistics):
        values, is_known = values_of(statistic, columns)
        assert table.column(str(number)).to_pylist() == [
            v if k else None for v, k in zip(values.tolist(), is_known, strict=True)
        ]
    expected = [datetime.fromtimestamp(t / 1_000, ZoneInfo(zone)).date() for t in np.resize(times, len(ids)).tolist()]
    assert [day_of_number(number) for number in table.column("day").to_pylist()] == expected
    assert [day_of_number(number) for number in clock.local_day(np.resize(times, len(ids)), zone).tolist()] == expected


def test_impossible_numbers_are_caught() -> None:
    statistic = Statistic(of=("user_id",), impressions=True, rates=("click",))
    names = [f"user_{column.name}" for column in statistic.columns()]
    for numbers, wrong in [
        ([0, 0, 0, math.nan, math.nan, math.nan], 0),
        ([1, 2, 2, 0.0, 0.5, 1.0], 0),
        ([1, 2, 1, 0.0, 0.5, 1.0], 1),
        ([-1, 2, 2, -0.1, 0.5, 1.1], 3),
    ]:
        table = pa.table({name: np.float32([value]) for name, value in zip(names, numbers, strict=True)})
        assert impossible_statistics(table, statistic) == wrong
