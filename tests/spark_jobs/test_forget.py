"""After `forget` the lake is the one that a log without the users gives, and it stays so."""

import json
import os
import random
import shutil
import signal
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from brute_force_samples import plain, samples_of
from spark_helpers import DAY, Row, contents, event, longreel, new_home, published, row, step, wait_for, write_raw

from longreel.contracts.config import SourceConfig
from longreel.contracts.errors import LongreelError
from longreel.contracts.schemas import DATASETS
from longreel.lake.erasure import erasure_requests, suppression_list
from longreel.lake.home import Home
from longreel.lake.lineage import stale_partitions
from longreel.lake.table import Lake, PartitionWriter
from longreel.spark_jobs.erasure_manifests import parse_user_ids

DAYS = [DAY + timedelta(days=number) for number in range(4)]
THROUGH = DAY - timedelta(days=1)
SPAN = ("--start", str(DAYS[0]), "--end", str(DAYS[-1]))
DAY_MS = 86_400_000
ANNA, SEVEN = "anna", "7"
SETTINGS = {"compact_every_days": 2, "max_history": 4}
OTHERS = ("ben", "8", "9.0")
AS_BUILT = ("quality", "warnings", "notes", "new_item_events")
OWN_COUNTS = (
    "input_rows",
    "exact_duplicates",
    "suppressed",
)  # a log without the users has other rows, and fewer duplicates


def random_log(seed: int) -> dict[str, list[Row]]:
    """Raw rows of older history and four days, as text, with duplicate, late and rejected rows of every user; SEVEN is
    alone on a day, ANNA absent from one."""
    rng, log = random.Random(seed), {}
    for number, name in enumerate(["history", *map(str, DAYS)], -1):
        rows = []
        for user in (ANNA, SEVEN, *OTHERS):
            for _ in range(rng.randint(3, 9)):
                at = number * DAY_MS + rng.choice([-1, 0, 1, 2, rng.randint(3, DAY_MS - 1)])
                fields = {
                    "click": rng.choice([0, 1]),
                    "play_ms": rng.choice([5, 5, "x"]),
                    "request_id": rng.choice("abc"),
                }
                rows.append(row(user, rng.randint(1, 6), at, **fields))
        rows += [row(user, 1, number * DAY_MS + 9, request_id="r") for user in (ANNA, SEVEN, *OTHERS)] * 2
        log[name] = [as_text(entry) for entry in rows]
    log[str(DAYS[1])] = [entry for entry in log[str(DAYS[1])] if entry["user_id"] == SEVEN]
    log[str(DAYS[2])] = [entry for entry in log[str(DAYS[2])] if entry["user_id"] != ANNA]
    return log


def as_text(entry: Row) -> Row:
    return {key: str(value) for key, value in entry.items()}


def without(log: dict[str, list[Row]], users: tuple[str, ...]) -> dict[str, list[Row]]:
    return {name: [entry for entry in rows if entry["user_id"] not in users] for name, rows in log.items()}


def write(home: Any, log: dict[str, list[Row]]) -> None:
    names = list(log[str(DAYS[0])][0])
    for name, rows in log.items():
        folder = home.path / "raw" / ("history" if name == "history" else f"date={name}")
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.table({key: pa.array([entry[key] for entry in rows], pa.string()) for key in names})
        pq.write_table(table, folder / "log.parquet")


def build(home: Any, *force: str) -> None:
    assert longreel(home, "data import-history", "--through", str(THROUGH), *force) == 0
    assert longreel(home, "data ingest", *SPAN, *force) == 0
    for start, end in (DAYS[:2], DAYS[2:]):  # the second range begins with a compaction
        span = ("--start", str(start), "--end", str(end))
        assert longreel(home, "data build-samples", *span, "--accept-drift", *force) == 0


def summary(home: Any) -> dict[str, Any]:
    """Digest, counts, details and times of every partition. What its checkpoint said when it was built stays as it
    was, and so does how many items were new, on days without the users."""
    partitions = {}
    for dataset in DATASETS:
        for day in home.lake.days(dataset):
            m = home.lake.require(dataset, day)
            counts = {name: value for name, value in m.counts.items() if name not in OWN_COUNTS}
            details = {name: value for name, value in m.details.items() if name not in AS_BUILT}
            partitions[f"{dataset}/{day}"] = (m.digest, m.rows, counts, details, m.min_time_ms, m.max_time_ms)
    return partitions


