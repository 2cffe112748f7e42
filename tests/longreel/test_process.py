"""An end on SIGTERM in words, and commands in an environment without account, home folder or locale."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longreel.cli import main
from longreel.process import Terminated, complete_environment, terminable
from longreel.spark_jobs.java import java_refusal, require_named_user

NO_NAME = "import os\nos.getuid = os.geteuid = lambda: 54321\n"
PROGRAM = "import sys\nfrom longreel.cli import main\nsys.exit(main(sys.argv[1:]))"


def command(program: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run longreel in a process with few variables."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "JAVA_HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=kept | environment, check=False
    )


def test_sigterm_ends_a_command_with_one_line_and_143(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("longreel.components.promotions.run", wait)
    assert main(["model", "promotions"]) == 143
    assert capsys.readouterr().err == (
        "longreel model promotions: terminated; the same command continues or starts again\n"
    )
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_sigterm_lets_the_clean_up_end() -> None:
    steps = []

    def end_twice() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("clean-up")

    with terminable(), pytest.raises(Terminated):
        end_twice()
    assert steps == ["clean-up"]


def test_a_forked_worker_ends_by_the_signal_itself() -> None:
    started, start = os.pipe()
    with terminable():
        child = os.fork()
        if child == 0:
            os.write(start, b"!")  # Python forgets signals that arrive before a fork has ended
            for _ in range(1_000):
                time.sleep(0.01)
            os._exit(1)
        os.read(started, 1)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_a_user_without_name_and_home_can_use_the_registry(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    assert main(["init", "--home", home]) == 0
    assert tmp_path.joinpath("home").stat().st_mode & 0o777 == 0o700
    shown = command(NO_NAME + PROGRAM, "model", "promotions", "--home", home)
    assert (shown.returncode, "no version was promoted yet" in shown.stdout) == (0, True), shown.stderr
    assert tmp_path.joinpath("home", "mlflow").stat().st_mode & 0o777 == 0o700
    assert tmp_path.joinpath("home", "mlflow", "mlflow.db").stat().st_mode & 0o777 == 0o600
    user = command(
        NO_NAME + "from longreel.process import complete_environment\ncomplete_environment()\nimport getpass\n"
        "print(getpass.getuser())"
    )
    assert user.stdout == "uid-54321\n"


def test_spark_refuses_a_user_without_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_named_user()
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    home = str(tmp_path / "home")
    assert main(["init", "--home", home]) == 0
    assert main(["run", "--home", home]) == 2


@pytest.mark.parametrize("name", ["C", "POSIX", "xx_YY.UTF-8"])
def test_java_reads_paths_as_python_does(name: str) -> None:
    program = (
        "from longreel.process import complete_environment\ncomplete_environment()\nimport os\n"
        "print(os.environ['LC_ALL'])"
    )
    assert command(program, LC_ALL=name).stdout == "C.UTF-8\n"


def test_a_locale_that_holds_every_path_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.nl_langinfo", lambda _: "UTF-8")
    before = dict(os.environ)
    complete_environment()
    assert dict(os.environ) == before


def test_a_java_that_works_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "none could be started" in java_refusal("bad array subscript")
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    refusal = java_refusal("basedir must be absolute")
    assert 'openjdk version "11.0.2"' in refusal
    assert "ended while starting: basedir must be absolute" in refusal


@pytest.mark.slow
def test_sigterm_in_a_spark_step_says_one_line_and_the_same_command_completes(tmp_path: Path) -> None:
    """In the locale C and below a folder that it cannot spell, which Java then reads all the same."""
    home = tmp_path / "hömé"
    for words in (["init"], ["simulate", "--days", "1", "--users", "60", "--items", "200"]):
        assert command(PROGRAM, *words, "--home", str(home)).returncode == 0
    ingest = ["data", "ingest", "--home", str(home), "--date", "2026-01-05"]
    step = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *ingest], stderr=subprocess.PIPE, text=True, env=os.environ | {"LC_ALL": "C"}
    )
    deadline = time.monotonic() + 120
    while not list(home.glob("lake/events/*/build-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)  # within Spark's work
    step.send_signal(signal.SIGTERM)
    errors = step.communicate(timeout=60)[1]
    assert step.returncode == 143
    assert errors.splitlines()[-1] == "longreel data ingest: terminated; the same command continues or starts again"
    assert "Traceback" not in errors
    assert not list(home.glob("lake/*/*/build-*"))
    again = command(PROGRAM, *ingest, LC_ALL="C")
    assert again.returncode == 0, again.stderr
