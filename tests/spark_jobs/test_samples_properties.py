"""For any small log and any way of building it, samples are those of plain Python; a leak of a millisecond is caught.

The builders are functions of Arrow tables, so most examples run without Spark; a few go through the real step.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from brute_force_samples import cutoff_of, histories_of, plain, samples_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_logs import GAP_MS, SHOP, Case, cases
from spark_helpers import DAY, DAY_MS, MIDNIGHT_MS, Row, event, longreel, new_home, publish_events, published

from longreel.contracts.config import SamplesConfig
from longreel.contracts.definitions import sample_definitions
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.schemas import dataset_schemas
from longreel.lake.home import Home
from longreel.lake.table import Lake
from longreel.model.data.samples import SampleRows
from longreel.spark_jobs import samples as samples_module
from longreel.spark_jobs.array_checks import HISTORY_VIOLATIONS, SAMPLE_VIOLATIONS, Stats, combine, sample_stats
from longreel.spark_jobs.array_digest import digest_from_sums
from longreel.spark_jobs.array_io import write_bucket
from longreel.spark_jobs.bucket_tasks import Bucket, BuildSamples, CompactHistory, DayBuild
from longreel.spark_jobs.history import find_history
from longreel.spark_jobs.samples import DayEvents, UserFields, add_day, sample_tables
from longreel.spark_jobs.user_histories import UserHistories
from tests.short_video import SHORT_VIDEO

SAME = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # the same examples every time


def expected(case: Case, number: int) -> list[Row]:
    """A day's samples in plain Python."""
    config, earlier = case.config, [entry for rows in case.days[:number] for entry in rows]
    options: dict[str, Any] = {"max_history": config.max_history, "max_targets": config.max_targets}
    options |= {"rule": config.request_rule, "gap_ms": config.gap_ms, "users": case.users}
    return plain(samples_of(earlier, case.days[number], case.log, **options))


def events_of(rows: list[Row], log: LogSchema) -> DayEvents:
    return DayEvents.of(pa.Table.from_pylist(rows, schema=dataset_schemas(log).events), log)


def fields_of(case: Case) -> UserFields:
    rows = [{"user_id": user} | fields for user, fields in case.users.items()]
    return UserFields.of(pa.Table.from_pylist(rows, schema=dataset_schemas(case.log).users), case.log)


def build_in_memory(case: Case, first: int = 0) -> Iterator[pa.Table]:
    """Samples of the days from `first` on, the days before it taken into the histories one by one."""
    histories = UserHistories(case.config.max_history, case.log)
    for rows in case.days[:first]:
        add_day(histories, events_of(rows, case.log))
    for rows in case.days[first:]:
        actual = list(sample_tables(events_of(rows, case.log), histories, fields_of(case), case.config))
        yield pa.concat_tables(actual) if actual else dataset_schemas(case.log).samples.empty_table()


@settings(SAME, max_examples=600)
@given(case=cases(), data=st.data())
def test_any_log_and_any_cut_off_give_what_plain_python_gives(case: Case, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(case.days) - 1))
    for number, table in enumerate(build_in_memory(case, first), first):
        assert plain(table.to_pylist()) == expected(case, number)


@settings(SAME, max_examples=300)
@given(case=cases())
def test_a_request_sees_the_newest_history_events_that_are_known_to_it(case: Case) -> None:
    """As literally as it can be said: what partitions, snapshots or `max_history` hold back is no request's loss."""
    names = [f"history_{column.name}" for column in case.log.event_columns if column.size == 1]
    for number, table in enumerate(build_in_memory(case)):
        events = [entry for rows in case.days[: number + 1] for entry in rows]
        for row in table.to_pylist():
            history = histories_of([entry for entry in events if entry["user_id"] == row["user_id"]], case.log)
            for time_ms, end in zip(row["request_time_ms"], row["request_history_end"], strict=True):
                visible = [entry for entry in history if entry["time_ms"] < cutoff_of(time_ms, case.log)]
                newest = visible[-case.config.max_history :]
                begin = max(0, end - case.config.max_history)
                actual = [
                    dict(zip(names, v, strict=True)) for v in zip(*(row[n][begin:end] for n in names), strict=True)
                ]
                expected = [{name: entry[name.removeprefix("history_")] for name in names} for entry in newest]
                assert str(actual) == str(expected)


