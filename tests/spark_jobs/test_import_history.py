"""Older history as the bootstrap snapshot: samples are those of a log that always had its rows."""

import gzip
import json
import random
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from brute_force_samples import samples_of
from spark_helpers import DAY, MIDNIGHT_MS, Row, event, longreel, published, row, write_raw

DAYS = [DAY + timedelta(days=number) for number in range(3)]
THROUGH = DAY - timedelta(days=1)
DAY_MS = 86_400_000
FAR_BACK_MS = 3_000 * DAY_MS


KUAIRAND = """
[fields.item]
author_id = {kind = "id", optional = true}
[actions]
click = "is_click"
like = "is_like"
[labels]
click = "click"
like = "like"
"""


def write_bootstrap(home: Any, rows: list[Row]) -> None:
    folder = home.path / "raw" / "history"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "old.parquet")


def random_rows(rng: random.Random, times: list[int], count: int) -> list[Row]:
    """Few users, items and times: ties everywhere, some rows equal in every column, some no history event."""
    return [
        row(
            rng.randint(1, 4),
            rng.randint(1, 5),
            rng.choice(times),
            click=rng.choice([0, 1, 1]),
            play_ms=rng.choice([0, 9]),
        )
        for _ in range(count)
    ]


def events_of(rows: list[Row]) -> list[Row]:
    """The events that rows are, each once."""
    distinct = {json.dumps(entry, sort_keys=True): entry for entry in rows}.values()
    return [
        event(entry["user_id"], entry["item_id"], actions=entry["click"], play_ms=entry["play_ms"])
        | {"time_ms": entry["time_ms"]}
        for entry in distinct
    ]


@pytest.mark.parametrize(("seed", "most"), [(1, 4), (2, 10_240)])
def test_samples_on_a_bootstrap_snapshot_equal_plain_python(spark: Any, make_home: Any, seed: int, most: int) -> None:
    home, rng = make_home(max_history=most, compact_every_days=2), random.Random(seed)
    # The first day's log holds rows stamped before its midnight, at the times of the last older ones.
    old = random_rows(rng, [-FAR_BACK_MS, -DAY_MS, -3, -2, -2, -1], 80)
    logs = [random_rows(rng, [n * DAY_MS + at for at in (-2, -1, 0, 1, 2)], 25) for n in range(len(DAYS))]
    late, without_user = row(item=99, at=0), row(item=99, at=-5) | {"user_id": None}
    write_bootstrap(home, [*old, late, without_user])
    for day, rows in zip(DAYS, logs, strict=True):
        write_raw(home, day, rows)
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 0

    snapshot, older = home.lake.require("history", THROUGH), events_of(old)
    assert (snapshot.counts["input_rows"], snapshot.counts["events"]) == (82, len(older))
    assert snapshot.counts["exact_duplicates"] == 80 - len(older) > 0
    assert (snapshot.counts["quarantined_future_time"], snapshot.counts["quarantined_missing_user"]) == (1, 1)
    assert snapshot.counts["history_events_read"] == sum(entry["actions"] for entry in older)
    rejected = {
        entry["reason"]: json.loads(entry["row"])["item_id"] for entry in published(home, "quarantine", THROUGH)
    }
    assert rejected == {"future_time": 99, "missing_user": 99}
    assert list(home.lake.days("events")) == []

    words = ("--start", str(DAYS[0]), "--end", str(DAYS[-1]))
    assert longreel(home, "data ingest", *words) == 0
    for start, end in (DAYS[:2], DAYS[2:] * 2):
        assert longreel(home, "data build-samples", "--start", str(start), "--end", str(end)) == 0
    assert list(home.lake.days("history")) == [
        THROUGH,
        DAYS[1],
    ]  # the bootstrap snapshot, and a compacted one
    for number, day in enumerate(DAYS):
        earlier = older + [entry for rows in logs[:number] for entry in events_of(rows)]
        expected = samples_of(earlier, events_of(logs[number]), max_history=most)
        actual = published(home, "samples", day)
        assert actual == expected
        assert home.lake.require("samples", day).inputs[f"history/{THROUGH}"] == snapshot.digest


