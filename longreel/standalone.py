"""`airflow standalone` without log servers: Airflow binds those to every address, and on one machine files do."""

import sys
from typing import Any

from airflow.__main__ import main
from airflow.cli.commands import standalone_command

SERVES_LOGS = ("scheduler", "triggerer")


class Component(standalone_command.SubCommand):
    """A process of Airflow."""

    def __init__(self, parent: Any, name: str, command: list[str], env: dict[str, str]) -> None:
        options = ["--skip-serve-logs"] if name in SERVES_LOGS else []
        super().__init__(parent, name, [*command, *options], env)


if __name__ == "__main__":
    standalone_command.SubCommand = Component  # type: ignore[misc]
    sys.argv = ["airflow", "standalone"]
    main()
