"""The step `train`: a candidate from the days before DATE, logged to MLflow and registered as a version.

One candidate has one working folder, named by everything it is made from. A training that was killed goes on there
from its last checkpoint and in the MLflow run it began; one that is finished is not done again.

`torchrun -m longreel model train ...` trains in several processes: the first does all of this and tells the others what
to train, which they do with it and nothing else.
"""

import argparse
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreel.contracts.config import Config
from longreel.contracts.dates import parse_day
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import DataNotReadyError, LongreelError
from longreel.contracts.local_files import write_text_atomic
from longreel.contracts.serialization import read_json
from longreel.contracts.training_identity import training_identity
from longreel.lake.home import Home
from longreel.lake.manifest import Manifest

if TYPE_CHECKING:
    from longreel.components.registry.registry import Version
    from longreel.model.training.distributed import DistContext

TRIGGERS = ("freshness", "manual", "backfill", "correction")
KEPT_FINISHED = 4  # working folders of finished candidates
KEPT_UNFINISHED_S = 7 * 86_400  # a killed training that nobody has gone on with keeps its checkpoints for so long
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What training ended with."""

    version: int
    run_id: str
    model_digest: str
    evaluated_day: str
    train_first_day: str
    train_last_day: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a candidate is made from. Two with one `name` are the same candidate."""

    name: str
    manifests: list[Manifest]  # of the days it is trained on
    start: "Version | None"  # the champion it starts from; None: from scratch

    def folder(self, home: Home) -> Path:
        """Where the candidate is worked on."""
        return home.work / "train" / self.name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model train`."""
    parser.add_argument("--date", required=True, help="YYYY-MM-DD: the day the candidate will be judged on; not read")
    parser.add_argument("--out", type=Path, help="also copy the trained model to this folder")
    parser.add_argument("--trigger", choices=TRIGGERS, default="manual", help="why it is trained; a tag of the run")
    parser.add_argument("--version-out", type=Path, help="write the registered version's number to this file")


def run(args: argparse.Namespace, home: Home) -> int:
    """Train and say which version came of it."""
    day = parse_day(args.date)
    if "WORLD_SIZE" in os.environ:  # torchrun's
        from longreel.model.training.device import select_device
        from longreel.model.training.distributed import init_process_group

        with init_process_group(select_device(home.config.training.device)) as ranks:
            if not ranks.is_main:
                _train_along(home, ranks)
                return 0
            made = train_candidate(home, day, trigger=args.trigger, out=args.out, ranks=ranks)
            ranks.broadcast(None)  # nothing more to train
    else:
        made = train_candidate(home, day, trigger=args.trigger, out=args.out)
    if args.version_out is not None:
        args.version_out.parent.mkdir(parents=True, exist_ok=True)
        args.version_out.write_text(str(made.version))
    name = f"longreel-{home.config.name}"
    print(f"{name} version {made.version}: digest {made.model_digest}, MLflow run {made.run_id}")
    print(f"next: longreel model evaluate --date {made.evaluated_day} --version {made.version}")
    return 0


def training_days(published: list[date], day: date, config: Config) -> list[date]:
    """The days a candidate for `day` is trained on: the newest `training.window_days` published ones before it.

    Raises:
        DataNotReadyError: fewer than `retrain.min_train_days` are published.
    """
    before = sorted(d for d in published if d < day)
    if len(before) < config.retrain.min_train_days:
        have = f"{before[0]} .. {before[-1]} ({len(before)})" if before else "none"
        raise DataNotReadyError(
            f"training for {day} needs samples of at least {config.retrain.min_train_days} days before it, "
            f"published are {have}; build samples first (`longreel data build-samples`)"
        )
    return before[-config.training.window_days :]


def _train_along(home: Home, ranks: "DistContext") -> None:
    """Take part in what the first process trains, until it says that there is no more."""
    from longreel.model.training.train import train

    while (told := ranks.broadcast()) is not None:
        days, checkpoints, model, init_from = told
        train(
            home.config,
            home.lake,
            [date.fromisoformat(day) for day in days],
            Path(checkpoints),
            Path(model),
            init_from=None if init_from is None else Path(init_from),
        )


def train_candidate(
    home: Home, day: date, *, trigger: str = "manual", out: Path | None = None, ranks: "DistContext | None" = None
) -> Candidate:
    """Train, log and register the candidate for `day`, or find it done.

    Raises:
        DataNotReadyError: there are too few days of samples before `day`.
        LongreelError: a warm start was asked for and the champion has already seen `day`.
    """
    recipe = recipe_of(home, day)
    folder = recipe.folder(home)
    with _alone(folder):
        done = trained(home, recipe)
        if done is None:
            folder.mkdir(exist_ok=True)
            _sweep(home, folder)
            done = _train(home, day, recipe, trigger, ranks)
            _write(folder / "done.json", asdict(done))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        else:
            log.info("this candidate is trained already: version %d, run %s", done.version, done.run_id)
        if out is not None:
            shutil.copytree(folder / "model", out, dirs_exist_ok=True)
    return done


def recipe_of(home: Home, day: date) -> Recipe:
    """What the candidate for `day` is made from, as things are now.

    Raises:
        DataNotReadyError: there are too few days of samples before `day`.
        LongreelError: a warm start was asked for and the champion has already seen `day`.
    """
    config, lake = home.config, home.lake
    days = training_days(list(lake.days("samples")), day, config)
    start, days = _warm_start(home, config, day, days)
    manifests = [lake.require("samples", d) for d in days]
    data = {m.date: m.digest for m in manifests}
    identity = training_identity(config, data, None if start is None else start.model_digest)
    return Recipe(name=f"{day}-{identity}", manifests=manifests, start=start)


def _warm_start(home: Home, config: Config, day: date, days: list[date]) -> tuple["Version | None", list[date]]:
    """The champion to start from and the days it has not seen; from scratch on all days where there is none."""
    if not config.training.warm_start:
        return None, days
    from longreel.components.registry.ledger import Ledger

    champion = Ledger(home).champion()
    if champion is None:
        return None, days
    new = [d for d in days if d > champion.data_watermark]
    if not new:
        raise LongreelError(
            f"a warm start for {day} found no new day: the champion (version {champion.version}) was trained through "
            f"{champion.data_watermark}; take a later day, or set [training] warm_start = false"
        )
    return champion, new


@contextmanager
def _alone(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the working folder; a second training of the same candidate (say, one that outlived a killed scheduler) is
    waited for, after which its result is found done. Gives whether it is held; without `wait` it may not be."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:  # beside it: it stays when the folder is swept
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            log.warning("another process is training this candidate in %s; waiting for it to end", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield True


def trained(home: Home, recipe: Recipe) -> Candidate | None:
    """The candidate that an earlier call has made by this recipe, if the home and the registry still have it."""
    from longreel.components.registry import registry, tracking

    record = _read(recipe.folder(home) / "done.json")
    if record is None:
        return None
    done = Candidate(**record)
    known = registry.versions(tracking.open_store(home), registry.model_name(home.config))
    return done if any((v.version, v.model_digest) == (done.version, done.model_digest) for v in known) else None


def _train(home: Home, day: date, recipe: Recipe, trigger: str, ranks: "DistContext | None") -> Candidate:
    from longreel.components.registry import registry, tracking
    from longreel.components.reports.plots import PLOTS, training_windows
    from longreel.model.training.train import train

    config, manifests, start, folder = home.config, recipe.manifests, recipe.start, recipe.folder(home)
    client = tracking.open_store(home)
    first, last = manifests[0].date, manifests[-1].date
    tags = {
        "evaluated_day": str(day),
        "data_watermark": last,
        "train_first_day": first,
        "train_last_day": last,
        "train_days": str(len(manifests)),
        "samples_digest": digest_of({m.date: m.digest for m in manifests}),
        "config_digest": config.digest(),
        "git_sha": tracking.git_sha(),
        "trigger": trigger,
        "warm_start_from": "scratch" if start is None else f"version {start.version}",
        **tracking.airflow_run(),
    }
    name = f"{day} train {len(manifests)} days"
    with tracking.training_run(home, client, name=name, candidate=recipe.name) as run_id:
        source = {"mlflow.source.name": f"longreel model train --date {day}"}
        tracking.log_settings(client, run_id, config.to_dict(), tags | source)
        tracking.log_data(client, run_id, home.lake, manifests, "training")
        tracking.log_quality(client, run_id, home.lake, manifests)
        curves = tracking.TrainingCurves(client, run_id)
        days = [date.fromisoformat(m.date) for m in manifests]
        init_from = None if start is None else registry.fetch(client, registry.model_name(config), start)
        print(
            f"training on {first} .. {last} ({len(days)} days), to be judged on {day}; MLflow run {run_id}", flush=True
        )
        if ranks is not None:
            where = [str(folder / "checkpoints"), str(folder / "model"), None if init_from is None else str(init_from)]
            ranks.broadcast([[str(each) for each in days], *where])
        result = train(
            config, home.lake, days, folder / "checkpoints", folder / "model", init_from=init_from, on_step=curves
        )
        curves.flush()
        totals = ("steps", "targets", "history_tokens", "final_loss", "seconds")
        for total in totals:
            client.log_metric(run_id, f"train_total/{total}", float(getattr(result, total)))
        for table in result.collisions:
            for count in ("table_rows", "rows_used", "ids", "shared_ids", "shared_lookups"):
                client.log_metric(run_id, f"collisions/{table.feature}/{count}", float(getattr(table, count)))
        windows = training_windows(result.windows, config.training.window_means)
        client.log_figure(run_id, windows, f"{PLOTS}/training_windows.png")
        made = registry.register(
            home, client, result.model_dir, run_id=run_id, tasks=config.tasks, tags=tags | {"run_name": name}
        )
    return Candidate(
        version=made.version,
        run_id=run_id,
        model_digest=made.model_digest,
        evaluated_day=str(day),
        train_first_day=first,
        train_last_day=last,
    )


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    values: dict[str, Any] = read_json(path, f"remove {path.parent} and train again")
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    write_text_atomic(path, json.dumps(values, indent=1))


def _sweep(home: Home, current: Path) -> None:
    """End the runs of candidates that nobody trains any more, and remove working folders: of finished ones all but the
    newest, since MLflow has the models, and of unfinished ones those that were left alone for days. A folder that a
    process holds is left as it is."""
    from longreel.components.registry import tracking

    others = [path for path in current.parent.iterdir() if path.is_dir() and path != current]
    finished = sorted((path / "done.json" for path in others if (path / "done.json").is_file()), key=_touched)
    kept = {path.parent for path in finished[-KEPT_FINISHED:]}
    for other in others:
        with _alone(other, wait=False) as is_held:
            if not is_held or other in kept:
                continue
            if not (other / "done.json").is_file():
                tracking.end_abandoned(home, tracking.open_store(home), other.name)
                if time.time() - max(map(_touched, [other, *other.rglob("*")])) < KEPT_UNFINISHED_S:
                    continue
            shutil.rmtree(other, ignore_errors=True)


def _touched(path: Path) -> float:
    """When a path was last written to; 0 where it has gone meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