def test_corrected_older_history_reaches_samples_past_snapshots_compacted_from_the_old_one(
    spark: Any, make_home: Any, capsys: Any
) -> None:
    home, last = make_home(compact_every_days=2), str(DAYS[-1])
    write_bootstrap(home, [row(item=1, at=-9)])
    for number, day in enumerate(DAYS):
        write_raw(home, day, [row(item=10 + number, at=number * DAY_MS)])
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 0
    assert longreel(home, "data ingest", "--start", str(DAY), "--end", last) == 0
    assert longreel(home, "data build-samples", "--date", last) == 0
    assert list(home.lake.days("history")) == [THROUGH, DAYS[1]]
    capsys.readouterr()
    # Published days do not prevent another import of the older history, corrected or not.
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 0
    assert longreel(home, "data build-samples", "--date", last) == 0
    assert capsys.readouterr().out.count("unchanged") == 2
    write_bootstrap(home, [row(item=2, at=-9)])
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 0
    assert longreel(home, "data build-samples", "--date", last) == 0
    (sample,) = published(home, "samples", DAYS[-1])
    assert sample["history_item_id"] == [2, 10, 11, 12]

    config = home.path / "longreel.toml"
    text = config.read_text()
    for old, new, reason in (
        (
            'events = "click OR like',
            'events = "like',
            "history was click OR like OR follow",
        ),
        (
            "max_history = 10240",
            "max_history = 20480",
            "it keeps 10,240 events a user, max_history asks for 20,480",
        ),
    ):
        config.write_text(text.replace(old, new))
        assert longreel(home, "data build-samples", "--date", last) == 2
        message = capsys.readouterr().err
        assert reason in message
        assert f"longreel data import-history --through {THROUGH}" in message


def test_what_older_history_cannot_be_is_named(make_home: Any, spark: Any, capsys: Any) -> None:
    home = make_home(share=0.4)
    write_raw(home, DAY, [row()])
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 2
    assert "expected a folder history/" in capsys.readouterr().err
    write_bootstrap(home, [row(item=1, at=-9), row(item=2, at=DAY_MS)])
    assert longreel(home, "data import-history", "--through", str(DAY)) == 2
    assert f"begins on {DAY}; older history must end before" in capsys.readouterr().err
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 4
    message = capsys.readouterr().err
    assert "share of rows quarantined (1 future_time): expected 0 .. 0.4, got 0.5" in message
    assert "1 future_time: they are 24.0 to 24.0 h after the log day ended" in message
    assert "rejected-rows.jsonl" in message
    write_bootstrap(home, [row(item=1, at=-9) | {"time_ms": MIDNIGHT_MS // 1000 - number} for number in (1, 2)])
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 4
    assert "2 stale_time: read as seconds since 1970 they are of the day: set [source] time_ms" in (
        capsys.readouterr().err
    )
    assert list(home.lake.days("history")) == list(home.lake.days("quarantine")) == []
    assert not list((home.path / "lake").rglob("*.parquet"))

    write_bootstrap(home, [row(item=1, at=-9)])
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 0
    assert longreel(home, "data import-history", "--through", str(THROUGH - timedelta(days=1))) == 2
    assert f"imported through {THROUGH} already" in capsys.readouterr().err
    write_raw(home, THROUGH, [row(at=-5)])
    assert longreel(home, "data ingest", "--date", str(THROUGH)) == 2
    assert "lies within the bootstrap snapshot" in capsys.readouterr().err
    write_raw(home, DAYS[1], [row(at=DAY_MS)])
    assert longreel(home, "data ingest", "--date", str(DAYS[1])) == 0
    assert longreel(home, "data build-samples", "--date", str(DAYS[1])) == 3  # the day between snapshot and build
    assert f"{DAY} is not published" in capsys.readouterr().err


def test_kuairand_history_files_are_older_history_and_no_log_days(spark: Any, make_home: Any) -> None:
    home = make_home(kind="kuairand", source='item_id = "video_id"', schema=KUAIRAND)
    raw = home.path / "raw"
    raw.mkdir()
    columns = (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
        "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
    )

    def line(day: str, at: int, video: int) -> str:
        return f"1,{video},{day},0,{row(at=at)['time_ms']},1,0,0,0,0,0,0,5,8,0,0,0,0,1\n"

    with gzip.open(raw / "log_history.csv.gz", "wt") as stream:
        stream.write(columns + line("20010203", -FAR_BACK_MS, 1) + line("20260301", -1, 2))
        stream.write(line("2026", -2, 3) + line("20260302", 0, 4))
    (raw / "log_standard.csv").write_text(columns + line("20260302", 5, 6))
    (raw / "video_features_basic.csv").write_text("video_id,author_id,tag\n2,50,12\n")
    assert longreel(home, "data ingest", "--date", str(THROUGH)) == 3  # a day of the older history is no day of the log
    assert longreel(home, "data import-history", "--through", str(THROUGH)) == 0
    counts = home.lake.require("history", THROUGH).counts
    assert (counts["quarantined_unreadable_date"], counts["quarantined_future_time"]) == (1, 1)
    assert longreel(home, "data ingest", "--date", str(DAY)) == 0
    assert home.lake.require("events", DAY).counts["input_rows"] == 1
    assert longreel(home, "data build-samples", "--date", str(DAY)) == 0
    (sample,) = published(home, "samples", DAY)
    assert sample["history_item_id"] == [1, 2, 6]
    assert sample["history_author_id"] == [-1, 50, -1]
    assert sample["request_history_end"] == [2]
