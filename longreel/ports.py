"""Fixed ports of Airflow and MLflow on 127.0.0.1, so that bookmarks last; the next free one where one is taken."""

import contextlib
import socket

from longreel.contracts.argument_types import at_least
from longreel.contracts.errors import LongreelError

AIRFLOW_PORT = 8180
MLFLOW_PORT = 8181
PORT = at_least(1, 65_535)  # argparse's type of a port
SPAN = 50  # two apart, so that Airflow's and MLflow's never meet


class Port:
    """A port that stays this process's while it is referenced or until `release`, also before its server listens."""

    def __init__(self, server: str, default: int, chosen: int | None) -> None:
        """Take the chosen port, or the first free one of `default`, `default` + 2, ...

        Raises:
            LongreelError: the chosen port, or every one of these, is taken.
        """
        candidates = [chosen] if chosen else range(default, default + 2 * SPAN, 2)
        for number in candidates:
            if (reservation := _reserve(number)) is not None:
                self.number, self._reservation = number, reservation
                break
        else:
            taken = f"port {chosen}" if chosen else f"every second port from {default} to {default + 2 * SPAN - 2}"
            raise LongreelError(f"{taken} is taken on 127.0.0.1; name a free one with --{server.lower()}-port")
        moved = not chosen and self.number != default
        self.notice = f"port {default} is taken; {server} is on {self.number} this time" if moved else ""

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.number}"

    def release(self) -> None:
        """Let others have the port."""
        self._reservation.close()


def _reserve(number: int) -> socket.socket | None:
    """A reservation that other longreel commands on this machine see, of a port where no server listens; else None.

    A server binds its port seconds after it was started. Until then an abstract socket, which ends with its process,
    keeps it from a second command that starts meanwhile.
    """
    reservation = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError), socket.socket() as probe:
        reservation.bind(f"\0longreel-port-{number}")
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not take a port
        probe.bind(("127.0.0.1", number))
        probe.listen()
        return reservation
    reservation.close()
    return None
