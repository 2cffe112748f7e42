"""A home that was moved, renamed or copied: refused in words, then relocated without a write to the original."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path

import mlflow
import pytest

from longreel.cli import main
from longreel.components.registry import store
from longreel.components.registry.location import other_place, relocate
from longreel.components.registry.tracking import log_datasets
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home


@pytest.fixture
def home(make_home: Callable[..., Home], register: Callable[..., object]) -> Home:
    """A home with a registered model, a run with its dataset; a URL spells its folder otherwise."""
    folder = make_home(2).path
    home = Home(folder.rename(folder.with_name("a home, ü")))
    register(home)
    client = store.open_store(home)
    run = client.search_runs([store.experiment_id(home, client)])[0]
    log_datasets(client, run.info.run_id, home.lake, [home.lake.require("samples", date(2026, 1, 1))], "training")
    return home


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def cells_with(home: Home, path: Path) -> list[str]:
    """Every column of a home's store that holds a path in any row: as path, as URL or in JSON."""
    columns, texts = [], (str(path), path.as_uri(), json.dumps(str(path))[1:-1])
    with sqlite3.connect(home.mlflow_database) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for column in [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]:
                query = f'SELECT count(*) FROM "{table}" WHERE ' + " OR ".join([f'instr("{column}", ?)'] * len(texts))
                if connection.execute(query, texts).fetchone()[0]:
                    columns.append(f"{table}.{column}")
    return columns


def test_a_copy_is_refused_then_relocated_and_the_original_is_left_alone(
    home: Home, capsys: pytest.CaptureFixture[str], register: Callable[..., object]
) -> None:
    copy = Home(home.path.with_name("copy"))
    shutil.copytree(home.path, copy.path)
    before = contents(home.path)
    commands = ["model promotions", "ops status", "model train --date 2026-01-03", "run", "ui", "airflow -- dags list"]
    for command in commands:
        words = command.split()
        number = 2 if words[0] in ("model", "ops") else 1
        assert main([*words[:number], "--home", str(copy.path), *words[number:]]) == 2, command
        refusal = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"expected a home at {home.path}" in refusal
        assert f"`longreel init --relocate --home {copy.path}`" in refusal
    assert main(["init", "--relocate", "--home", str(copy.path)]) == 0
    assert "addresses in its MLflow store" in capsys.readouterr().out
    assert cells_with(copy, home.path) == []
    assert cells_with(copy, copy.path) == cells_with(home, home.path) != []
    assert main(["init", "--relocate", "--home", str(copy.path)]) == 0
    assert "nothing to relocate" in capsys.readouterr().out
    client = store.open_store(copy)
    model = mlflow.artifacts.download_artifacts("models:/longreel-tiny/1", tracking_uri=client.tracking_uri)
    assert Path(model).is_relative_to(copy.path)
    register(copy, seed=1)
    assert contents(home.path) == before


def test_a_moved_home_never_writes_to_its_old_place(home: Home, register: Callable[..., object]) -> None:
    moved = Home(home.path.with_name("moved"))
    home.path.rename(moved.path)
    with pytest.raises(LongreelError, match="it was moved, renamed or copied"):
        register(moved, seed=1)
    assert relocate(moved)
    register(moved, seed=1)
    assert not home.path.exists()


def test_a_link_to_a_home_is_that_home(home: Home) -> None:
    link = home.path.with_name("link")
    link.symlink_to(home.path)
    store.open_store(Home(link))
    assert relocate(Home(link)) is None
    home.path.rename(home.path.with_name("moved"))  # and a link at the old place keeps a moved one working
    home.path.symlink_to(home.path.with_name("moved"))
    store.open_store(Home(home.path.with_name("moved")))


def test_a_store_that_may_be_another_homes_is_not_rewritten(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = Home(home.path.with_name("linked"))
    shutil.copytree(home.path, linked.path, copy_function=os.link)  # cp -al
    before = contents(home.path)
    with pytest.raises(LongreelError, match="not a database of this home alone"):
        relocate(linked)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.tracking_uri)
    with pytest.raises(LongreelError, match="expected a home at"):
        store.open_store(linked)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(LongreelError, match="MLFLOW_TRACKING_URI"):
        relocate(linked)
    assert contents(home.path) == before


@pytest.mark.parametrize("location", [None, "s3://bucket/mlflow/artifacts", "mlflow-artifacts:/3", "/data/runs"])
def test_only_the_folder_of_a_home_names_a_place(location: str | None, tmp_path: Path) -> None:
    assert other_place(Home(tmp_path), location) is None
