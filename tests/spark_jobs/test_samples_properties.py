"""For any small log and any way of building it, samples are those of plain Python; a leak of a millisecond is caught.

The builders are functions of Arrow tables, so most examples run without Spark; a few go through the real step.
"""

import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from brute_force_samples import samples_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from spark_helpers import DAY, Row, event, longreel, new_home, publish_events, published

from longreel.contracts.config import SamplesConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import EVENTS, SAMPLES
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.data.samples import SampleRows
from longreel.spark_jobs import samples as samples_module
from longreel.spark_jobs.array_checks import HISTORY_VIOLATIONS, SAMPLE_VIOLATIONS, Stats, combine, sample_stats
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.array_io import write_bucket
from longreel.spark_jobs.bucket_tasks import Bucket, BuildSamples, CompactHistory, DayBuild
from longreel.spark_jobs.history import find_history, history_settings
from longreel.spark_jobs.samples import DayEvents, UserFeatures, add_day, sample_tables
from longreel.spark_jobs.user_histories import UserHistories

DAY_MS = 86_400_000
GAP_MS = 3
CLICK = 1
NO_USERS = UserFeatures(
    user_id=np.zeros(0, np.int64), features=np.zeros((0, 0), np.int64), unknown=np.zeros(0, np.int64)
)

# Times of a log day against its midnight: ties, neighbouring milliseconds, rows stamped into the days around it.
OFFSETS = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    DAY_MS - 1,
    DAY_MS - 2,
    -1,
    -2,
    -DAY_MS,
    -DAY_MS + 1,
    -2 * DAY_MS,
    DAY_MS,
    DAY_MS + 1,
]
IDS = {"none": st.none(), "all": st.sampled_from(["a", "b", "c"]), "some": st.sampled_from([None, None, "a", "b"])}

SAME = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # the same examples every time


@st.composite
def days(draw: st.DrawFn, ids: str, count: int = 4) -> list[list[Row]]:
    """Consecutive log days of a few users, rows in any order."""
    log = []
    for number in range(draw(st.integers(1, count))):
        one = st.builds(
            event,
            user=st.integers(1, 3),
            item=st.integers(1, 3),
            at=st.sampled_from(OFFSETS).map(lambda at, start=number * DAY_MS: start + at),  # type: ignore[misc]
            request_id=IDS[ids],
            actions=st.sampled_from([0, 1, 2, 32, 65]),
            play_ms=st.sampled_from([0, 3_000, 3_001, 9_000]),
            duration_ms=st.sampled_from([0, 9_000]),
        )
        log.append(draw(st.lists(one, max_size=12)))
    return log


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[Row]], SamplesConfig]:
    """A log, and settings that it can be built with."""
    ids = draw(st.sampled_from(sorted(IDS)))
    rules = {"none": ["auto", "delivery_time", "gap"], "some": ["auto", "gap"], "all": ["auto", "request_id", "gap"]}
    config = SamplesConfig(
        request_rule=draw(st.sampled_from(rules[ids])),
        gap_ms=GAP_MS,
        max_history=draw(st.sampled_from([1, 2, 3, 5, 10_240])),
        max_targets=draw(st.sampled_from([1, 2, 3, 512])),
    )
    return draw(days(ids)), config


def expected(log: list[list[Row]], number: int, config: SamplesConfig) -> list[Row]:
    """A day's samples in plain Python."""
    earlier = [entry for rows in log[:number] for entry in rows]
    options = {"rule": config.request_rule, "gap_ms": config.gap_ms, "max_history": config.max_history}
    return samples_of(earlier, log[number], CLICK, max_targets=config.max_targets, **options)


def table_of(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=EVENTS)


def build_in_memory(log: list[list[Row]], first: int, config: SamplesConfig) -> Iterator[pa.Table]:
    """Samples of the days from `first` on, the days before it taken into the histories one by one."""
    histories = UserHistories(config.max_history)
    for rows in log[:first]:
        add_day(histories, DayEvents.of(table_of(rows)), CLICK)
    for rows in log[first:]:
        actual = list(sample_tables(DayEvents.of(table_of(rows)), histories, NO_USERS, config, CLICK))
        yield pa.concat_tables(actual) if actual else SAMPLES.empty_table()


def plain(table: pa.Table) -> list[Row]:
    return [{name: value for name, value in entry.items() if name != "user_features"} for entry in table.to_pylist()]


@settings(SAME, max_examples=400)
@given(case=cases(), data=st.data())
def test_any_log_and_any_cut_off_give_what_plain_python_gives(case: Any, data: st.DataObject) -> None:
    log, config = case
    first = data.draw(st.integers(0, len(log) - 1))
    for number, table in enumerate(build_in_memory(log, first, config), first):
        assert plain(table) == expected(log, number, config)


