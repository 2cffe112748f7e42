"""Snapshots, increments and gaps: samples do not depend on where history is read from."""

from datetime import timedelta
from typing import Any

from spark_helpers import DAY, contents, event, longreel, publish_events, published

from longreel.lake.lineage import stale_snapshots

DAYS = [DAY + timedelta(days=number) for number in range(5)]
DAY_MS = 86_400_000


def publish_log(home: Any) -> None:
    for number, day in enumerate(DAYS):
        # Users 1 .. 3 come and go; every day repeats a time of the day before.
        rows = [event(user, 10 * number + user, (number - i) * DAY_MS + user) for user in (1, 2, 3) for i in (0, 1)]
        publish_events(home, day, [row for row in rows if (row["user_id"] + number) % 3])


def test_any_snapshot_gives_the_same_samples_and_a_rebuild_changes_nothing(
    spark: Any, make_home: Any, capsys: Any
) -> None:
    digests = []
    for name, every, snapshots in (("one-job", 100, []), ("on-a-snapshot", 2, DAYS[1:2]), ("daily", 2, DAYS[1:4:2])):
        home = make_home(name, compact_every_days=every, max_history=5)
        publish_log(home)
        days = [(day, day) for day in DAYS[2:]] if name == "daily" else [(DAYS[2], DAYS[4])]
        for start, end in days:
            assert longreel(home, "data build-samples", "--start", str(start), "--end", str(end)) == 0
        digests.append([home.lake.require("samples", day).digest for day in DAYS[2:]])
        assert list(home.lake.days("history")) == snapshots
        assert max(len(row["history_item_id"]) for row in published(home, "samples", DAYS[4])) > 5
    assert digests[0] == digests[1] == digests[2]

    before = contents(home.path / "lake")
    capsys.readouterr()
    assert longreel(home, "data build-samples", "--date", str(DAYS[4])) == 0
    assert "unchanged" in capsys.readouterr().out
    assert longreel(home, "data build-samples", "--date", str(DAYS[4]), "--force") == 0
    assert contents(home.path / "lake") == before


def test_the_report_says_what_histories_cost(spark: Any, make_home: Any, capsys: Any) -> None:
    """The same log with clicks and with every impression in the history: a click among four, and the days that the two
    newest impressions of a day span."""
    counts = {}
    for events in ("click", "impressions"):
        home = make_home(events, max_history=8)
        for number, day in enumerate(DAYS):
            rows = [
                event(user, item, number * DAY_MS + item, actions=int(item == 0))
                for user in (1, 2)
                for item in range(4)
            ]
            kept = [row | {"history": int(events == "impressions" or row["actions"])} for row in rows]
            publish_events(home, day, kept if number else kept[:4])
        assert longreel(home, "data build-samples", "--date", str(DAYS[4])) == 0
        counts[events] = home.lake.require("samples", DAYS[4]).counts
        output = " ".join(capsys.readouterr().out.split())
        assert f"{counts[events]['history_events']} history events" in output
        assert "a request sees" in output
    # User 1 has five days, user 2 four; each day's own request k sees the clicks or impressions before it.
    clicks, impressions = counts["click"], counts["impressions"]
    assert (clicks["history_events"], impressions["history_events"]) == (5 + 4, 2 * (8 + 4))
    assert clicks["visible_events"] == clicks["window_events"] == (4 + 3 * 5) + (3 + 3 * 4)
    assert impressions["visible_events"] == 2 * (8 + 9 + 10 + 11)
    assert (clicks["history_days"], impressions["history_days"]) == (4 + 3, 2 + 2)
    assert (clicks["full_histories"], impressions["full_histories"], impressions["full_history_days"]) == (0, 2, 4)


def test_a_snapshot_of_events_that_changed_is_not_used(spark: Any, make_home: Any) -> None:
    home = make_home(compact_every_days=2)
    publish_log(home)
    assert longreel(home, "data build-samples", "--date", str(DAYS[2])) == 0
    assert list(home.lake.days("history")) == [DAYS[1]]
    publish_events(home, DAYS[0], [event(1, 777)])
    assert [one.day for one in stale_snapshots(home.lake, home.config)] == [DAYS[1]]
    assert longreel(home, "data build-samples", "--date", str(DAYS[3])) == 0
    assert stale_snapshots(home.lake, home.config) == []  # and removed
    items = {item for row in published(home, "samples", DAYS[3]) for item in row["history_item_id"]}
    assert 777 in items


def test_a_gap_in_the_log_days_is_named(make_home: Any, capsys: Any) -> None:
    home = make_home()
    for day in (DAYS[0], DAYS[2], DAYS[3]):
        publish_events(home, day, [event()])
    assert longreel(home, "data build-samples", "--date", str(DAYS[3])) == 3
    assert f"{DAYS[1]} is not published" in capsys.readouterr().err
    assert longreel(home, "data build-samples", "--date", str(DAYS[4])) == 3
    assert f"events of {DAYS[4]}" in capsys.readouterr().err
    assert home.lake.manifest("samples", DAYS[3]) is None
