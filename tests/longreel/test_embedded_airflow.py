"""What the embedded Airflow is told by its environment; under a real one: tests/reliability."""

from pathlib import Path

import pytest

from contracts.home import Home
from longreel.embedded_airflow import DATABASE, airflow_environment

URI = "postgresql+psycopg://someone@127.0.0.1/airflow"
SETTINGS = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC")


def test_its_database_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (DATABASE, *SETTINGS):
        monkeypatch.delenv(variable, raising=False)
    assert not set(SETTINGS) & set(airflow_environment(Home(tmp_path), 8080, {}))  # SQLite in AIRFLOW_HOME
    monkeypatch.setenv(DATABASE, URI)
    assert [airflow_environment(Home(tmp_path), 8080, {})[name] for name in SETTINGS] == [URI, URI]
