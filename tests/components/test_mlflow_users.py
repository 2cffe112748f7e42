"""MLflow's users: of a cluster's server as the manifests start it, and of the server that `longreel ui` starts."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from longreel.cli import main
from longreel.components.registry.ledger import Ledger
from longreel.components.registry.versions import Version
from longreel.contracts.decision import Decision
from longreel.contracts.errors import from_mlflow_error
from longreel.embedded_airflow import end_session
from longreel.lake.home import Home
from longreel.mlflow_auth import admin_password
from longreel.ui import start_mlflow, wait_for
from tests.free_port import free_port
from tests.manifests.rendering import ROOT, of_kind

pytestmark = pytest.mark.slow
PASSWORDS = {"TRAINING_PASSWORD": "password-of-training", "PROMOTION_PASSWORD": "password-of-promotion"}
SETTINGS = "[mlflow]\ndefault_permission = READ\nadmin_username = admin\ndatabase_uri = sqlite:///{}\n"


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[str]:
    """The address of a server with the command, the variables and the settings of the manifests."""
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    (deployment,) = of_kind("manifests/base", "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    port = free_port()
    here = {"0.0.0.0": "127.0.0.1", "5000": str(port), "2": "1"}
    words = [here.get(word, word) for word in container["args"]]
    (tmp_path / "basic_auth.ini").write_text(SETTINGS.format(tmp_path / "users.db"))
    secrets = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'server.db'}",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "password-of-admin",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "key",
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic_auth.ini"),
    }
    assert set(secrets) | {"HOME"} == {entry["name"] for entry in container["env"]}
    (settings,) = [
        i["data"] for i in of_kind("manifests/base", "ConfigMap") if i["metadata"]["name"] == "mlflow-settings"
    ]
    environment = os.environ | settings | secrets | {"MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts")}
    with (tmp_path / "server.log").open("w") as log:
        command = [sys.executable, "-m", *container["command"], *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://localhost:{port}/health", process)  # the allowed Host header
        yield f"http://localhost:{port}"
    finally:
        end_session(process.pid)


def sign_in(monkeypatch: pytest.MonkeyPatch, user: str, password: str = "") -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password or f"password-of-{user}")


def test_who_trains_can_neither_promote_nor_delete(
    server: str,
    make_home: Callable[..., Home],
    register: Callable[..., Version],
    promotion: Callable[..., Decision],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    home = make_home()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    words = ["--home", str(home.path)]
    for user, password in (("", "none"), ("admin", "wrong")):
        sign_in(monkeypatch, user, password)
        assert main(["model", "promotions", *words]) == 2
        assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in capsys.readouterr().err
    sign_in(monkeypatch, "admin")
    script = [sys.executable, str(ROOT / "manifests/mlflow_users.py")]
    for _ in range(2):
        subprocess.run(script, check=True, env=os.environ | PASSWORDS | {"LONGREEL_HOME": str(home.path)})
    sign_in(monkeypatch, "training")
    version, client, ledger = register(home, 1), MlflowClient(), Ledger(home)
    with pytest.raises(MlflowException, match="Permission denied") as refused:
        ledger.promote(promotion(version, None), version)
    assert "MLflow does not let the user 'training'" in str(from_mlflow_error(refused.value))
    assert not ledger.entries()
    for forbidden in (
        lambda: client.delete_model_version(ledger.model, "1"),
        lambda: client.delete_registered_model(ledger.model),
        lambda: client.delete_run(version.run_id),
        lambda: client.create_model_version(f"{ledger.model}-ledger", "models:/x/1"),
    ):
        with pytest.raises(MlflowException, match="Permission denied"):
            forbidden()
    sign_in(monkeypatch, "promotion")
    ledger = Ledger(home)
    ledger.promote(promotion(version, None), version)
    assert [entry.action for entry in ledger.entries()] == ["promote"]


def test_the_pages_on_one_machine_ask_for_a_password_where_a_person_wants_it(make_home: Callable[..., Home]) -> None:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    home = make_home()
    process = start_mlflow(home, port := free_port(), with_auth=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        page = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(page, timeout=30)
        keys = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        keys.add_password(None, page, "admin", admin_password(home))
        with urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(keys)).open(page, timeout=30) as answer:
            assert answer.status == 200
    finally:
        end_session(process.pid)
    for name in ("admin-password", "users.db", "basic_auth.ini"):
        assert (home.mlflow / name).stat().st_mode & 0o077 == 0, name
