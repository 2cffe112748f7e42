"""Python programs in processes that have Airflow imported already: a tenth of a second each instead of two.

One process imports Airflow and forks for every program, so programs share nothing but the import and AIRFLOW_HOME.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]


class AirflowProcess:
    """The process that forks; its AIRFLOW_HOME is an empty folder."""

    def __init__(self, home: Path) -> None:
        self._environment = {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.airflow_process"],
            env=os.environ | self._environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, *arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        """`python -c program arguments` with an environment, as `subprocess.run` would."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"program": program, "arguments": arguments, "environment": {**environment, **self._environment}}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        code, output, errors = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(["python", "-c", program, *arguments], code, output, errors)

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="session")
def airflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowProcess]:
    process = AirflowProcess(tmp_path_factory.mktemp("airflow"))
    yield process
    process.close()


def serve() -> None:
    """Answer requests, one JSON line each, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Airflow prints is no answer
    import airflow.dag_processing.dagbag
    import airflow.sdk
    import airflow.serialization.serialized_objects  # noqa: F401

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            child = os.fork()
            if child == 0:
                run_program(json.loads(line), output, errors)
            _, status = os.waitpid(child, 0)
            texts = [_text(file) for file in (output, errors)]
        print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), file=answers, flush=True)
    os._exit(0)  # Airflow's own clean-up takes seconds


def run_program(request: dict[str, Any], output: IO[str], errors: IO[str]) -> NoReturn:
    """Run a program in this process, which ends with it."""
    os.dup2(output.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["-c", *request["arguments"]]
    code = 0
    try:
        exec(compile(request["program"], "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


if __name__ == "__main__":
    serve()
