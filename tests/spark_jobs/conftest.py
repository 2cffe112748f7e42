"""One Spark session for all tests of this folder, and homes with a generic log written from plain rows."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longreel.lake.home import Home

# Tests are imported without packages, so what they share is found by folder.
sys.path.insert(0, str(Path(__file__).parent))

from spark_helpers import new_home


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """The session that the steps under test find too."""
    from longreel.spark_jobs.session import spark_session

    session = spark_session("longreel tests")
    yield session
    session.stop()


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., Home]:
    """A new home folder with a configuration."""

    def make(name: str = "home", **values: Any) -> Home:
        return new_home(tmp_path / name, **values)

    return make
