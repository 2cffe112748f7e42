"""Options of the benchmarks that are wrong end with one line in words and exit status 2."""

import importlib
import sys
from pathlib import Path

import pytest

from benchmarks.arguments import run_main
from benchmarks.extrapolation.sample_sets import from_world
from longreel.contracts.presets import preset
from longreel.lake.home import CONFIG_FILE
from longreel.spark_jobs.simulated_world import WorldSettings

RUNNER = "extrapolation.runner SETS OUT"
SETS = "extrapolation.sample_sets"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample set in sets/sim, an empty home, and a file that is no results."""
    path = tmp_path_factory.mktemp("work")
    world = WorldSettings(users=8, items=100, activity=10, interests=5)
    from_world(world, path / "sets" / "sim", archive_days=1, train_days=1, test_days=1)
    (path / "home").mkdir()
    (path / "home" / CONFIG_FILE).write_text(preset("simulated"))
    (path / "broken.tgz").write_bytes(b"no archive")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{RUNNER} --set sims", "expected such as sim, got 'sims'"),
        (f"{RUNNER} --set zzz", "expected one of sim, got 'zzz'"),
        (f"{RUNNER} --set sim --only stcaa", "expected such as stca"),
        (f"{RUNNER} --set sim --suite nosuch", "invalid choice"),
        (f"{RUNNER} --set sim --seeds 0", "a whole number of at least 1"),
        (f"{RUNNER} --set sim --jobs -1", "a whole number of at least 1"),
        (f"{RUNNER} --set sim --minutes nan", "a number from 0"),
        (f"{RUNNER} --set sim --eval-windows 512,x", "a whole number of at least 16"),
        (f"{RUNNER} --set sim --eval-windows 512,512", "windows that increase"),
        ("extrapolation.runner NOSUCH OUT --set sim", "a folder that exists"),
        (f"{SETS} HOME OUT --split 2025-13-01", "a day as YYYY-MM-DD"),
        (f"{SETS} HOME OUT --split 2025-11-01", "--split: expected the first day of the test set"),
        (f"{SETS} HOME OUT", "--split YYYY-MM-DD, or --simulate OUT"),
        (f"{SETS} NOSUCH OUT --split 2025-11-01", "expected a home, a folder with longreel.toml"),
        (f"{SETS} --simulate OUT --request-share inf", "a number above 0 to 1"),
        (f"{SETS} --simulate OUT --users -3", "a whole number of at least 0"),
        (f"{SETS} --simulate OUT --users 0", "--users: expected a positive number"),
        ("extrapolation.merge OUT BROKEN", "expected a results folder or a .tgz"),
        ("extrapolation.merge OUT NOSUCH", "expected a results folder or a .tgz"),
        ("extrapolation.tables NOSUCH", "expected a results folder"),
        ("fields.__main__ NOSUCH", "expected a home"),
        ("fields.__main__ HOME --day 2026-02-30", "a day as YYYY-MM-DD"),
        ("gates.bootstrap --users 0", "a whole number of at least 1"),
        ("training.table_optimizers HOME --rates nan", "a number above 0"),
        ("reader.__main__ --batch-tokens 1e9", "a whole number of at least 1"),
    ],
)
def test_a_wrong_option_is_refused_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    paths = {"SETS": "sets", "OUT": "out", "HOME": "home", "NOSUCH": "nosuch", "BROKEN": "broken.tgz"}
    module, *words = [str(folder / paths[word]) if word in paths else word for word in line.split()]
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as ended:
        run_main(importlib.import_module(f"benchmarks.{module}").main)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert message in error.splitlines()[-1]
