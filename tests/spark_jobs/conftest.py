"""One Spark session for all tests of this folder, and homes with a generic log written from plain rows."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.home import Home

# Tests are imported without packages, so what they share is found by folder.
sys.path.insert(0, str(Path(__file__).parent))

CONFIG = """
name = "test"
tasks = ["click", "like"]

[source]
kind = "{kind}"
log = "{log}"
utc_offset_hours = {offset}
behaviour = ["click"]
max_quarantined_share = {share}

[samples]
max_history = {max_history}
compact_every_days = {compact_every_days}
{samples}
"""


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """The session that the steps under test find too."""
    from spark_jobs.session import spark_session

    session = spark_session("longreel tests")
    yield session
    session.stop()


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., Home]:
    """A new home folder with a configuration."""

    def make(name: str = "home", **values: Any) -> Home:
        settings = {"kind": "generic", "log": "raw", "offset": 0, "share": 1.0, "samples": ""}
        settings |= {"max_history": 10_240, "compact_every_days": 7} | values
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "longreel.toml").write_text(CONFIG.format(**settings))
        return Home(folder)

    return make
