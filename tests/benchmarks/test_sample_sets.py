"""A compact set holds the requests of daily samples, each with the same history; and the truth of its test part."""

import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.extrapolation.changed_sets import changed
from benchmarks.extrapolation.oracle import ceiling, day_rows, truth_of
from benchmarks.extrapolation.sample_sets import Sets, content_digest, events_of, from_home, from_world
from benchmarks.samples.logs import publish, publish_bootstrap
from longreel.contracts.jagged import list_values, ranges
from longreel.contracts.presets import preset
from longreel.lake.home import CONFIG_FILE, Home
from longreel.model.data.samples import SampleRows
from longreel.spark_jobs.samples import DayEvents, UserFields, add_day, sample_tables
from longreel.spark_jobs.simulated_day import simulate_day
from longreel.spark_jobs.simulated_world import WorldSettings, make_world
from longreel.spark_jobs.user_histories import UserHistories

FIRST = date(2026, 1, 5)
SAMPLES = """
[samples]
max_history = 64
request_rule = "request_id"
"""
WORLD = WorldSettings(users=25, items=300, activity=40, interests=20)


def described(rows: SampleRows, newest: int) -> dict[tuple[int, int], tuple[object, ...]]:
    """(user, time) of a request -> its newest events, its targets and labels. Late rows give a request two parts."""
    by_request: dict[tuple[int, int], list[tuple[object, ...]]] = {}
    assert rows.labels is not None
    for r in range(rows.num_requests):
        stop = rows.history_stop[r]
        events = np.arange(max(rows.history_start[r], stop - newest), stop)
        targets = ranges(rows.target_offsets[r : r + 1], rows.target_counts[r : r + 1])
        # NaN equals nothing, so -1 stands for it.
        columns = {name: np.nan_to_num(values[events], nan=-1) for name, values in rows.history.items()}
        history = tuple(tuple(columns[name].tolist()) for name in sorted(columns))
        shown = tuple(tuple(rows.target[name][targets].tolist()) for name in sorted(rows.target))
        key = (int(rows.user_id[rows.request_row[r]]), int(rows.request_time_ms[r]))
        assert key not in by_request
        by_request[key] = (history, shown, tuple(rows.labels[targets].tolist()))
    return by_request


def new_home(folder: Path) -> Home:
    """A home for simulated events, without fields of users."""
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(re.sub(r"\[fields\.user\]\n(\w.*\n)+", "", preset("simulated")) + SAMPLES)
    return Home(folder)


@pytest.mark.parametrize("with_archive", [False, True])
def test_every_request_sees_in_a_set_what_it_sees_in_its_days_samples(tmp_path: Path, with_archive: bool) -> None:
    home, world = new_home(tmp_path / "home"), make_world(WORLD)
    log = home.config.log_schema
    newest = 48  # a day's history of max_history events may hold some of the next day, which its first requests lack
    days = [FIRST + timedelta(days=n) for n in range(6)]
    impressions = {day: simulate_day(world, day) for day in days}
    tables = {day: events_of(world, shown) for day, shown in impressions.items()}
    histories = UserHistories(home.config.samples.max_history, log)
    if with_archive:
        archived = tables.pop(days[0])
        publish_bootstrap(home, days[0], archived)
        add_day(histories, DayEvents.of(archived, log))
        days = days[1:]
    daily: dict[tuple[int, int], tuple[object, ...]] = {}
    no_users = UserFields(log=log, user_id=np.zeros(0, np.int64), columns={})
    for day in days:
        publish(home, day, tables[day])
        day_parts = sample_tables(DayEvents.of(tables[day], log), histories, no_users, home.config.samples)
        daily |= described(SampleRows.from_arrow(pa.concat_tables(day_parts), log), newest)
    sets = from_home(home, tmp_path / "set", split=days[-2])
    assert (sets.train, sets.test) == (days[-3], days[-1])
    parts = [described(day_rows(sets.lake, day), newest) for day in (sets.train, sets.test)]
    assert min(time for _, time in parts[1]) > max(time for _, time in parts[0])
    assert parts[0] | parts[1] == daily


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    folder = tmp_path_factory.mktemp("sets") / "sim"
    return from_world(WORLD, folder, archive_days=2, train_days=2, test_days=1, request_share=0.5)


def test_a_thinned_set_keeps_whole_requests_and_all_history(sets: Sets, tmp_path: Path) -> None:
    whole = from_world(WORLD, tmp_path / "whole", archive_days=2, train_days=2, test_days=1)
    for name in ("train", "test"):
        thin, all_of = (described(day_rows(s.lake, getattr(s, name)), 10_240) for s in (sets, whole))
        assert 0.35 < len(thin) / len(all_of) < 0.65
        assert thin.items() <= all_of.items()


def test_the_truth_is_calibrated_and_better_than_any_guess(sets: Sets) -> None:
    rows = day_rows(sets.lake, sets.test)
    truth = truth_of(sets, rows, ("click", "finish"))
    labels = rows.task_labels(("click", "finish"))
    error = np.sqrt((truth * (1 - truth)).sum(axis=0))
    assert (np.abs(labels.sum(axis=0) - truth.sum(axis=0)) < 4 * error).all()
    slices = {row["slice"]: row for row in ceiling(rows, truth, ("click",))}
    assert slices["all"]["auc"] > 0.75  # type: ignore[operator]
    assert sum(row["targets"] for name, row in slices.items() if name != "all") == slices["all"]["targets"]  # type: ignore[misc]


def test_controls_change_labels_of_training_or_hide_histories_and_nothing_else(sets: Sets) -> None:
    before = {name: day_rows(sets.lake, getattr(sets, name)) for name in ("train", "test")}
    shuffled, bare = (changed(sets, name) for name in ("shuffled", "no-history"))
    rows = day_rows(shuffled.lake, sets.train)
    assert rows.labels is not None
    assert before["train"].labels is not None
    assert sorted(rows.labels) == sorted(before["train"].labels)
    assert (rows.labels != before["train"].labels).mean() > 0.2
    assert described(day_rows(shuffled.lake, sets.test), 99) == described(before["test"], 99)
    for name in ("train", "test"):
        rows = day_rows(bare.lake, getattr(sets, name))
        assert rows.history_lengths.sum() == 0
        assert rows.num_requests == before[name].num_requests
        np.testing.assert_array_equal(rows.labels, before[name].labels)
    assert pq.read_table(sets.folder / "truth.parquet").num_rows > 0


@pytest.mark.parametrize("column", ["target_labels", "target_item_id", "history_item_id", "user_id"])
def test_a_set_is_named_by_its_content(sets: Sets, tmp_path: Path, column: str) -> None:
    """Permuted values keep the number of rows and events, and every sum."""
    table = sets.lake.read(sets.lake.require("samples", sets.train))
    digests = []
    for name, changes in (("same", False), ("permuted", True)):
        values, offsets = (table.column(column), None) if column == "user_id" else list_values(table, column)
        values = np.asarray(values)
        values = np.roll(values, 1) if changes else values
        assert np.any(np.roll(values, 1) != values)
        array = pa.array(values, sets.lake.schemas.samples.field(column).type if offsets is None else None)
        if offsets is not None:
            array = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), array)
        at = table.schema.get_field_index(column)
        path = tmp_path / f"{name}.parquet"
        pq.write_table(table.set_column(at, table.schema.field(at), array.cast(table.schema.field(at).type)), path)
        digests.append(content_digest(str(path)))
    assert digests[0] == sets.lake.require("samples", sets.train).digest != digests[1]
