"""Command `longreel model reproduce`: trains a finished MLflow run again from its model's metadata and compares.

The metadata also say what the bits depend on besides data, settings and code (model/training/numerics.py). The number
of threads and the kind of device are set as they were. What cannot be set is named before the training begins.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longreel.contracts.config import Config, ModelConfig, TrainingConfig
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home
from longreel.lake.table import Lake

if TYPE_CHECKING:
    from longreel.model.nn.ranker import Ranker
    from longreel.model.training.numerics import Numerics

DIFFERS = 1  # exit code
EXPECTED = (
    "sums are added in another order, which changes their last digits in every step; another device also rounds "
    "differently. Compare both models with `longreel model evaluate`, or reproduce the run where it was trained"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The run's model and the one trained again. `lines` list the differences; without any, the weights are bitwise
    equal, and so are steps, targets and tokens."""

    run_id: str
    original: str  # model digest
    reproduced: str
    tensors: int
    lines: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command-line options of `longreel model reproduce`."""
    parser.add_argument(
        "run_id",
        metavar="RUN_ID",
        help="MLflow run of a candidate: on its page, its run card and in reports/DATE/summary.json",
    )
    parser.add_argument("--out", type=Path, help="keep the model trained again in this folder")


def run(args: argparse.Namespace, home: Home) -> int:
    """Train again and print the comparison."""
    comparison = reproduce(home, args.run_id, args.out)
    for line in comparison.lines:
        print(f"differs: {line}")
    if comparison.lines:
        return DIFFERS
    print(f"reproduced: all {comparison.tensors} tensors of the model of run {comparison.run_id} are bitwise equal")
    return 0


def reproduce(home: Home, run_id: str, out: Path | None = None) -> Comparison:
    """Train a run's model again with the days, log schema, settings, seed, start and threads of the model's metadata.

    An interrupted call continues from its checkpoint, in `work/reproduce/RUN_ID` of the home.

    Raises:
        LongreelError: the run registered no model, its data or its start were changed or removed, or its settings
            are of another version of the code.
    """
    from longreel.components.registry import store, tracking, versions
    from longreel.components.training.folder import file_lock
    from longreel.model.training.checkpoint import load_model
    from longreel.model.training.numerics import Numerics, intra_op_threads
    from longreel.model.training.train import train

    client, name = store.open_store(home), versions.model_name(home.config)
    registered = versions.list_versions(client, name)
    version = next((v for v in registered if v.run_id == run_id), None)
    if version is None:
        have = ", ".join(f"{v.run_id} (version {v.version})" for v in registered[-5:]) or "none"
        raise LongreelError(f"no registered model of {name} comes from run {run_id}; the newest are {have}")
    original = versions.download(client, name, version)
    ranker, meta = load_model(original)
    days = _same_days(home, meta["days"])
    start = None
    if meta.get("init_digest"):
        origin = next((v for v in registered if v.model_digest == meta["init_digest"]), None)
        if origin is None:
            raise LongreelError(f"run {run_id} started from the model {meta['init_digest']}, which is not registered")
        start = versions.download(client, name, origin)
    numerics = [Numerics(**values) for values in meta["numerics"]]
    settings = _settings(meta["training"], run_id)
    if numerics[-1].device == "cpu":
        settings = replace(settings, device="cpu")
    config = _config(home, ranker, settings, days[-1])
    changes = _numeric_changes(numerics, settings.device)
    for change in changes:
        print(f"cannot be set as in run {run_id}: {change}", file=sys.stderr)
    if changes:
        print(f"expect other weights: {EXPECTED}", file=sys.stderr)
    lake = Lake(home.lake.root, config.log_schema)
    print(f"training run {run_id} again: {days[0]} .. {days[-1]} ({len(days)} days), seed {config.training.seed}")
    folder = home.work / "reproduce" / run_id
    threads = numerics[-1].threads if numerics[-1].device == "cpu" else None
    with file_lock(folder), intra_op_threads(threads):
        result = train(config, lake, days, folder / "checkpoints", out or folder / "model", init_from=start)
        differences = list(_differences(original, result.model_dir))
        shutil.rmtree(folder)
    return Comparison(
        run_id=run_id,
        original=version.model_digest,
        reproduced=result.model_digest,
        tensors=len(ranker.state_dict()),
        lines=(*(_origin(version.tags, tracking.git_sha()) if differences else ()), *changes, *differences)
        if differences
        else (),
    )


def _same_days(home: Home, recorded: dict[str, str]) -> list[date]:
    """The run's training days, if their samples are unchanged."""
    days = [date.fromisoformat(day) for day in recorded]
    changed = [
        f"{day} (was {digest}, is {present})"
        for day, digest in zip(days, recorded.values(), strict=True)
        if (present := home.lake.require("samples", day).digest) != digest
    ]
    if changed:
        raise LongreelError(
            f"the samples have changed, so the model would differ: {', '.join(changed)}; restore those days"
        )
    return days


