"""`longreel STEP`: finds the module that holds a step and calls it. Imports a step's libraries only when it runs.

A step module has `add_arguments(parser)` and `run(args, home)`; `run` raises LongreelError for what a user can mend.
"""

import argparse
import importlib
import logging
import sys

from longreel.contracts.errors import LongreelError, from_os_error
from longreel.lake.home import Home

# step -> (module, what it does)
STEPS: dict[str, tuple[str, str]] = {
    "init": ("longreel.init", "write a home folder's configuration from a preset"),
    "simulate": ("longreel.spark_jobs.simulate", "write days of a simulated raw log"),
    "arrived": ("longreel.spark_jobs.check_arrival", "is a raw log day there? (exit 3: not yet)"),
    "ingest": ("longreel.spark_jobs.ingest", "raw log day -> validated events, quarantine and users partitions"),
    "import-history": ("longreel.spark_jobs.import_history", "an archive of older events -> the first history base"),
    "build-samples": ("longreel.spark_jobs.build_samples", "events and history -> request-level user-day samples"),
    "outdated": (
        "longreel.spark_jobs.stale",
        "which days would be built anew, their raw log or inputs having changed?",
    ),
    "forget": ("longreel.spark_jobs.forget", "remove users from every partition, and keep them out"),
    "train": ("longreel.components.train", "train a ranker on the days before DATE, logged to MLflow"),
    "evaluate": ("longreel.components.evaluate", "judge a model on DATE over the window ladder"),
    "decide": ("longreel.components.decide", "candidate and champion reports -> promote, hold or reject"),
    "promote": ("longreel.components.promote", "move the champion alias and write the ledger"),
    "rollback": ("longreel.components.rollback", "give the champion alias back to an earlier version"),
    "history": ("longreel.components.promotions", "who made which version the champion, when and why"),
    "reproduce": ("longreel.components.reproduce", "train a finished MLflow run again and say what differs"),
    "score": ("longreel.components.score", "score a request table with a registered model"),
    "due": (
        "longreel.components.should_retrain",
        "does the freshness policy ask for a training on DATE? (exit 99: no)",
    ),
    "retrain": ("longreel.components.retrain", "train, evaluate, decide and promote as one KFP pipeline run"),
    "status": ("longreel.components.status", "partitions, freshness, champion, last decisions"),
    "run": ("longreel.run", "the whole pipeline on one machine under a real Airflow"),
    "ui": ("longreel.ui", "open Airflow and MLflow on 127.0.0.1"),
}

EXIT_CODES = """exit codes:
  0    done
  1    a day failed (run), a line is red (status --check), the model differs (reproduce); or a crash, with its traceback
  2    a mistake to mend; the last line says what was expected, what came and what to do
  3    data are not there yet
  4    a quality checkpoint stopped the day
  5    a server, a disk or another process was in the way: try again
  99   nothing to do, or not due (due, outdated, promote --dry-run)
  130  interrupted
  143  told to end; train has saved, and the same command goes on"""


def parser_for(step: str | None) -> argparse.ArgumentParser:
    """The parser of one step, or of the program where no step is named."""
    if step is None:
        listing = "\n".join(f"  {name:14} {purpose}" for name, (_, purpose) in STEPS.items())
        return argparse.ArgumentParser(
            prog="longreel",
            usage="longreel STEP [options]",
            description="Long-history recommendation training, day by day.",
            epilog=f"steps (longreel STEP --help says more):\n{listing}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    parser = argparse.ArgumentParser(prog=f"longreel {step}", description=STEPS[step][1])
    parser.add_argument("--home", help="folder that holds longreel.toml (default: $LONGREEL_HOME, .longreel/simulated)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one step; returns the code: 0 done, 2 a mistake to mend, 3 data not there yet, 4 quality, 5 try again."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        parser_for(None).print_help()
        return 0 if words else 2
    step, rest = words[0], words[1:]
    if step not in STEPS:
        print(f"longreel: unknown step {step!r}; expected one of {', '.join(STEPS)}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    module = importlib.import_module(STEPS[step][0])
    parser = parser_for(step)
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    try:
        return int(module.run(args, Home.locate(args.home)) or 0)
    except LongreelError as error:
        print(f"longreel {step}: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if (told := from_os_error(error)) is None:
            raise
        print(f"longreel {step}: error: {told}", file=sys.stderr)
        return told.exit_code
    except KeyboardInterrupt:
        print(f"longreel {step}: interrupted; the same command goes on, or begins again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
