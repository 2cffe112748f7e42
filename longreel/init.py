"""Command `init`: a home folder with a configuration, from a preset or from a look at a log; sized for this machine."""

import argparse
import json
import re
from pathlib import Path

from longreel.contracts.config import SIMULATED, SOURCES, parse_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.local_files import require_path
from longreel.contracts.presets import preset
from longreel.lake.home import CONFIG_FILE, POLICY_FILE, Home, private_folder
from longreel.model_size import has_gpu, sized


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel init`."""
    parser.add_argument("--source", choices=SOURCES, default="simulated", help="which preset to start from")
    parser.add_argument("--log", help="folder of the raw log (kuairand and generic)")
    parser.add_argument(
        "--from", dest="look_at", metavar="LOG", help="look at a raw log, and propose how to declare it"
    )
    parser.add_argument("--user", metavar="COLUMN", help="with --from: the raw column of the user (default: found)")
    parser.add_argument("--item", metavar="COLUMN", help="with --from: the raw column of the item (default: found)")
    parser.add_argument("--time", metavar="COLUMN", help="with --from: the raw column of the time (default: found)")
    parser.add_argument(
        "--relocate",
        action="store_true",
        help="for a home that was moved or copied: correct its MLflow addresses",
    )


def run(args: argparse.Namespace, home: Home) -> None:
    """Write `longreel.toml`, unless there is one already.

    Raises:
        LongreelError: the options do not fit, or the log cannot be read.
    """
    path = home.path / CONFIG_FILE
    if path.is_dir():
        raise LongreelError(f"{path} is a folder, expected a file or nothing; remove it, or init another --home")
    if args.relocate:
        _relocate(home)
        return
    if not args.look_at and (args.user or args.item or args.time):
        raise LongreelError("--user, --item and --time go with --from LOG")
    if args.look_at and args.log:
        raise LongreelError("expected --from LOG or --log LOG, got both")
    if path.exists():
        config = home.config
        print(f"kept {path} as it is: source {config.source.kind}, raw log {home.log}; edit it, or init another --home")
        return
    if args.look_at:
        write_proposal(home, args)
        return
    write_config(home, args.source, args.log)
    print(f"wrote {path}")


def _relocate(home: Home) -> None:
    """Let the MLflow store of a home name the place where the home is, and print what was done."""
    from longreel.components.registry.location import relocate

    _ = home.config  # a mistyped home ends here
    if (result := relocate(home)) is None:
        print(f"{home.path} is the place that its MLflow store names; nothing to relocate")
        return
    old, number = result
    print(f"relocated {home.path}: {number} addresses in its MLflow store named {old}, which was left as it is")


def write_proposal(home: Home, args: argparse.Namespace) -> None:
    """Look at a log, write what is proposed for it into a home, and print what was seen and the next commands.

    Raises:
        LongreelError: there is no log, it cannot be read, or it has no column of users, items or times.
    """
    from longreel.proposal.proposal import propose
    from longreel.proposal.text import config_text, next_steps, summary

    require_path(args.look_at, "--from")
    proposal = propose(Path(args.look_at).expanduser().resolve(), args.user, args.item, args.time)
    print("\n".join(summary(proposal)))
    settings = preset(proposal.kind)
    if proposal.kind == "generic":
        settings, choice = sized(settings, has_gpu())
        print(choice)
    _write(home, config_text(proposal, settings), "proposal")
    print(f"wrote {home.path / CONFIG_FILE}\n" + "\n".join(next_steps(proposal, home.path)))


def write_config(home: Home, source: str, log: str | None) -> None:
    """Write a preset and the gate policy into a home, with the folder of the raw log; print the size it chose, if any.

    Raises:
        LongreelError: the source needs a log, and none was given or it does not exist.
    """
    text = preset(source)
    if source not in SIMULATED:
        if not log:
            raise LongreelError(f"source {source} needs its raw log: give --log FOLDER (make run: LOG=FOLDER)")
        require_path(log, "--log")
        folder = Path(log).expanduser().resolve()
        if not folder.exists():
            raise LongreelError(f"expected the raw log of source {source} at {folder}, but nothing is there")
        text = re.sub(r'^log = ".*?"', lambda _: f"log = {json.dumps(str(folder))}", text, count=1, flags=re.MULTILINE)
    if source == "generic":
        text, choice = sized(text, has_gpu())
        print(choice)
    _write(home, text, f"preset {source}")


def _write(home: Home, text: str, where: str) -> None:
    """The configuration and the gate policy, whose task is the first."""
    task = parse_config(text, where).tasks[0]
    private_folder(home.path)
    inside = json.dumps(f"{home.path.resolve()}/").removesuffix('"')
    text = text.replace(f"log = {inside}", 'log = "')  # a log in the home goes where the home goes
    (home.path / CONFIG_FILE).write_text(text)
    policy = re.sub(r'^task = "click"', f"task = {json.dumps(task)}", preset("gates"), count=1, flags=re.MULTILINE)
    (home.path / POLICY_FILE).write_text(policy)
