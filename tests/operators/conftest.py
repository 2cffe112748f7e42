"""Airflow imported with a throw-away home, and a longreel home as the components' tests have it."""

import tempfile
from collections.abc import Iterator

import pytest

from tests.components.conftest import empty_store, make_home, publish_fixture, register, report
from tests.kfp_server import KfpServer, serving

__all__ = ["empty_store", "make_home", "publish_fixture", "register", "report"]

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
    import operators.retrain  # noqa: F401  # Airflow writes its configuration where it is first imported


@pytest.fixture
def kfp(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    """A pipeline server, which the environment names."""
    with serving() as server:
        for name in ("NAMESPACE", "TOKEN_FILE", "CA_FILE"):
            monkeypatch.delenv(f"LONGREEL_KFP_{name}", raising=False)
        monkeypatch.setenv("LONGREEL_KFP_HOST", server.url)
        yield server
