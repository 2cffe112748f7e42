"""One reliability case, and the page that `python -m tests.reliability [NAME ...]` writes.

The cases take minutes each and are run by that command; one of them is a test.
"""

from pathlib import Path

import pytest

from tests.reliability.__main__ import CASES, PAGE, is_row, row
from tests.reliability.pipeline import World, make_world

TESTED = ("scheduler-in-training",)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three published days and what a fourth must give."""
    return make_world(tmp_path_factory.mktemp("reliability") / "world")


@pytest.fixture(autouse=True)
def own_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every home has its own stores."""
    for variable in ("MLFLOW_TRACKING_URI", "LONGREEL_LAKE", "LONGREEL_HOME", "LONGREEL_CONFIG", "LONGREEL_AIRFLOW_DB"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_it_ends_in_the_right_state(name: str, world: World, tmp_path: Path) -> None:
    CASES[name].run(world, tmp_path / "home")


@pytest.mark.parametrize("name", list(CASES))
def test_the_page_says_what_is_done_and_checked(name: str) -> None:
    (line,) = [line for line in PAGE.read_text().splitlines() if is_row(CASES[name], line)]
    cells = line.split(" | ")
    assert line == row(CASES[name], cells[2]), "python -m tests.reliability NAME rewrites the row"
    assert cells[2].strip(), "it has no result yet"
