"""Command line: help without heavy imports, clear errors, exit codes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from longreel.cli import COMMANDS, GROUPS, main
from longreel.contracts.errors import LongreelError
from longreel.embedded_airflow import end_session, session_members
from longreel.init import write_config
from longreel.lake.home import Home


def test_help_lists_every_command_and_loads_no_heavy_library() -> None:
    heavy = {"torch", "pyspark", "mlflow", "airflow", "kfp"}
    code = f"import sys; from longreel.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {command} " in shown for command in COMMANDS)
    codes = [line.split()[0] for line in shown.partition("exit codes:")[2].splitlines() if line.startswith("  ")]
    assert codes == ["0", "1", "2", "3", "4", "5", "99", "130", "143"]
    assert shown.strip().endswith("[]")


@pytest.mark.parametrize("group", GROUPS)
def test_the_help_of_a_group_lists_its_commands_and_the_exit_codes(
    group: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([group, "--help"]) == 0
    shown = capsys.readouterr().out
    listed = [line.split("  ")[1] for line in shown.partition("exit codes:")[0].splitlines() if line.startswith("  ")]
    assert listed == [command for command in COMMANDS if command.startswith(f"{group} ")]
    assert "  99   SKIP" in shown
    assert main([group]) == 2


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("ingets", "longreel data ingest"),
        ("ingest --date 2026-01-05", "longreel data ingest"),
        ("data stael", "longreel data stale"),
        ("model status", "longreel ops status"),
        ("arrived", "longreel data check-arrival"),
        ("retrain", "longreel ops retrain"),
    ],
)
def test_a_wrong_command_names_the_nearest(words: str, nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert f"did you mean `{nearest}`?" in capsys.readouterr().err


def test_a_command_like_no_other_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    assert "unknown command 'xyzzy'; `longreel --help` lists all" in capsys.readouterr().err
    assert main([]) == 2


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("init", "run", "simulate", "ui")])
def test_every_command_without_a_home_names_what_is_missing(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no configuration, or no input file, a command exits with 2, says what is missing and creates nothing."""
    needed = {
        "data check-arrival": ["--date", "2026-01-05"],
        "data ingest": ["--date", "2026-01-05"],
        "data import-history": ["--through", "2026-01-05"],
        "data build-samples": ["--date", "2026-01-05"],
        "data forget": ["--user", "7"],
        "model train": ["--date", "2026-01-05"],
        "model evaluate": ["--date", "2026-01-05", "--champion"],
        "model decide": ["--candidate", str(tmp_path / "none.json")],
        "model promote": ["--decision", str(tmp_path / "none.json"), "--version", "1"],
        "model score": [
            "--input",
            str(tmp_path / "none.parquet"),
            "--output",
            str(tmp_path / "out.parquet"),
            "--champion",
        ],
        "ops should-retrain": ["--date", "2026-01-05"],
        "ops retrain": ["--date", "2026-01-05"],
        "model reproduce": ["0123"],
    }
    assert main([*command.split(), "--home", str(tmp_path / "nowhere"), *needed.get(command, [])]) == 2
    missing = {"model decide": "no report at", "model promote": "no decision at", "model score": "no request table at"}
    assert missing.get(command, "`longreel init` writes one") in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("out", "code", "message"),
    [
        ("/dev/full", 5, "No space left on device.*free some space"),
        (".", 2, "Is a directory: .*name another"),
        ("file/report.json", 2, "(Not a directory|File exists): .*name another"),
        (
            "/sys/longreel/report.json",
            2,
            "(Operation not permitted|Permission denied|Read-only file system): .*permissions",
        ),
    ],
)
def test_refusals_of_the_operating_system_become_messages(
    out: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if out.startswith("/") and not Path(out).parents[-2].is_dir():
        pytest.skip(f"no {out} on this system")
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["model", "evaluate", "--home", "home", "--date", "2026-01-05", "--version", "0", "--out", out]) == code
    assert re.search(f"longreel model evaluate: error: {message}", capsys.readouterr().err)


