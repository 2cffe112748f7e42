"""Command `init`: a home folder with a configuration from a preset, sized for this machine."""

import argparse
import json
import re
from pathlib import Path

from longreel.contracts.config import SIMULATED, SOURCES, parse_config
from longreel.contracts.errors import LongreelError
from longreel.contracts.presets import preset
from longreel.lake.home import CONFIG_FILE, POLICY_FILE, Home
from longreel.model_size import has_gpu, sized


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel init`."""
    parser.add_argument("--source", choices=SOURCES, default="simulated", help="which preset to start from")
    parser.add_argument("--log", help="folder of the raw log (kuairand and generic)")


def run(args: argparse.Namespace, home: Home) -> None:
    """Write `longreel.toml`, unless there is one already."""
    path = home.path / CONFIG_FILE
    if path.is_dir():
        raise LongreelError(f"{path} is a folder, expected a file or nothing; remove it, or init another --home")
    if path.exists():
        config = home.config
        print(f"kept {path} as it is: source {config.source.kind}, raw log {home.log}; edit it, or init another --home")
        return
    write_config(home, args.source, args.log)
    print(f"wrote {path}")


def write_config(home: Home, source: str, log: str | None) -> None:
    """Write a preset and the gate policy into a home, with the folder of the raw log; print the size it chose, if any.

    Raises:
        LongreelError: the source needs a log, and none was given or it does not exist.
    """
    text = preset(source)
    if source not in SIMULATED:
        if not log:
            raise LongreelError(f"source {source} needs its raw log: give --log FOLDER (make run: LOG=FOLDER)")
        folder = Path(log).expanduser().resolve()
        if not folder.exists():
            raise LongreelError(f"expected the raw log of source {source} at {folder}, but nothing is there")
        text = re.sub(r'^log = ".*"$', lambda _: f"log = {json.dumps(str(folder))}", text, count=1, flags=re.MULTILINE)
    if source == "generic":
        text, choice = sized(text, has_gpu())
        print(choice)
    parse_config(text, f"preset {source}")
    home.path.mkdir(parents=True, exist_ok=True)
    (home.path / CONFIG_FILE).write_text(text)
    (home.path / POLICY_FILE).write_text(preset("gates"))