@settings(SAME, max_examples=100)
@given(case=cases(), data=st.data())
def test_rows_may_come_in_any_order(case: Any, data: st.DataObject) -> None:
    log, config = case
    shuffled = [data.draw(st.permutations(rows)) for rows in log]
    one, other = (list(build_in_memory(entry, 0, config)) for entry in (log, shuffled))
    assert [table.to_pylist() for table in one] == [table.to_pylist() for table in other]


def run_all(tasks: list[Any]) -> dict[str, Stats]:
    """What Spark would do with tasks, without Spark."""
    parts: dict[str, list[Stats]] = {}
    for task in tasks:
        for day, stats in task.run():
            parts.setdefault(day, []).append(stats)
    return {day: combine(stats) for day, stats in parts.items()}


def buckets_of(home: Home, day: date, buckets: int) -> list[Bucket]:
    source, config = find_history(home.lake, home.config, day), home.config.samples
    options = {"lake_root": home.lake.root, "snapshot": source.snapshot, "increments": source.increments}
    return [Bucket(number=n, of=buckets, mask=CLICK, max_history=config.max_history, **options) for n in range(buckets)]


def compact(home: Home, day: date, buckets: int) -> None:
    """Publish a history snapshot."""
    source = find_history(home.lake, home.config, day + timedelta(days=1))
    writer = home.lake.writer("history", day)
    tasks = [
        CompactHistory(bucket=b, day=day, writer=writer) for b in buckets_of(home, day + timedelta(days=1), buckets)
    ]
    stats = run_all(tasks)[day.isoformat()]
    assert not any(stats.get(name) for name in HISTORY_VIOLATIONS)
    counts = {"history_events": stats["compacted_events"], "max_history": home.config.samples.max_history}
    details = {"settings": history_settings(home.config)}
    options = {"buckets": buckets, "counts": counts, "details": details}
    writer.commit(digest=digest_from_sums(stats), inputs=source.inputs(), **options)


def build_stretch(home: Home, first: int, last: int, buckets: int) -> list[str]:
    """Digests of the samples of days first .. last, built together."""
    numbers = [DAY + timedelta(days=number) for number in range(first, last + 1)]
    writers = [home.lake.writer("samples", day) for day in numbers]
    built = tuple(
        DayBuild(events=home.lake.require("events", day), users=home.lake.require("users", day), writer=writer)
        for day, writer in zip(numbers, writers, strict=True)
    )
    config = home.config.samples
    tasks = [BuildSamples(bucket=b, days=built, settings=config) for b in buckets_of(home, numbers[0], buckets)]
    actual = run_all(tasks)
    for stats in actual.values():
        assert not any(stats.get(name) for name in SAMPLE_VIOLATIONS)
    return [digest_from_sums(actual.get(day.isoformat(), {})) for day in numbers]


def make_lake(folder: Path, log: list[list[Row]], config: SamplesConfig, buckets: int) -> Home:
    options = f'request_rule = "{config.request_rule}"\ngap_ms = {GAP_MS}\nmax_targets = {config.max_targets}'
    home = new_home(folder, max_history=config.max_history, samples=options)
    for number, rows in enumerate(log):
        publish_events(home, DAY + timedelta(days=number), rows, buckets)
    return home


@settings(SAME, max_examples=60)
@given(case=cases(), data=st.data())
def test_ranges_compactions_and_buckets_change_no_digest(case: Any, data: st.DataObject) -> None:
    """Days one by one or together, snapshots after any days, files and tasks of any number of buckets."""
    log, config = case
    sizes = st.sampled_from([1, 2, 8])
    with tempfile.TemporaryDirectory() as folder:
        one = make_lake(Path(folder, "one"), log, config, 1)
        together = build_stretch(one, 0, len(log) - 1, 1)
        other = make_lake(Path(folder, "other"), log, config, data.draw(sizes))
        actual, first = [], 0
        while first < len(log):
            last = data.draw(st.integers(first, len(log) - 1))
            actual += build_stretch(other, first, last, data.draw(sizes))
            if data.draw(st.booleans()):
                compact(other, DAY + timedelta(days=last), data.draw(sizes))
            first = last + 1
        assert actual == together


@settings(SAME, max_examples=4)
@given(case=cases())
def test_the_real_step_gives_what_plain_python_gives(spark: Any, case: Any) -> None:
    log, config = case
    with tempfile.TemporaryDirectory() as folder:
        home = make_lake(Path(folder, "home"), log, config, 2)
        last = DAY + timedelta(days=len(log) - 1)
        assert longreel(home, "data build-samples", "--start", str(DAY), "--end", str(last), "--accept-drift") == 0
        for number in range(len(log)):
            rows = published(home, "samples", DAY + timedelta(days=number))
            actual = [{name: value for name, value in entry.items() if name != "user_features"} for entry in rows]
            assert actual == expected(log, number, config)


