"""The step `reproduce`: train a finished MLflow run again from what its model says of itself, and say what differs."""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from longreel.contracts.config import ModelConfig, TrainingConfig
from longreel.contracts.errors import LongreelError
from longreel.lake.home import Home

DIFFERS = 1  # exit code


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The run's model and the one trained again. `lines` say what is not the same; none: the weights are equal bit by
    bit, and so are the steps, targets and tokens that they come from."""

    run_id: str
    was: str  # model digest
    again: str
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
    made = reproduce(home, args.run_id, args.out)
    for line in made.lines:
        print(f"differs: {line}")
    if made.lines:
        return DIFFERS
    print(f"reproduced: all {made.tensors} tensors of the model of run {made.run_id} are equal bit by bit")
    return 0


def reproduce(home: Home, run_id: str, out: Path | None = None) -> Comparison:
    """Train a run's model again: its days, settings, seed and start, as the model's own description has them.

    Raises:
        LongreelError: the run registered no model, its data or its start are not there any more as they were, or its
            settings are those of another version of the code.
    """
    from longreel.components.registry import store, tracking, versions
    from longreel.model.training.checkpoint import load_model
    from longreel.model.training.train import train

    client, name = store.open_store(home), versions.model_name(home.config)
    known = versions.list_versions(client, name)
    version = next((v for v in known if v.run_id == run_id), None)
    if version is None:
        have = ", ".join(f"{v.run_id} (version {v.version})" for v in known[-5:]) or "none"
        raise LongreelError(f"no registered model of {name} comes from run {run_id}; the newest are {have}")
    was = versions.download(client, name, version)
    ranker, meta = load_model(was)
    days = _same_days(home, meta["days"])
    start = None
    if meta.get("init_digest"):
        origin = next((v for v in known if v.model_digest == meta["init_digest"]), None)
        if origin is None:
            raise LongreelError(f"run {run_id} started from the model {meta['init_digest']}, which is not registered")
        start = versions.download(client, name, origin)
    config = replace(home.config, tasks=ranker.tasks, model=ranker.config, training=_settings(meta["training"], run_id))
    print(f"training run {run_id} again: {days[0]} .. {days[-1]} ({len(days)} days), seed {config.training.seed}")
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, home.lake, days, Path(folder) / "work", out or Path(folder) / "model", init_from=start)
        found = list(_differences(was, result.model_dir))
    return Comparison(
        run_id=run_id,
        was=version.model_digest,
        again=result.model_digest,
        tensors=len(ranker.state_dict()),
        lines=(*(_origin(version.tags, tracking.git_sha()) if found else ()), *found),
    )


def _same_days(home: Home, recorded: dict[str, str]) -> list[date]:
    """The days that the run was trained on, if they still hold what they held."""
    days = [date.fromisoformat(day) for day in recorded]
    changed = [
        f"{day} (was {digest}, is {found})"
        for day, digest in zip(days, recorded.values(), strict=True)
        if (found := home.lake.require("samples", day).digest) != digest
    ]
    if changed:
        raise LongreelError(f"other samples give another model: {', '.join(changed)}; rebuild those days as they were")
    return days


def _settings(recorded: dict[str, Any], run_id: str) -> TrainingConfig:
    try:
        return TrainingConfig(**recorded)
    except TypeError as error:
        raise LongreelError(
            f"run {run_id} has settings that this code does not know ({error}); use its code"
        ) from error


def _origin(tags: Any, here: str) -> Iterator[str]:
    """Why weights may differ at all."""
    if tags.get("git_sha", here) != here:
        yield f"code, the run's was {tags['git_sha']}, this is {here}"


def _differences(was: Path, again: Path) -> Iterator[str]:
    """What two models do not have in common, beside the configuration of what does not train."""
    from longreel.model.training.checkpoint import load_model

    (ours, about), (theirs, told) = load_model(was), load_model(again)
    for name in ("steps", "targets", "history_tokens", "days", "init_digest"):
        if about.get(name) != told.get(name):
            yield f"{name}, {about.get(name)} then and {told.get(name)} now"
    if ours.config != theirs.config:
        yield f"model sizes, {ModelConfig.__name__} {ours.config} then and {theirs.config} now"
        return
    before, now = ours.state_dict(), theirs.state_dict()
    gaps = {
        name: float((before[name].float() - now[name].float()).abs().max()) for name in before if before[name].numel()
    }
    apart = {name: gap for name, gap in gaps.items() if gap != 0}
    if apart:
        worst = max(apart, key=lambda name: apart[name])
        yield f"{len(apart)} of {len(gaps)} tensors, by at most {apart[worst]:.3g} (in {worst})"
