"""Lopsided days: one user with everything, a day with one user, a multitude with one event each; nothing is dropped."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from brute_force_samples import samples_of
from spark_helpers import DAY, MIDNIGHT_MS, REPOSITORY, event, longreel, publish_events, published

from longreel.contracts.config import SamplesConfig
from longreel.contracts.jagged import list_values
from longreel.contracts.schemas import dataset_schemas
from longreel.spark_jobs import samples as samples_module
from longreel.spark_jobs.samples import DayEvents, UserFields, add_day, sample_tables
from longreel.spark_jobs.user_histories import UserHistories
from tests.short_video import SHORT_VIDEO

EVENTS = dataset_schemas(SHORT_VIDEO).events
NO_USERS = UserFields.of(dataset_schemas(SHORT_VIDEO).users.empty_table(), SHORT_VIDEO)
TARGETS = 512
CROWD = """
import resource
import numpy as np
import pyarrow as pa
from test_skew import EVENTS, columns, build

users = {users}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 0
for table in build(pa.table(columns(np.arange(users), np.arange(users) % 86_400_000), schema=EVENTS), 512):
    rows += table.num_rows
assert rows == users
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def columns(user: np.ndarray, at: np.ndarray) -> dict[str, Any]:
    """Events of users at milliseconds after the midnight of DAY; every third is a click."""
    count = len(user)
    number = np.arange(count)
    return {
        "user_id": user,
        "time_ms": MIDNIGHT_MS + at,
        "request_id": pa.nulls(count, pa.string()),
        "item_id": number,
        **{name: np.full(count, -1) for name in ("author_id", "tag", "surface")},
        **{name: (number % 3 == 0).astype(np.int32) for name in ("actions", "history", "labels")},
        **{name: np.zeros(count, np.float32) for name in ("play_ms", "duration_ms")},
    }


def build(table: pa.Table, most: int, past: pa.Table | None = None) -> Any:
    """The sample tables of a day, as a bucket's task makes them."""
    histories, config = UserHistories(10_240, SHORT_VIDEO), SamplesConfig(max_targets=most)
    if past is not None:
        add_day(histories, DayEvents.of(past, SHORT_VIDEO))
    return sample_tables(DayEvents.of(table, SHORT_VIDEO), histories, NO_USERS, config)


def test_a_user_with_a_quarter_million_events_in_a_day_keeps_all_of_them() -> None:
    """One request of 100,000 impressions, and 150,000 impressions a millisecond apart."""
    crowded, single = 100_000, 150_000
    at = np.concatenate([np.full(crowded, 7), 8 + np.arange(single)])
    order = np.random.default_rng(0).permutation(len(at))
    table = pa.table(columns(np.full(len(at), 42), at), schema=EVENTS)
    (table_built,) = build(table.take(pa.array(order)), TARGETS)
    assert table_built.num_rows == 1
    stops = np.diff(np.concatenate([[0], np.asarray(list_values(table_built, "request_target_end")[0])]))
    parts = -(-crowded // TARGETS)
    assert len(stops) == parts + single
    assert stops.max() == TARGETS
    assert sorted(np.asarray(list_values(table_built, "target_item_id")[0])) == list(range(len(at)))
    times = np.asarray(list_values(table_built, "request_time_ms")[0]) - MIDNIGHT_MS
    clicks = np.sort(at[np.arange(len(at)) % 3 == 0])
    ends = np.asarray(list_values(table_built, "request_history_end")[0])
    assert np.array_equal(ends, np.searchsorted(clicks, times))
    assert set(ends[:parts]) == {0}  # the parts of a request see what it sees


def test_one_busy_user_changes_no_row_of_other_users(spark: Any, make_home: Any) -> None:
    home = make_home(samples="max_targets = 16")
    others = [event(user, item, at=item * 1_000) for user in range(1, 30) for item in range(4)]
    busy = [event(99, n % 50, at=n // 40, actions=n % 2) for n in range(3_000)]
    tomorrow, day_ms = DAY + timedelta(days=1), 86_400_000
    alone = [event(99, n, at=day_ms + n) for n in range(5)]
    publish_events(home, DAY, others + busy)
    publish_events(home, tomorrow, alone)  # a day with one user
    assert longreel(home, "data build-samples", "--start", str(DAY), "--end", str(tomorrow)) == 0
    for day, earlier, today in ((DAY, [], others + busy), (tomorrow, others + busy, alone)):
        assert published(home, "samples", day) == samples_of(earlier, today, max_targets=16)
        counts = home.lake.require("samples", day).counts
        assert (counts["targets"], counts["max_request_targets"]) == (len(today), 16 if day == DAY else 1)


def test_row_groups_hold_about_as_much_whatever_a_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "ROW_GROUP_EVENTS", 4_000)
    crowd = pa.table(columns(np.arange(3_000), np.arange(3_000)), schema=EVENTS)
    heavy = pa.table(columns(np.repeat(np.arange(5), 3_000), np.tile(np.arange(3_000), 5)), schema=EVENTS)
    groups = [table.num_rows for table in build(crowd, TARGETS)]
    assert np.allclose(groups[:-1], 4_000 / (1 + 1 / 3 + samples_module.ROW_EVENTS), atol=1)
    assert [table.num_rows for table in build(heavy, TARGETS)] == [1] * 5  # a user's row is never divided


def test_a_multitude_with_one_event_each_costs_few_bytes_a_user() -> None:
    """A task's bucket may have two million users; row groups keep what is decoded at once small."""
    users = 800_000
    path = {"PYTHONPATH": f"{REPOSITORY}:{Path(__file__).parent}"}
    command = [sys.executable, "-c", CROWD.format(users=users)]
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1]) * 1024
    assert peak / users < 500  # 194 were measured