@settings(SAME, max_examples=150)
@given(case=cases(), data=st.data())
def test_rows_may_come_in_any_order(case: Case, data: st.DataObject) -> None:
    shuffled = replace(case, days=[data.draw(st.permutations(rows)) for rows in case.days])
    one, other = (list(build_in_memory(entry)) for entry in (case, shuffled))
    assert [plain(table.to_pylist()) for table in one] == [plain(table.to_pylist()) for table in other]


def run_all(tasks: list[Any]) -> dict[str, Stats]:
    """What Spark would do with tasks, without Spark."""
    parts: dict[str, list[Stats]] = {}
    for task in tasks:
        for day, stats in task.run():
            parts.setdefault(day, []).append(stats)
    return {day: combine(stats) for day, stats in parts.items()}


def buckets_of(home: Home, day: date, buckets: int) -> list[Bucket]:
    source, config = find_history(home.lake, home.config, day), home.config.samples
    options: dict[str, Any] = {"snapshot": source.snapshot, "increments": source.increments}
    options |= {"lake": home.lake, "max_history": config.max_history}
    options["max_lateness_hours"] = home.config.source.max_lateness_hours
    return [Bucket(number=number, of=buckets, **options) for number in range(buckets)]


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
    details = {"definitions": sample_definitions(home.config), "cutoff_ms": tasks[0].bucket.cutoff_ms(day)}
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


def make_lake(folder: Path, case: Case, buckets: int) -> Home:
    config = case.config
    options = f'request_rule = "{config.request_rule}"\ngap_ms = {GAP_MS}\nmax_targets = {config.max_targets}'
    home = new_home(
        folder,
        max_history=config.max_history,
        samples=options,
        source="outcome_hours = 48\nmax_lateness_hours = 48",
        schema=case.toml,
        time_zone=case.log.time_zone,
    )
    for number, rows in enumerate(case.days):
        publish_events(home, DAY + timedelta(days=number), rows, buckets, users=case.users)
    return home


@settings(SAME, max_examples=80)
@given(case=cases(), data=st.data())
def test_ranges_compactions_and_buckets_change_no_digest(case: Case, data: st.DataObject) -> None:
    """Days one by one or together, snapshots after any days, files and tasks of any number of buckets."""
    sizes, count = st.sampled_from([1, 2, 8]), len(case.days)
    with tempfile.TemporaryDirectory() as folder:
        one = make_lake(Path(folder, "one"), case, 1)
        together = build_stretch(one, 0, count - 1, 1)
        other = make_lake(Path(folder, "other"), case, data.draw(sizes))
        actual, first = [], 0
        while first < count:
            last = data.draw(st.integers(first, count - 1))
            actual += build_stretch(other, first, last, data.draw(sizes))
            if data.draw(st.booleans()):
                compact(other, DAY + timedelta(days=last), data.draw(sizes))
            first = last + 1
        assert actual == together


