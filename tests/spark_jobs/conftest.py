"""One Spark session for all tests of this folder, and homes with a generic log written from plain rows."""

import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from longreel.lake.home import Home
from longreel.spark_jobs import quality

# Tests are imported without packages, so what they share is found by folder.
sys.path.insert(0, str(Path(__file__).parent))

from spark_helpers import new_home

RUN_CHECKPOINT = quality._run_checkpoint


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """The session that the steps under test find too."""
    from longreel.spark_jobs.session import spark_session

    session = spark_session("longreel tests")
    yield session
    session.stop()


@pytest.fixture(autouse=True, scope="session")
def data_docs_of_failures_only() -> Iterator[None]:
    """Great Expectations takes half a second a day: where every check holds, only tests that use `data_docs` run it."""

    def run_failing(dataset: str, day: date, stats: Mapping[str, Any], checks: list[quality.Check], docs: Path) -> Any:
        passed = [quality.holds(check, stats[check.column]) for check in checks]
        return passed if all(passed) else RUN_CHECKPOINT(dataset, day, stats, checks, docs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_run_checkpoint", run_failing)
        yield


@pytest.fixture
def data_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Great Expectations and its Data Docs for every day, as outside of tests."""
    monkeypatch.setattr(quality, "_run_checkpoint", RUN_CHECKPOINT)


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., Home]:
    """A new home folder with a configuration."""

    def make(name: str = "home", **values: Any) -> Home:
        return new_home(tmp_path / name, **values)

    return make