@pytest.mark.parametrize("where", ["home/longreel.toml", "home"])
def test_an_impossible_home_is_rejected(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where the home should be, a folder where its configuration should be."""
    home, place = tmp_path / "home", tmp_path / where
    place.mkdir(parents=True) if place != home else place.touch()
    assert main(["init", "--home", str(home)]) == 2
    assert str(place) in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["model", "promotions", "--last", "0"],
        ["model", "promotions", "--last", "two"],
        ["data", "stale", "--raw-days", "-1"],
        ["model", "evaluate", "--date", "2026-01-05", "--version", "-1"],
        ["model", "score", "--input", "i", "--output", "o", "--version", "0"],
        ["model", "score", "--input", "i", "--output", "o", "--window", "-1"],
        ["run", "--days", "0"],
    ],
)
def test_a_number_out_of_range_is_rejected(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert re.search(
        rf"argument {words[-2]}: expected a whole number of at least \d, got '{words[-1]}'", capsys.readouterr().err
    )


@pytest.mark.parametrize("given", ["s3://bucket/lake", "s3:/bucket/lake", "gs://bucket/lake", "lake", "~/lake"])
@pytest.mark.parametrize("command", ["ops should-retrain", "data build-samples", "ops status"])
def test_a_lake_without_an_absolute_path_is_rejected(
    command: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert main(["init", "--home", str(home)]) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LONGREEL_LAKE", given)
    assert (
        main([*command.split(), "--home", str(home), *([] if command == "ops status" else ["--date", "2026-01-05"])])
        == 2
    )
    assert "LONGREEL_LAKE: expected an absolute path that every machine sees" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("url", ["s3://bucket/logs", "gs:/bucket/logs", "abfss://a@b/c", "file:///data/log"])
def test_a_url_is_no_path(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a path it would be a folder that has not arrived yet, and the pipeline would wait for it."""
    monkeypatch.chdir(tmp_path)
    home = ["--home", str(tmp_path / "home")]
    for words, name in (
        (["init", *home, "--source", "generic", "--log", url], "--log"),
        (["init", *home, "--from", url], "--from"),
        (["init", "--home", url], "--home"),
        (["run", *home, "--source", "kuairand", "--log", url], "--log"),
    ):
        assert main(words) == 2
        assert f"{name}: expected a path on this machine, got the URL {url!r}; mount" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "home").mkdir()
    for setting in ("log", "items", "users"):
        (tmp_path / "home" / "longreel.toml").write_text(f'[source]\nkind = "generic"\n{setting} = "{url}"\n')
        assert main(["data", "check-arrival", *home, "--date", "2026-01-05"]) == 2
        assert f"[source] {setting}: expected a path on this machine, got the URL" in capsys.readouterr().err


def test_run_rejects_options_that_an_existing_home_would_ignore(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("log", "other"):
        (tmp_path / name / "date=2026-01-05").mkdir(parents=True)
    home = ["--home", str(tmp_path / "home")]
    assert main(["init", *home, "--source", "generic", "--log", str(tmp_path / "log")]) == 0
    assert main(["run", *home, "--log", str(tmp_path / "other")]) == 2
    assert "was made for the raw log" in capsys.readouterr().err
    assert main(["run", *home, "--days", "1"]) == 2
    assert "--days is for a simulated log" in capsys.readouterr().err


def test_init_rejects_a_missing_log(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(LongreelError, match="needs its raw log"):
        write_config(home, "kuairand", None)
    with pytest.raises(LongreelError, match="nothing is there"):
        write_config(home, "kuairand", str(tmp_path / "missing"))
    assert not home.path.exists()


def test_init_fills_in_the_log_and_keeps_an_existing_home(tmp_path: Path) -> None:
    log = tmp_path / 'a "log"'
    log.mkdir()
    home = tmp_path / "home"
    assert main(["init", "--home", str(home), "--source", "generic", "--log", str(log)]) == 0
    assert Home(home).log == log.resolve()
    (tmp_path / "whole" / "log").mkdir(parents=True)  # a log in the home goes where the home goes
    whole = tmp_path / "whole"
    assert main(["init", "--home", str(whole), "--source", "generic", "--log", str(whole / "log")]) == 0
    assert Home(whole.rename(tmp_path / "moved")).log == tmp_path / "moved" / "log"
    (home / "longreel.toml").write_text('name = "mine"')
    assert main(["init", "--home", str(home), "--source", "simulated"]) == 0
    assert Home(home).config.name == "mine"


def test_home_is_found_by_argument_then_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LONGREEL_HOME", str(tmp_path / "env"))
    assert Home.locate(str(tmp_path / "arg")).path == tmp_path / "arg"
    assert Home.locate().path == tmp_path / "env"
    monkeypatch.delenv("LONGREEL_HOME")
    assert Home.locate().path == Path.cwd() / ".longreel" / "simulated"


def test_ending_a_session_reaches_children_in_other_process_groups() -> None:
    """A task that makes its own process group, and ignores SIGTERM, is stopped all the same."""
    child = (
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    parent = (
        "import subprocess,sys,time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], process_group=0)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert len(session_members(process.pid)) == 2
    end_session(process.pid, grace_s=0.2)
    assert session_members(process.pid) == []
    process.wait(timeout=10)