@settings(SAME, max_examples=4)
@given(case=cases())
def test_the_real_step_gives_what_plain_python_gives(spark: Any, case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = make_lake(Path(folder, "home"), case, 2)
        last = DAY + timedelta(days=len(case.days) - 1)
        assert longreel(home, "data build-samples", "--start", str(DAY), "--end", str(last), "--accept-drift") == 0
        for number in range(len(case.days)):
            assert plain(published(home, "samples", DAY + timedelta(days=number))) == expected(case, number)


@pytest.mark.parametrize("known_after", ["", "2 d"])
def test_what_a_request_does_not_see_yet_takes_no_place_in_a_snapshot(tmp_path: Path, known_after: str) -> None:
    """A late row's request, and events that become known after the request, before and after a compaction."""
    hour_ms, log = 3_600_000, replace(SHORT_VIDEO, history_known_after=known_after)
    days = [
        [event(1, 1, 0), event(1, 2, DAY_MS - 1), event(2, 1, 5)],
        [event(1, 3, DAY_MS - hour_ms), event(2, 2, DAY_MS + 1)],
        [event(1, 4, 2 * DAY_MS + 1), event(2, 3, 2 * DAY_MS + 6)],
    ]
    case = Case(log, days, {}, SamplesConfig(max_history=1))
    together = build_stretch(make_lake(tmp_path / "one", case, 1), 0, 2, 1)
    home = make_lake(tmp_path / "other", case, 1)
    compacted = []
    for number in range(3):
        compacted += build_stretch(home, number, number, 1)
        compact(home, DAY + timedelta(days=number), 1)
    assert compacted == together
    rows = [published_history(table) for table in build_in_memory(case)][2]
    assert rows == ({1: [2], 2: [2]} if not known_after else {1: [1], 2: [1]})


def published_history(table: pa.Table) -> dict[int, list[int]]:
    """The newest history event that each user's first request sees."""
    return {row["user_id"]: row["history_item_id"][: row["request_history_end"][0]][-1:] for row in table.to_pylist()}


def test_a_late_purchase_is_known_from_its_own_millisecond_on() -> None:
    """Bought after the midnight of its impression's log day. What came of it is in its own event alone."""
    shown, bought = DAY_MS - 1_000, DAY_MS + 5_000
    fields = {"brand": 7, "tags": [1, 2], "title": [0.0] * 3, "price": 9.5, "device": 3, "basket": [-1, -1]}
    common = {"user_id": 1, "request_id": None, "click_place": 4, "cart_ms": None, "labels": 1} | fields
    unsold = {"actions": 1, "purchase_ms": None, "paid": float("nan"), "history": 1}
    sold = {"actions": 1 | SHOP.action_bit("purchase"), "purchase_ms": MIDNIGHT_MS + bought, "paid": 9.0, "history": 5}
    rows = [
        common | unsold | {"item_id": 10 + number, "time_ms": MIDNIGHT_MS + at, "dwell": 2.0, "label_spent": 0.0}
        for number, at in enumerate((shown, bought - 1, bought, bought + 1))
    ]
    rows[0] |= sold
    case = Case(SHOP, [rows[:1], rows[1:]], {}, SamplesConfig())
    today, tomorrow = (table.to_pylist() for table in build_in_memory(case))
    (own,), (row,) = today, tomorrow
    assert own["request_history_end"] == [0]
    times = [time - MIDNIGHT_MS for time in row["history_time_ms"]]
    assert times == [shown, bought - 1, bought, bought, bought + 1]
    assert row["history_item_id"] == [10, 11, 10, 12, 13]  # the purchase is the second event of item 10
    assert row["request_history_end"] == [1, 2, 4]
    assert row["history_actions"] == [1, 1, SHOP.action_bit("purchase"), 1, 1]
    assert str(row["history_paid"]) == "[nan, nan, 9.0, nan, nan]"
    assert str(row["history_dwell"]) == "[2.0, 2.0, nan, 2.0, 2.0]"
    assert row["history_click_place"] == [4, 4, -1, 4, 4]
    assert row["history_brand"] == [7] * 5


# What must not pass: requests that see an event of the same millisecond, or miss an older one.


def stats_of(table: pa.Table, log: LogSchema, folder: str) -> Stats:
    """What the checkpoint is given of a file with these rows."""
    writer = Lake(folder, log).writer("samples", DAY)
    return sample_stats(writer.lake, write_bucket(writer, 0, [table]), 0, 1)


def with_list(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    """The table with other values in a list column."""
    place, column = table.schema.get_field_index(name), table.column(name).combine_chunks()
    lists = pa.ListArray.from_arrays(column.offsets, pa.array(values, column.type.value_type))
    return table.set_column(place, table.schema.field(name), lists)


@settings(SAME, max_examples=60)
@given(case=cases(), data=st.data())
def test_a_history_end_that_is_off_by_one_is_caught(case: Case, data: st.DataObject) -> None:
    table = list(build_in_memory(case))[-1].combine_chunks()
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
        stats = stats_of(broken, case.log, folder)
    inside = 0 <= wrong[place] <= np.repeat(lengths, per_row)[place]
    if shift > 0 or not inside:
        assert stats["leaking"] == 1
        with pytest.raises(LongreelError, match=r"at or after the request|not known yet|outside the history"):
            SampleRows.from_arrow(broken, case.log)
    else:
        assert stats["missing_events"] == 1


@settings(SAME, max_examples=60)
@given(case=cases())
def test_one_millisecond_too_late_is_caught(case: Case) -> None:
    """The newest event that a request sees, stamped with the request's cutoff."""
    table = list(build_in_memory(case))[-1].combine_chunks()
    row = next((r for r, entry in enumerate(table.to_pylist()) if any(entry["request_history_end"])), None)
    assume(row is not None)
    assert row is not None
    entry = table.slice(row, 1).to_pylist()[0]
    request = next(r for r, end in enumerate(entry["request_history_end"]) if end)
    end, at = entry["request_history_end"][request] - 1, round(cutoff_of(entry["request_time_ms"][request], case.log))
    for time_ms, leaks in ((at - 1, False), (at, True)):
        moved = [*entry["history_time_ms"][:end], time_ms, *entry["history_time_ms"][end + 1 :]]
        if moved != sorted(moved):
            continue
        changed = pa.Table.from_pylist([entry | {"history_time_ms": moved}], schema=table.schema)
        with tempfile.TemporaryDirectory() as folder:
            assert (stats_of(changed, case.log, folder)["leaking"] > 0) == leaks
        if leaks:
            with pytest.raises(LongreelError, match=r"at or after the request|not known yet"):
                SampleRows.from_arrow(changed, case.log)
        else:
            SampleRows.from_arrow(changed, case.log)


def test_a_builder_that_sees_its_own_millisecond_fails_every_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that these tests are for: `<=` in the place of `<`."""
    days = [[event(1, 1, 0), event(1, 2, 5)], [event(1, 3, 5), event(1, 2, DAY_MS), event(1, 3, DAY_MS + 1)]]
    case = Case(SHORT_VIDEO, days, {}, SamplesConfig())
    good = [plain(table.to_pylist()) for table in build_in_memory(case)]
    assert good == [expected(case, number) for number in range(2)]
    older = samples_module._Chunk._older

    def not_newer(self: Any, places: Any, lengths: Any) -> Any:
        self.__dict__["cutoff_ms"] = self.cutoff_ms + 1
        actual = older(self, places, lengths)
        self.__dict__["cutoff_ms"] -= 1
        return actual

    monkeypatch.setattr(samples_module._Chunk, "_older", not_newer)
    leaking = list(build_in_memory(case))
    assert [plain(table.to_pylist()) for table in leaking] != good
    for table in leaking:
        with tempfile.TemporaryDirectory() as folder:
            assert stats_of(table, SHORT_VIDEO, folder)["leaking"] > 0
        with pytest.raises(LongreelError, match="at or after the request"):
            SampleRows.from_arrow(table, SHORT_VIDEO)


@pytest.mark.parametrize(
    ("zone", "day", "changed"),
    [
        ("Europe/Berlin", datetime(2026, 3, 29), 2),  # 23 hours
        ("Europe/Berlin", datetime(2026, 10, 25), 2),  # 25 hours
        ("America/Sao_Paulo", datetime(2018, 11, 4), 0),  # begins at one o'clock
        ("Asia/Shanghai", datetime(2026, 3, 2), 12),
    ],
)
def test_with_next_day_a_request_sees_the_days_before_its_own(zone: str, day: datetime, changed: int) -> None:
    """To the millisecond on days on which the clock changes, and a builder with another rule is caught."""
    clock = ZoneInfo(zone)
    midnight_ms = round(day.replace(tzinfo=clock).timestamp() * 1_000)
    evening_ms = round(day.replace(hour=23, tzinfo=clock).timestamp() * 1_000)
    change_ms = round(day.replace(hour=changed, tzinfo=clock).timestamp() * 1_000)
    times = [midnight_ms - 1, midnight_ms, change_ms + 1, evening_ms]
    rows = [event(1, number, time_ms - MIDNIGHT_MS) for number, time_ms in enumerate(times)]
    log = replace(SHORT_VIDEO, history_known_after="next day", time_zone=zone)
    tables = {rule: next(build_in_memory(Case(rule, [rows], {}, SamplesConfig()))) for rule in (log, SHORT_VIDEO)}
    assert tables[log].to_pylist()[0]["request_history_end"] == [0, 1, 1, 1]
    with tempfile.TemporaryDirectory() as folder:
        assert not any(stats_of(tables[log], log, folder).get(name) for name in SAMPLE_VIOLATIONS)
        assert stats_of(tables[SHORT_VIDEO], log, folder)["leaking"] == 2
        assert stats_of(tables[log], SHORT_VIDEO, folder)["missing_events"] == 2