# What must not pass: requests that see an event of the same millisecond, or miss an older one.


def stats_of(table: pa.Table, folder: str) -> Stats:
    """What the checkpoint is given of a file with these rows."""
    writer = Lake(folder).writer("samples", DAY)
    return sample_stats(writer.lake, write_bucket(writer, 0, [table]), 0, 1, 0)


def with_list(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    """The table with other values in a list column."""
    place, column = table.schema.get_field_index(name), table.column(name).combine_chunks()
    lists = pa.ListArray.from_arrays(column.offsets, pa.array(values, column.type.value_type))
    return table.set_column(place, SAMPLES.field(name), lists)


@settings(SAME, max_examples=60)
@given(case=cases(), data=st.data())
def test_a_history_end_that_is_off_by_one_is_caught(case: Any, data: st.DataObject) -> None:
    log, config = case
    table = list(build_in_memory(log, 0, config))[-1].combine_chunks()
    assume(table.num_rows)
    ends = pc.list_flatten(table.column("request_history_end")).to_numpy()
    lengths = pc.list_value_length(table.column("history_time_ms")).to_numpy()
    per_row = pc.list_value_length(table.column("request_time_ms")).to_numpy()
    place = data.draw(st.integers(0, len(ends) - 1))
    shift = data.draw(st.sampled_from([-1, 1]))
    wrong = ends.copy()
    wrong[place] += shift
    broken = with_list(table, "request_history_end", wrong)
    with tempfile.TemporaryDirectory() as folder:
        stats = stats_of(broken, folder)
    inside = 0 <= wrong[place] <= np.repeat(lengths, per_row)[place]
    if shift > 0 or not inside:
        assert stats["leaking"] == 1
        with pytest.raises(LongreelError, match=r"at or after the request|outside the history"):
            SampleRows.from_arrow(broken)
    else:
        assert stats["missing_events"] == 1


@settings(SAME, max_examples=60)
@given(case=cases())
def test_one_millisecond_too_late_is_caught(case: Any) -> None:
    """The newest event that a request sees, stamped with the request's own time."""
    log, config = case
    table = list(build_in_memory(log, 0, config))[-1].combine_chunks()
    row = next((r for r, entry in enumerate(table.to_pylist()) if any(entry["request_history_end"])), None)
    assume(row is not None)
    assert row is not None
    entry = table.slice(row, 1).to_pylist()[0]
    request = next(r for r, end in enumerate(entry["request_history_end"]) if end)
    end, at = entry["request_history_end"][request] - 1, entry["request_time_ms"][request]
    for time_ms, leaks in ((at - 1, False), (at, True)):
        moved = [*entry["history_time_ms"][:end], time_ms, *entry["history_time_ms"][end + 1 :]]
        if moved != sorted(moved):
            continue
        changed = pa.Table.from_pylist([entry | {"history_time_ms": moved}], schema=SAMPLES)
        with tempfile.TemporaryDirectory() as folder:
            assert (stats_of(changed, folder)["leaking"] > 0) == leaks
        if leaks:
            with pytest.raises(LongreelError, match="at or after the request"):
                SampleRows.from_arrow(changed)
        else:
            SampleRows.from_arrow(changed)


def test_a_builder_that_sees_its_own_millisecond_fails_every_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that these tests are for: `<=` in the place of `<`."""
    log = [[event(1, 1, 0), event(1, 2, 5)], [event(1, 3, 5), event(1, 2, DAY_MS), event(1, 3, DAY_MS + 1)]]
    config = SamplesConfig()
    good = [plain(table) for table in build_in_memory(log, 0, config)]
    assert good == [expected(log, number, config) for number in range(2)]
    older = samples_module._Chunk._older

    def not_newer(self: Any, places: Any, lengths: Any) -> Any:
        object.__setattr__(self, "request_time_ms", self.request_time_ms + 1)
        actual = older(self, places, lengths)
        object.__setattr__(self, "request_time_ms", self.request_time_ms - 1)
        return actual

    monkeypatch.setattr(samples_module._Chunk, "_older", not_newer)
    leaking = list(build_in_memory(log, 0, config))
    assert [plain(table) for table in leaking] != good
    for table in leaking:
        with tempfile.TemporaryDirectory() as folder:
            assert stats_of(table, folder)["leaking"] > 0
        with pytest.raises(LongreelError, match="at or after the request"):
            SampleRows.from_arrow(table)
