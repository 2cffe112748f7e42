"""longreel beside LightGBM, CatBoost and FuxiCTR: the same targets, features, metrics and intervals.

    python -m benchmarks.peers prepare HOME OUT       tables of the home's targets
    python -m benchmarks.peers install OUT            the peers, in a separate environment
    python -m benchmarks.peers fit OUT --day 2022-05-08 --tune-day 2022-05-07 [--peers lightgbm ...] [--views A B S]
    python -m benchmarks.peers score HOME OUT --day 2022-05-08 [--view A] [--model FOLDER] [--name longreel]
    python -m benchmarks.peers compare OUT --day 2022-05-08 [--report report.json]

README.md says how to get HOME, what the views are and how settings are chosen. `fit` chooses them once; delete
OUT/settings to choose again.
"""

import argparse
import json
import os
import subprocess
import venv
from datetime import date
from pathlib import Path

from benchmarks.arguments import existing_home, run_main
from longreel.contracts.argument_types import at_least, calendar_day

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PEERS = {
    "lightgbm": ["benchmarks.peers.peer_lightgbm"],
    "catboost": ["benchmarks.peers.peer_catboost"],
    "din": ["benchmarks.peers.peer_fuxictr", "DIN"],
    "dcnv2": ["benchmarks.peers.peer_fuxictr", "DCNv2"],
    "transact": ["benchmarks.peers.peer_fuxictr", "TransAct"],
}


def install(out: Path) -> None:
    """Create the peers' environment, OUT/env. `fit` skips what cannot be installed."""
    venv.create(out / "env", with_pip=True)
    for line in REQUIREMENTS.read_text().splitlines():
        if line and not line.startswith("#"):
            done = subprocess.run([out / "env" / "bin" / "pip", "install", "-q", *line.split()], check=False)
            print(f"{line.split()[0]}: {'installed' if done.returncode == 0 else 'cannot be installed'}", flush=True)


def fit(out: Path, peer: str, view: str, options: list[str], day: date, python: Path) -> None:
    """Fit a peer in its environment. Where that fails, the last line of its errors becomes the reason to skip it."""
    scores = out / "scores" / day.isoformat()
    scores.mkdir(parents=True, exist_ok=True)
    skipped = scores / f"{peer}.{view}.skipped"
    skipped.unlink(missing_ok=True)
    command = [str(python), "-m", *PEERS[peer], str(out), "--view", view, "--day", day.isoformat(), *options]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    try:
        subprocess.run(command, check=True, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        skipped.write_text(f"no environment at {python}; run `install`\n")
    except subprocess.CalledProcessError as error:
        skipped.write_text((error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1] + "\n")
    if skipped.exists():
        print(f"{peer} {view}: skipped, {skipped.read_text().strip()}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "install", "fit", "score", "compare"):
        command = commands.add_parser(name)
        if name in ("prepare", "score"):
            command.add_argument("home", type=existing_home)
        command.add_argument("out", type=Path)
        if name in ("fit", "score", "compare"):
            command.add_argument("--day", type=calendar_day, required=True)
        if name in ("fit", "score"):
            command.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1])
        if name == "fit":
            settings_day = "before the day: settings are chosen on it"
            command.add_argument("--tune-day", type=calendar_day, required=True, help=settings_day)
            command.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
            command.add_argument("--views", nargs="+", choices=["A", "B", "S"], default=["A", "B"])
            command.add_argument("--tasks", nargs="+", default=["click"], help="settings are chosen by the first")
            command.add_argument("--python", type=Path, help="of the peers' environment (default: that of `install`)")
        elif name == "score":
            command.add_argument("--view", choices=["A", "B"], default="A")
            command.add_argument("--model", type=Path, help="folder of a trained model (default: train one)")
            command.add_argument("--name", default="longreel")
        elif name == "compare":
            command.add_argument("--base", default="longreel.A")
            command.add_argument("--report", type=Path, help="also write the rows as JSON")
    return parser


def main() -> None:
    """Parse the command line and run."""
    args = _parser().parse_args()
    out = args.out.absolute()
    if args.command == "install":
        install(out)
    elif args.command == "fit":
        python = args.python or out / "env" / "bin" / "python"
        options = ["--tune-day", str(args.tune_day), "--tasks", *args.tasks, "--seeds", *map(str, args.seeds)]
        for peer in args.peers:
            for view in args.views:
                fit(out, peer, view, options, args.day, python.absolute())
    elif args.command == "compare":
        from benchmarks.peers.compare import compare, markdown

        rows = compare(out, args.day, args.base)
        if args.report:
            args.report.write_text(json.dumps(rows, indent=1) + "\n")
        print(markdown(rows))
    else:
        from longreel.lake.home import Home

        home = Home(args.home.absolute())
        if args.command == "prepare":
            from benchmarks.peers.prepare import prepare

            prepare(home, out)
        else:
            from benchmarks.peers.score_longreel import score

            for seed in args.seeds:
                score(home, out, args.name, args.view, args.day, seed, args.model)


if __name__ == "__main__":
    run_main(main)
