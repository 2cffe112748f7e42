"""Fixed ports: kept while they are free, the next one in words, and a chosen one or none."""

import socket
import subprocess
import sys

import pytest

from longreel.contracts.errors import LongreelError
from longreel.ports import Port
from tests.free_port import free_port


@pytest.fixture
def default() -> int:
    return free_port()


def test_the_default_port_is_taken_again_after_it_was_released(default: int) -> None:
    port = Port("Airflow", default, None)
    assert (port.number, port.url, port.notice) == (default, f"http://127.0.0.1:{default}", "")
    port.release()
    assert Port("Airflow", default, None).number == default


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
def test_the_next_free_port_is_said(default: int, address: str) -> None:
    with socket.create_server((address, default)):
        port = Port("MLflow", default, None)
        assert port.number > default
        assert port.notice == f"port {default} is taken; MLflow is on {port.number} this time"


def test_a_port_is_another_commands_before_its_server_listens(default: int) -> None:
    program = f"from longreel.ports import Port; print(Port('Airflow', {default}, None).number)"
    port = Port("Airflow", default, None)
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(other.stdout) > port.number


def test_a_chosen_port_that_is_taken_is_refused(default: int) -> None:
    with (
        socket.create_server(("127.0.0.1", default)),
        pytest.raises(LongreelError, match=f"port {default} is taken .*--airflow-port"),
    ):
        Port("Airflow", default + 2, default)
