"""Command `longreel model train`: a candidate from the days before DATE, logged to MLflow and registered as a version.

A candidate has one working folder, named by its training spec. A training that was killed resumes there from its last
checkpoint and in its MLflow run; one that is finished is not repeated.

`torchrun -m longreel model train ...` trains in several processes: rank 0 does all of this and sends the others what to
train.
"""

import argparse
import logging
import os
import shutil
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from longreel.components.training.spec import TRIGGERS, Candidate, training_spec
from longreel.contracts.dates import parse_day
from longreel.lake.home import Home

if TYPE_CHECKING:
    from longreel.model.training.distributed import DistContext

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model train`."""
    parser.add_argument(
        "--date", required=True, help="YYYY-MM-DD: the day to evaluate the candidate on; training does not read it"
    )
    parser.add_argument("--out", type=Path, help="also copy the trained model to this folder")
    parser.add_argument("--trigger", choices=TRIGGERS, default="manual", help="why it is trained; a tag of the run")
    parser.add_argument("--version-out", type=Path, help="write the registered version's number to this file")


def run(args: argparse.Namespace, home: Home) -> int:
    """Train and print the registered version."""
    day = parse_day(args.date)
    if "WORLD_SIZE" in os.environ:  # set by torchrun
        from longreel.components.training.logged_training import worker_train
        from longreel.model.training.device import select_device
        from longreel.model.training.distributed import init_process_group

        with init_process_group(select_device(home.config.training.device)) as ranks:
            if not ranks.is_main:
                worker_train(home, ranks)
                return 0
            candidate = train_candidate(home, day, trigger=args.trigger, out=args.out, ranks=ranks)
            ranks.broadcast(None)  # nothing more to train
    else:
        candidate = train_candidate(home, day, trigger=args.trigger, out=args.out)
    if args.version_out is not None:
        args.version_out.parent.mkdir(parents=True, exist_ok=True)
        args.version_out.write_text(str(candidate.version))
    name = f"longreel-{home.config.name}"
    print(f"{name} version {candidate.version}: digest {candidate.model_digest}, MLflow run {candidate.run_id}")
    print(f"next: longreel model evaluate --date {candidate.evaluation_day} --version {candidate.version}")
    return 0


def train_candidate(
    home: Home, day: date, *, trigger: str = "manual", out: Path | None = None, ranks: "DistContext | None" = None
) -> Candidate:
    """Train, log and register the candidate for `day`, or find it completed.

    Raises:
        DataNotReadyError: there are too few days of samples before `day`.
        LongreelError: with a warm start, the champion was trained on all of these days.
    """
    spec = training_spec(home, day)
    from longreel.components.registry.store import experiment_id, open_store
    from longreel.components.training.folder import file_lock, find_completed, remove_old_folders, write_record
    from longreel.components.training.logged_training import train_and_register

    folder, client = spec.folder(home), open_store(home)
    experiment_id(home, client)  # a deleted one is restored with its runs, of which one may be this candidate's
    with file_lock(folder):
        candidate = find_completed(home, spec, client)
        if candidate is None:
            folder.mkdir(exist_ok=True)
            remove_old_folders(home, client, folder)
            candidate = train_and_register(home, client, day, spec, trigger, ranks)
            write_record(home, spec, candidate)
        else:
            log.info("this candidate is trained already: version %d, run %s", candidate.version, candidate.run_id)
        if out is not None:
            shutil.copytree(folder / "model", out, dirs_exist_ok=True)
    return candidate
