"""A changed or late input, or a changed definition, makes exactly those partitions stale that are made by it."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from longreel.contracts.config import Config, parse_config
from longreel.contracts.definitions import event_definitions, sample_definitions
from longreel.lake.lineage import Stale, stale_partitions, stale_snapshots
from longreel.lake.table import Lake
from tests.short_video import SHORT_VIDEO_TOML

FIRST = date(2026, 1, 5)
DAYS = [FIRST + timedelta(days=i) for i in range(4)]
CONFIG = parse_config(f'tasks = ["click"]\n{SHORT_VIDEO_TOML}')


def publish(lake: Lake, dataset: str, day: date, digest: str, inputs: dict[str, str]) -> None:
    definitions = event_definitions(CONFIG) if dataset == "events" else sample_definitions(CONFIG)
    counts = {"max_history": CONFIG.samples.max_history} if dataset == "history" else {}
    writer = lake.writer(dataset, day)
    writer.commit(digest=digest, inputs=inputs, counts=counts, details={"definitions": definitions})


def events_upto(lake: Lake, day: date) -> dict[str, str]:
    return {f"events/{d}": lake.require("events", d).digest for d in lake.days("events") if d <= day}


def build(lake: Lake, day: date) -> None:
    users = {f"users/{day}": lake.require("users", day).digest}
    publish(lake, "samples", day, f"s{day}", events_upto(lake, day) | users | {"settings": "1"})


def full_lake(folder: Path, days: list[date]) -> Lake:
    lake = Lake(folder)
    for day in days:
        publish(lake, "events", day, f"e{day}", {"raw": "r"})
        publish(lake, "users", day, f"u{day}", {"raw": "r"})
        build(lake, day)
    return lake


def test_nothing_is_stale_after_a_build(tmp_path: Path) -> None:
    assert stale_partitions(full_lake(tmp_path, DAYS), CONFIG) == []


def test_a_corrected_day_is_stale_with_every_later_day_until_rebuilt(tmp_path: Path) -> None:
    lake = full_lake(tmp_path, DAYS)
    publish(lake, "events", DAYS[1], "corrected", {"raw": "r2"})
    reason = f"events/{DAYS[1]} was e{DAYS[1]}, is corrected"
    assert stale_partitions(lake, CONFIG) == [Stale("samples", day, (reason,)) for day in DAYS[1:]]
    for day in DAYS[1:]:
        build(lake, day)
    assert stale_partitions(lake, CONFIG) == []


def test_users_of_a_day_concern_that_day_alone(tmp_path: Path) -> None:
    lake = full_lake(tmp_path, DAYS)
    publish(lake, "users", DAYS[2], "other", {"raw": "r2"})
    assert [(stale.dataset, stale.day) for stale in stale_partitions(lake, CONFIG)] == [("samples", DAYS[2])]


def test_a_day_that_arrives_late_is_named(tmp_path: Path) -> None:
    lake = full_lake(tmp_path, [DAYS[1], DAYS[2]])
    publish(lake, "history", DAYS[1], "h", events_upto(lake, DAYS[1]))
    publish(lake, "events", DAYS[0], "late", {"raw": "r"})
    assert [(stale.dataset, stale.day, stale.reasons) for stale in stale_partitions(lake, CONFIG)] == [
        ("history", DAYS[1], (f"events/{DAYS[0]} arrived since",)),
        ("samples", DAYS[1], (f"events/{DAYS[0]} arrived since",)),
        ("samples", DAYS[2], (f"events/{DAYS[0]} arrived since",)),
    ]


def test_a_rebuild_with_the_same_rows_ends_staleness(tmp_path: Path) -> None:
    """The digest of the samples stays, and so do their files; only what they were made from is brought up to date."""
    lake = full_lake(tmp_path, DAYS)
    before = lake.require("samples", DAYS[3])
    publish(lake, "events", DAYS[3], "corrected", {"raw": "r2"})
    build(lake, DAYS[3])
    after = lake.require("samples", DAYS[3])
    assert stale_partitions(lake, CONFIG) == []
    assert (after.digest, after.files) == (before.digest, before.files)


def test_a_snapshot_imported_again_makes_partitions_built_on_it_stale(tmp_path: Path) -> None:
    lake = full_lake(tmp_path, DAYS[1:2])
    imported = f"history/{DAYS[0]}"
    publish(lake, "history", DAYS[0], "a1", {"raw": "r"})
    publish(lake, "samples", DAYS[1], "s", lake.require("samples", DAYS[1]).inputs | {imported: "a1"})
    assert stale_partitions(lake, CONFIG) == []
    publish(lake, "history", DAYS[0], "a2", {"raw": "r2"})
    assert stale_partitions(lake, CONFIG) == [Stale("samples", DAYS[1], (f"{imported} was a1, is a2",))]


def test_a_snapshot_imported_late_makes_built_days_and_compacted_snapshots_stale(tmp_path: Path) -> None:
    lake = full_lake(tmp_path, DAYS[1:3])
    publish(lake, "history", DAYS[2], "h", events_upto(lake, DAYS[2]))
    publish(lake, "history", DAYS[0], "a", {"raw": "r"})
    reasons = (f"history/{DAYS[0]} arrived since",)
    assert stale_partitions(lake, CONFIG) == [
        Stale("history", DAYS[2], reasons),
        Stale("samples", DAYS[1], reasons),
        Stale("samples", DAYS[2], reasons),
    ]


def changed(old: str, new: str) -> Config:
    """CONFIG with another declaration."""
    text = f'tasks = ["click"]\n[samples]\nmax_history = 10240\nmax_targets = 512\n{SHORT_VIDEO_TOML}'
    assert old in text
    return parse_config(text.replace(old, new, 1))


ADDED = 'price = {kind = "number", optional = true}\n'
ITEM = "[fields.item]\n"
EVERYTHING = {"events", "history", "samples"}


@pytest.mark.parametrize(
    ("old", "new", "reason", "datasets"),
    [
        (ITEM, ITEM + ADDED, "", set()),
        (ITEM, ITEM + ADDED.replace(", optional = true", ""), "field price was added, and is not optional", EVERYTHING),
        ("tag = {kind", 'tag = {from = "first_tag", kind', "field tag was declared with from tag", EVERYTHING),
        ("skip = '''\nplay_ms <= 3000", "skip = '''\nplay_ms <= 2000", "label skip was", {"events", "samples"}),
        ('like = "like"\nfollow', 'like = "like > 0"\nfollow', "action like was", EVERYTHING),
        ('events = "click OR like', 'events = "like OR like', "history was click OR like", EVERYTHING),
        ("max_history = 10240", "max_history = 20480", "max_history", {"history", "samples"}),
        ("max_history = 10240", "max_history = 512", "max_history was 10240, is 512", {"samples"}),
        ("max_targets = 512", "max_targets = 64", "[samples] max_targets was 512, is 64", {"samples"}),
        (
            "[fields.event]",
            '[fields.user]\nage = {kind = "number"}\n[fields.event]',
            "field age",
            {"events", "samples"},
        ),
    ],
)
def test_a_changed_definition_makes_its_partitions_stale(
    tmp_path: Path, old: str, new: str, reason: str, datasets: set[str]
) -> None:
    lake = full_lake(tmp_path, DAYS[:2])
    publish(lake, "history", DAYS[0], "h", events_upto(lake, DAYS[0]))
    assert stale_partitions(lake, CONFIG) == []
    partitions = stale_partitions(lake, changed(old, new))
    assert {stale.dataset for stale in partitions} == datasets
    for stale in partitions:
        assert reason in stale.reasons[0]
        assert len(stale.reasons) == 1
    days = [stale.day for stale in partitions if stale.dataset != "history"]
    assert days == DAYS[:2] * len(datasets - {"history"})
    removed = ["history"] if "history" in datasets else []
    assert [stale.dataset for stale in stale_snapshots(lake, changed(old, new))] == removed


def test_a_snapshot_of_days_that_left_the_lake_is_kept_though_no_build_uses_it(tmp_path: Path) -> None:
    lake, config = full_lake(tmp_path, DAYS[:2]), changed("max_history = 10240", "max_history = 20480")
    publish(lake, "history", DAYS[1], "h", events_upto(lake, DAYS[1]))
    assert [stale.day for stale in stale_snapshots(lake, config)] == [DAYS[1]]
    lake.drop_partition(lake.require("events", DAYS[0]))
    assert stale_snapshots(lake, config) == []