def _config(home: Home, ranker: "Ranker", training: TrainingConfig, day: date) -> Config:
    """The run's configuration: its model's, with the [source] and [samples] that its days were built with."""
    schema, definitions = ranker.log_schema, home.lake.require("samples", day).details.get("definitions", {})
    samples = {name: value for name, value in definitions.get("samples", {}).items() if value is not None}
    source: dict[str, Any] = {"outcome_hours": max(label.within_ms for label in schema.labels) / 3_600_000}
    return replace(
        home.config,
        tasks=ranker.tasks,
        log_schema=schema,
        source=replace(home.config.source, **source, **definitions.get("source", {})),
        samples=replace(home.config.samples, **samples),
        model=ranker.config,
        training=training,
    )


def _settings(recorded: dict[str, Any], run_id: str) -> TrainingConfig:
    try:
        return TrainingConfig(**recorded)
    except TypeError as error:
        raise LongreelError(
            f"run {run_id} has settings that are unknown here ({error}); use the code of the run"
        ) from error


def _numeric_changes(recorded: "list[Numerics]", device: str) -> list[str]:
    """What the bits depend on and this process cannot set as it was."""
    from longreel.model.training.device import select_device
    from longreel.model.training.numerics import Numerics

    now = Numerics.of_process(select_device(device), int(os.environ.get("WORLD_SIZE", "1")))
    resumed = [f"resumed with {change}" for a, b in pairwise(recorded) for change in a.changes(b)]
    return resumed + recorded[-1].changes(replace(now, threads=recorded[-1].threads))


def _origin(tags: Any, here: str) -> Iterator[str]:
    """Differences of the code."""
    if tags.get("git_sha", here) != here:
        yield f"code, the run's was {tags['git_sha']}, this is {here}"


def _differences(original: Path, reproduced: Path) -> Iterator[str]:
    """Differences of two models, without settings that do not affect training."""
    from longreel.model.training.checkpoint import load_model

    (before, old_meta), (after, new_meta) = load_model(original), load_model(reproduced)
    for name in ("steps", "targets", "history_tokens", "days", "init_digest"):
        if old_meta.get(name) != new_meta.get(name):
            yield f"{name}, {old_meta.get(name)} then and {new_meta.get(name)} now"
    if before.config != after.config:
        yield f"model sizes, {ModelConfig.__name__} {before.config} then and {after.config} now"
        return
    old, new = before.state_dict(), after.state_dict()
    gaps = {name: float((old[name].float() - new[name].float()).abs().max()) for name in old if old[name].numel()}
    apart = {name: gap for name, gap in gaps.items() if gap != 0}
    if apart:
        worst = max(apart, key=lambda name: apart[name])
        yield f"{len(apart)} of {len(gaps)} tensors, by at most {apart[worst]:.3g} (in {worst})"