def without_bootstrap_counts(partitions: dict[str, Any]) -> dict[str, Any]:
    """Without the counts of events that the bootstrap snapshot did not keep: their users are unknown."""
    bootstrap = {f"quarantine/{THROUGH}", f"history/{THROUGH}"}
    kept = ("users", "history_events", "longest_history", "max_history", "quarantined")
    short = {
        name: (*v[:2], {k: v[2][k] for k in kept if k in v[2]}, *v[3:])
        for name, v in partitions.items()
        if name in bootstrap
    }
    return partitions | short


@pytest.fixture(scope="module")
def original(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = new_home(tmp_path_factory.mktemp("original") / "home", **SETTINGS)
    write(home, random_log(1))
    build(home)
    assert list(home.lake.days("history")) == [THROUGH, DAYS[1]]
    return home


@pytest.fixture(scope="module")
def at_once(original: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The lake after a forget that nothing disturbed."""
    home = Home(tmp_path_factory.mktemp("at-once") / "home")
    shutil.copytree(original.path, home.path)
    assert longreel(home, "data forget", "--user", ANNA, "--user", SEVEN) == 0
    return home


@pytest.fixture
def built(original: Home, tmp_path: Path) -> tuple[Home, dict[str, list[Row]]]:
    """A separate lake for each test, and the log it was built from."""
    shutil.copytree(original.path, tmp_path / "home")
    return Home(tmp_path / "home"), random_log(1)


def assert_gone(home: Any, spark: Any, texts: tuple[str, ...]) -> None:
    """No file in the lake has a row of theirs, published or not, and nothing is stale."""
    ids = set(parse_user_ids(spark, home.config.source, texts))
    for path in (home.path / "lake").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        if "user_id" in table.column_names:
            assert not ids & set(table.column("user_id").to_pylist()), path
        if "row" in table.column_names:
            assert not set(texts) & {json.loads(text)["user_id"] for text in table.column("row").to_pylist()}, path
    assert stale_partitions(home.lake, home.config) == []


@pytest.mark.slow
@pytest.mark.parametrize("users", [(ANNA,), (SEVEN,), (ANNA, SEVEN)], ids="-".join)
def test_the_lake_is_that_of_a_log_without_the_users(
    spark: Any, make_home: Any, built: Any, users: tuple[str, ...], capsys: Any
) -> None:
    home, log = built
    raw = contents(home.path / "raw")
    words = [word for user in users for word in ("--user", user)]
    assert longreel(home, "data forget", *words) == 0
    assert "models are not changed" in capsys.readouterr().out
    assert_gone(home, spark, users)
    assert contents(home.path / "raw") == raw

    other = make_home("never", **SETTINGS)
    write(other, without(log, users))
    build(other)
    assert without_bootstrap_counts(summary(home)) == without_bootstrap_counts(summary(other))
    for dataset in ("events", "samples"):
        for day in DAYS:
            assert sorted(map(str, published(home, dataset, day))) == sorted(map(str, published(other, dataset, day)))
    for day in DAYS:
        for dataset in ("events", "quarantine"):
            counts = home.lake.require(dataset, day).counts
            row_counts = (counts[name] for name in ("events", "quarantined", "exact_duplicates", "suppressed"))
            assert counts["input_rows"] == len(log[str(day)]) == sum(row_counts)

    # The same raw days again: unchanged, and by force the very same partitions.
    before, files = summary(home), set(contents(home.path / "lake"))
    capsys.readouterr()
    build(home)
    assert capsys.readouterr().out.count("unchanged") == 1 + 2 * len(DAYS)
    assert longreel(home, "data ingest", *SPAN, "--force") == 0
    for day in DAYS:
        assert longreel(home, "data build-samples", "--date", str(day), "--accept-drift", "--force") == 0
    assert (summary(home), set(contents(home.path / "lake"))) == (before, files)
    assert longreel(home, "data import-history", "--through", str(THROUGH), "--force") == 0
    assert summary(home)[f"history/{THROUGH}"][0] == summary(other)[f"history/{THROUGH}"][0]
    assert_gone(home, spark, users)


def test_days_of_other_columns_keep_them(spark: Any, built: Any, at_once: Home) -> None:
    """The configuration has lost one field and gained another since, and no day was built again."""
    home, _ = built
    path = home.path / "longreel.toml"
    fields = path.read_text().replace('tag = {kind = "id", rows = 32, optional = true}', 'brand = {kind = "id"}')
    path.write_text(fields)
    assert {field.name for field in home.config.log_schema.of_place("item")} >= {"item_id", "brand"}
    assert longreel(home, "data forget", "--user", ANNA, "--user", SEVEN) == 0
    assert summary(home) == summary(at_once)
    for file in (home.path / "lake" / "events").rglob("*.parquet"):
        names = pq.read_schema(file).names
        assert "tag" in names
        assert "brand" not in names
    path.write_text(fields.replace('brand = {kind = "id"}', 'tag = {kind = "id", rows = 32, optional = true}'))
    assert_gone(home, spark, (ANNA, SEVEN))


def test_samples_are_those_of_plain_python_without_the_users(spark: Any, at_once: Home) -> None:
    ids = dict(zip(OTHERS, parse_user_ids(spark, at_once.config.source, OTHERS), strict=True))
    log, past = without(random_log(1), (ANNA, SEVEN)), []
    for name in ("history", *map(str, DAYS)):
        distinct = {json.dumps(entry): entry for entry in log[name] if entry["play_ms"] != "x"}.values()
        today = [
            event(ids[r["user_id"]], int(r["item_id"]), actions=int(r["click"]), play_ms=float(r["play_ms"]))
            | {"time_ms": int(r["time_ms"]), "request_id": r["request_id"]}
            for r in distinct
        ]
        if name != "history":
            expected = samples_of(past, today, max_history=SETTINGS["max_history"])
            rows = published(at_once, "samples", date.fromisoformat(name))
            assert plain(rows) == plain(expected)
        past += today


def test_the_record_counts_what_was_removed_and_names_no_user(spark: Any, built: Any) -> None:
    home, log = built
    before = summary(home)
    assert longreel(home, "data forget", "--user", SEVEN) == 0
    (record,) = erasure_requests(home.lake.storage)
    (path,) = (home.path / "lake" / "erasure_requests").glob("*.json")
    assert record.finished
    assert SEVEN not in json.loads(path.read_text())["users"]
    after = summary(home)
    assert {entry.name for entry in record.removals} == {name for name in before if before[name] != after[name]}
    for entry in record.removals:
        assert (entry.before, entry.after) == (before[entry.name][0], after[entry.name][0])
        assert entry.rows == before[entry.name][1] - after[entry.name][1] > 0
    distinct = {day: {json.dumps(entry) for entry in rows if entry["user_id"] == SEVEN} for day, rows in log.items()}
    for day in map(str, DAYS):
        rows = {entry.dataset: entry.rows for entry in record.removals if entry.date == day}
        assert rows["events"] + rows.get("quarantine", 0) == len(distinct[day])
        assert rows["samples"] == rows["users"] == 1


def test_rows_that_come_later_are_left_out_and_counted(spark: Any, make_home: Any, built: Any, capsys: Any) -> None:
    home, log = built
    assert longreel(home, "data forget", "--user", ANNA) == 0
    tomorrow = DAYS[-1] + timedelta(days=1)
    late = [row(user, item, 4 * DAY_MS + item) for user in (ANNA, "ben") for item in range(3)]
    write_raw(home, tomorrow, [as_text(entry) for entry in (*late, row(ANNA, 9, 4 * DAY_MS, play_ms="x"))])
    write_raw(home, DAYS[0], [*log[str(DAYS[0])], as_text(row(ANNA, 77))])  # a corrected day
    capsys.readouterr()
    assert longreel(home, "data ingest", "--start", str(DAYS[0]), "--end", str(tomorrow), "--accept-drift") == 0
    assert "7 rows = 3 events + 0 quarantined + 0 exact duplicates + 4 suppressed" in capsys.readouterr().out
    assert longreel(home, "data build-samples", "--start", str(DAYS[0]), "--end", str(tomorrow), "--accept-drift") == 0
    assert_gone(home, spark, (ANNA,))
    # The older history is imported without the user too.
    suppressed = suppression_list(home.lake.storage)
    assert suppressed is not None
    assert len(suppressed.users) == 1
    assert longreel(home, "data import-history", "--through", str(THROUGH), "--force") == 0
    counts = home.lake.require("history", THROUGH).counts
    assert counts["suppressed"] == len({json.dumps(entry) for entry in log["history"] if entry["user_id"] == ANNA})


def test_absent_and_already_erased_users_are_reported(spark: Any, built: Any, capsys: Any) -> None:
    home, _ = built
    before, rejected = contents(home.path / "lake"), home.reports / str(DAYS[0]) / "rejected-rows.jsonl"
    rejected.write_text("of a day that was stopped")
    assert longreel(home, "data forget", "--user", "absent") == 3
    assert not rejected.exists()
    assert "user 1 of 1: the lake has no rows of this user" in capsys.readouterr().out
    assert {name: data for name, data in contents(home.path / "lake").items() if name in before} == before
    assert longreel(home, "data forget", "--user", ANNA, "--user", "absent", "--user", "stranger") == 3
    assert "user 3 of 3" in (output := capsys.readouterr().out)
    assert "user 1 of 3" not in output
    assert "user 2 of 3" not in output  # erased before
    before = contents(home.path / "lake")
    assert longreel(home, "data forget", "--user", ANNA) == 0
    assert "erased already" in capsys.readouterr().out
    assert contents(home.path / "lake") == before
    assert longreel(home, "data forget", "--user", " ") == 2
    assert "no user id of this source" in capsys.readouterr().err


@pytest.mark.parametrize("publishes", [0, 12, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 6, 9, 14))])
def test_an_error_halfway_leaves_readable_partitions_and_the_next_call_completes(
    spark: Any, built: Any, at_once: Home, publishes: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    home, _ = built
    with monkeypatch.context() as patch:
        left, publish = [publishes], PartitionWriter.commit

        def until(writer: PartitionWriter, **arguments: Any) -> Any:
            if not left[0]:
                raise LongreelError("the power went")
            left[0] -= 1
            return publish(writer, **arguments)

        patch.setattr(PartitionWriter, "commit", until)
        assert longreel(home, "data forget", "--user", ANNA, "--user", SEVEN) == 2
    for dataset in DATASETS:
        for day in home.lake.days(dataset):
            manifest = home.lake.require(dataset, day)
            assert home.lake.read(manifest).num_rows == manifest.rows
    capsys.readouterr()
    assert longreel(home, "data forget", "--user", SEVEN, "--user", ANNA) == 0
    assert "resuming the request of" in capsys.readouterr().out
    assert_gone(home, spark, (ANNA, SEVEN))
    (record,) = erasure_requests(home.lake.storage)
    assert summary(home) == summary(at_once)
    assert record.totals() == erasure_requests(at_once.lake.storage)[0].totals()


@pytest.mark.slow
def test_killed_without_warning_it_goes_on_where_it_was(spark: Any, built: Any) -> None:
    home, _ = built
    process = step(home, "data forget", "--user", ANNA, "--user", SEVEN)
    wait_for(lambda: any(entry.removals for entry in erasure_requests(home.lake.storage)), process)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert not erasure_requests(home.lake.storage)[0].finished
    for dataset in DATASETS:
        for day in home.lake.days(dataset):
            manifest = home.lake.require(dataset, day)
            assert home.lake.read(manifest).num_rows == manifest.rows
    assert longreel(home, "data forget", "--user", ANNA, "--user", SEVEN) == 0
    assert_gone(home, spark, (ANNA, SEVEN))


@pytest.mark.slow
def test_two_at_once_wait_for_each_other(spark: Any, built: Any) -> None:
    home, _ = built
    first, second = (step(home, "data forget", "--user", user) for user in (ANNA, SEVEN))
    assert [first.wait(), second.wait()] == [0, 0]
    assert_gone(home, spark, (ANNA, SEVEN))
    assert all(record.finished for record in erasure_requests(home.lake.storage))


def test_a_build_that_was_begun_before_is_not_committed(spark: Any, built: Any) -> None:
    home, _ = built
    lake: Lake = home.lake
    day: date = DAYS[0]
    old = lake.require("events", day)
    writer = lake.writer("events", day)
    Path(writer.path, "part-0.parquet").write_bytes(Path(lake.paths(old)[0]).read_bytes())
    assert longreel(home, "data forget", "--user", ANNA) == 0
    with pytest.raises(LongreelError, match="users were erased while events of 2026-03-02 was being built"):
        writer.commit(digest=old.digest, inputs=old.inputs)
    assert not Path(writer.path).exists()
    assert_gone(home, spark, (ANNA,))


@pytest.mark.parametrize(
    ("user_id", "derived", "expected"),
    [
        ("uid", {}, {"7": "7", " 7 ": "7", "Anna": "Anna"}),
        ("lower(uid)", {}, {"Anna": "anna", "7": "7"}),
        ("concat(shop, uid)", {}, {"Anna": "Anna"}),  # of several columns: what the expression gives
        ("person", {"person": "lower(uid)"}, {"anna": "anna"}),
    ],
)
def test_users_are_named_as_the_raw_log_spells_them(
    spark: Any, user_id: str, derived: dict[str, str], expected: dict[str, str]
) -> None:
    source = SourceConfig(user_id=user_id, derived=derived)
    plain_ids = parse_user_ids(spark, SourceConfig(), list(expected.values()))
    assert parse_user_ids(spark, source, list(expected)) == plain_ids
    with pytest.raises(LongreelError, match="no user id of this source"):
        parse_user_ids(spark, source, [" "])
