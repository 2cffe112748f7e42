"""`data verify` names every partition whose files or rows are not those published, and changes nothing."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from spark_helpers import DAY, longreel, new_home, row, write_raw

from longreel.contracts.dates import day_number
from longreel.lake.home import Home
from longreel.lake.manifest import MANIFEST

DAYS = [DAY + timedelta(days=i) for i in range(2)]


@pytest.fixture
def home(spark: Any, tmp_path: Path) -> Home:
    home = new_home(tmp_path / "home")
    for number, day in enumerate(DAYS):
        rows = [row(user=user, item=number, at=number * 86_400_000 + user) for user in range(3)]
        write_raw(home, day, [*rows, row(user=1, item=1, at=-(10**10))])
    for step in ("data ingest", "data build-samples"):
        assert longreel(home, step, "--start", str(DAYS[0]), "--end", str(DAYS[-1])) == 0
    return home


def files_of(home: Home) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.path.rglob("*") if path.is_file()}


def test_damage_of_any_kind_is_named_and_nothing_is_changed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(home)
    assert longreel(home, "data verify") == 0
    assert "events: 2 days" in capsys.readouterr().out
    lake, (first, second) = home.lake, DAYS
    for dataset in ("events", "samples"):  # rows of another day, with a manifest that fits them but for the digest
        manifest = lake.require(dataset, first)
        lake.storage.write_atomic(lake.manifest_path(dataset, first), replace(manifest, digest="0" * 16).to_json())
    quarantine = Path(lake.paths(lake.require("quarantine", second))[0])
    content = bytearray(quarantine.read_bytes())
    content[len(content) // 3] ^= 4
    quarantine.write_bytes(content)
    manifest_path = Path(lake.manifest_path("users", second))
    manifest_path.write_text(manifest_path.read_text().replace('"rows": 3', '"rows": 4'))
    damaged = files_of(home)
    assert longreel(home, "data verify") == 2
    shown = capsys.readouterr()
    assert "4 partitions are damaged" in shown.err
    lines = shown.out.splitlines()[-4:]
    assert [f"events/date={first}/{MANIFEST} says digest" in lines[0], "samples" in lines[3]] == [True, True]
    assert str(manifest_path) in lines[1]
    assert f"{quarantine} is damaged" in lines[2]
    assert all("run the" in line and "again" in line for line in lines)
    assert files_of(home) == damaged
    assert set(damaged) == set(before)
    json.loads(manifest_path.read_text())


def test_each_of_n_runs_on_n_days_verifies_other_days(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert longreel(home, "data verify", "--since", str(DAYS[1])) == 0
    assert "samples: 1 days" in capsys.readouterr().out
    assert day_number(DAYS[1]) - day_number(DAYS[0]) == 1
    assert longreel(home, "data verify", "--part-of", "2") == 0
    assert "samples: 1 days" in capsys.readouterr().out
