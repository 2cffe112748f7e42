"""Airflow imported with a throw-away home, and a longreel home as the components' tests have it."""

import atexit
import shutil
import tempfile

import pytest

from tests.components.conftest import empty_store, make_home, publish_fixture, register, report
from tests.kfp_server import kfp
from tests.kubernetes_server import cluster

__all__ = ["cluster", "empty_store", "kfp", "make_home", "publish_fixture", "register", "report"]

with pytest.MonkeyPatch.context() as patch:
    folder = tempfile.mkdtemp(prefix="airflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    patch.setenv("AIRFLOW_HOME", folder)
    import longreel.operators.retrain  # noqa: F401  # Airflow writes its configuration where it is first imported
