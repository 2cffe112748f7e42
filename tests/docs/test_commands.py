"""Commands in the pages: each `longreel ...` is one that the command line takes, and behind `airflow --` Airflow's."""

import argparse
import importlib
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from longreel.cli import COMMANDS, GROUPS, command_parser
from tests.airflow_process import AirflowProcess
from tests.docs.pages import PAGES, blocks, inline_code, name

CALL = re.compile(r"(?:^|(?<!-n)[\s(])(?:\S*/)?longreel ((?!-h\b|--help\b).*)")
PYTHON_CALL = re.compile(r"(?:-m longreel|longreel/__main__\.py) (.*)")
VALUES = {
    "DAY": "2026-03-09",
    "DATE": "2026-03-09",
    "FIRST": "2026-03-09",
    "VERSION": "1",
    "N": "1",
    "$DAY": "2026-03-09",
}


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    parser = command_parser(command)
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return parser


def words_of(text: str) -> list[str]:
    """A typed command as words: without comment, brackets around optional parts, and what a shell adds behind."""
    text = re.split(r"&&|;|\|| > ", text)[0].replace("[", " ").replace("]", " ")
    return [VALUES.get(word, word) for word in shlex.split(text)]


def problem(text: str, *, complete: bool) -> str | None:
    """What is wrong with the words behind `longreel`; a complete command must parse, a mention may lack options."""
    words = words_of(text.partition(" -- ")[0])
    number = 2 if words and words[0] in GROUPS else 1
    command, options = " ".join(words[:number]), words[number:]
    if (command in GROUPS and not options) or command == "...":
        return None
    if command not in COMMANDS:
        return f"no command {command!r}"
    parser = parser_of(command)
    if complete and "..." not in options:
        try:
            parser.parse_args(options)
        except SystemExit:
            return f"`longreel {text}` does not parse"
    unknown = {word.partition("=")[0] for word in options if word.startswith("--")} - set(parser._option_string_actions)
    return f"{command} has no option {', '.join(sorted(unknown))}" if unknown else None


def typed(page: Path) -> Iterator[str]:
    """Commands in code blocks, continued lines joined."""
    for block in blocks(page):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            code = re.split(r"(?:^|\s)#", line)[0]
            if match := CALL.search(code) or PYTHON_CALL.search(code):
                yield match[1]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [why for text in typed(page) if (why := problem(text, complete=True))]
    for number, span in inline_code(page):
        if (match := re.match(r"(?:\.venv/bin/)?longreel ((?!-h\b|--help\b).+)", span)) and (
            why := problem(match[1], complete=False)
        ):
            wrong.append(f"line {number}: {why}")
    assert not wrong, capsys.readouterr().err


def test_commands_of_airflow_parse(airflow_process: AirflowProcess) -> None:
    program = (
        "import sys\nfrom airflow.cli.cli_parser import get_parser\n"
        "for line in sys.argv[1:]:\n    print(get_parser().parse_args(line.split('\\x1f')).subcommand)"
    )
    lines = [text.partition(" -- ")[2] for page in PAGES for text in typed(page) if text.startswith("airflow -- ")]
    words = ["\x1f".join(shlex.split(line)) for line in lines]
    parsed = airflow_process.run(program, *words, environment=dict(os.environ))
    assert len(lines) > 2
    assert parsed.stdout.splitlines()[-len(lines) :] == [line.split()[1] for line in lines], parsed.stderr


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_command_needs_an_airflow_of_which_the_shell_does_not_know(page: Path) -> None:
    assert not [line for block in blocks(page) for line in block.splitlines() if line.startswith("airflow ")]
