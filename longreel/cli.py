"""Command line: commands in groups, their help and exit codes; a command's libraries load only when it runs.

A command's module has `add_arguments(parser)` and `run(args, home)`; `run` raises LongreelError for a user's errors.
"""

import argparse
import importlib
import logging
import sys
from difflib import get_close_matches

from longreel.contracts.errors import LongreelError, from_mlflow_error, from_os_error
from longreel.contracts.passwords import hide_passwords_in_output
from longreel.lake.home import Home
from longreel.process import TERMINATED, Terminated, complete_environment, terminable

GROUPS: dict[str, str] = {
    "data": "raw log days to training samples",
    "model": "training, evaluation and promotion",
    "ops": "the daily cycle and the state of the pipeline",
}
# command -> (module, purpose)
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("longreel.init", "write a home folder's configuration from a preset"),
    "simulate": ("longreel.spark_jobs.simulate", "write days of a simulated raw log"),
    "run": ("longreel.run", "run the whole pipeline on this machine under a real Airflow"),
    "ui": ("longreel.ui", "open Airflow and MLflow on 127.0.0.1"),
    "airflow": ("longreel.airflow_command", "run a command of the home's Airflow: longreel airflow -- dags list"),
    "data check-arrival": ("longreel.spark_jobs.check_arrival", "say whether a raw log day has arrived (exit 3: no)"),
    "data ingest": ("longreel.spark_jobs.ingest", "turn a raw log day into validated events, users and quarantine"),
    "data import-history": ("longreel.spark_jobs.import_history", "import older history as the bootstrap snapshot"),
    "data build-samples": ("longreel.spark_jobs.build_samples", "build request-level samples from events and history"),
    "data stale": ("longreel.spark_jobs.stale", "list the days to rebuild because their inputs changed"),
    "data verify": ("longreel.spark_jobs.verify", "read published partitions to their end and compare their digests"),
    "data forget": ("longreel.spark_jobs.forget", "remove users from every partition, and keep them out"),
    "model train": ("longreel.components.train", "train a ranker on the days before a day and register it"),
    "model evaluate": ("longreel.components.evaluate", "evaluate a model on a day over the eval windows"),
    "model decide": ("longreel.components.decide", "compare two reports by the gates: promote, hold or reject"),
    "model promote": ("longreel.components.promote", "make a version the champion and record it in the ledger"),
    "model rollback": ("longreel.components.rollback", "make an earlier version the champion again"),
    "model promotions": ("longreel.components.promotions", "print the promotion ledger: who, when and why"),
    "model reproduce": ("longreel.components.reproduce", "train a finished MLflow run again and compare the models"),
    "model score": ("longreel.components.score", "score a request table with a registered model"),
    "ops should-retrain": ("longreel.components.should_retrain", "ask the freshness policy about a day (exit 99: no)"),
    "ops retrain": ("longreel.components.retrain", "train, evaluate, decide and promote as one KFP pipeline run"),
    "ops status": ("longreel.status", "show partitions, freshness, champion and the last decisions"),
}
# code, name, meaning; DAGs decide by the code whether to retry
EXIT_CODES: tuple[tuple[int, str, str], ...] = (
    (0, "DONE", "the command did what it says"),
    (1, "FAILED", "run: a day failed; ops status --check: a red line; model reproduce: a difference; or a crash"),
    (2, "USER ERROR", "fix the input; the last line says what was expected, what came and what to do"),
    (3, "NOT READY", "the data have not arrived yet"),
    (4, "QUALITY", "a quality checkpoint stopped the day"),
    (5, "TRANSIENT", "a server, a disk or another process was in the way; run the command again"),
    (99, "SKIP", "nothing to do (ops should-retrain, data stale, model promote --dry-run)"),
    (130, "INTERRUPTED", "Ctrl-C; the same command continues or starts again"),
    (143, "TERMINATED", "SIGTERM; the same command continues or starts again (a training from its checkpoint)"),
)
HELP = ("-h", "--help")


def commands_of(group: str) -> list[str]:
    """The commands of a group; of the top level where it is empty."""
    return [command for command in COMMANDS if command.rpartition(" ")[0] == group]


def overview(group: str = "") -> str:
    """The help text of the program or of one group: its commands, a line each, and the exit codes."""
    prefix = f"longreel {group}".rstrip()
    lines = [f"usage: {prefix} COMMAND [options]"]
    for name in [group] if group else ["", *GROUPS]:
        lines += ["", f"{name}: {GROUPS[name]}" if name else "Long-history recommendation training, day by day."]
        lines += [f"  {command:20} {COMMANDS[command][1]}" for command in commands_of(name)]
    lines += ["", "`longreel COMMAND --help` lists a command's options.", "", "exit codes:"]
    return "\n".join([*lines, *(f"  {code:<4} {name:12} {meaning}" for code, name, meaning in EXIT_CODES)])


def command_parser(command: str) -> argparse.ArgumentParser:
    """The parser of a command without its own options, which its module adds."""
    parser = argparse.ArgumentParser(prog=f"longreel {command}", description=COMMANDS[command][1])
    parser.add_argument("--home", help="folder that holds longreel.toml (default: $LONGREEL_HOME, .longreel/simulated)")
    return parser


def nearest_commands(words: list[str]) -> list[str]:
    """The commands that a user may have meant: those of the same name in any group, else those spelled alike."""
    typed = [word for word in words[:2] if word not in GROUPS][:1] or words[:1]
    names = {command: command.rpartition(" ")[2] for command in COMMANDS}
    if typed[0] in names.values():
        return [command for command, name in names.items() if name == typed[0]]
    parts = {part: command for command, name in names.items() for part in (*name.split("-"), name)}
    return [parts[part] for part in get_close_matches(typed[0], parts, n=1)]


def split_command(words: list[str]) -> tuple[str, list[str]]:
    """A command and its options.

    Raises:
        LongreelError: there is no such command; the message names the nearest.
    """
    number = 2 if words[0] in GROUPS else 1
    command = " ".join(words[:number])
    if command in COMMANDS:
        return command, words[number:]
    nearest = " or ".join(f"`longreel {name}`" for name in nearest_commands(words))
    advice = f"did you mean {nearest}? `longreel --help` lists all" if nearest else "`longreel --help` lists all"
    raise LongreelError(f"unknown command {command!r}; {advice}")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; EXIT_CODES says what each means."""
    words = sys.argv[1:] if argv is None else argv
    group, rest = (words[0], words[1:]) if words and words[0] in GROUPS else ("", words)
    if not rest or rest[0] in HELP:
        print(overview(group))
        return 0 if rest else 2
    try:
        command, options = split_command(words)
    except LongreelError as error:
        print(f"longreel: error: {error}", file=sys.stderr)
        return error.exit_code
    return run_command(command, options)


def run_command(command: str, options: list[str]) -> int:
    """Import a command's module and run it; errors a user can act on become one line and their exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    hide_passwords_in_output()
    complete_environment()
    try:
        with terminable():
            module = importlib.import_module(COMMANDS[command][0])
            parser = command_parser(command)
            module.add_arguments(parser)
            args = parser.parse_args(options)
            return int(module.run(args, Home.locate(args.home)) or 0)
    except LongreelError as error:
        print(f"longreel {command}: error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        refusal = from_os_error(error) if isinstance(error, OSError) else from_mlflow_error(error)
        if refusal is None:
            raise
        print(f"longreel {command}: error: {refusal}", file=sys.stderr)
        return refusal.exit_code
    except Terminated:
        print(f"longreel {command}: terminated; the same command continues or starts again", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print(f"longreel {command}: interrupted; the same command continues or starts again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
