"""Training checkpoints for exact resume: weights, optimiser state and reader state, written atomically.

<work_dir>/step-00000200/   weights.safetensors, optimizer.safetensors, state.json    the two newest are kept

state.json has the digests of the other two and of itself. A checkpoint that differs is left out with a warning.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.contracts.serialization import parse_json
from longreel.model.data.reader import RankBatch, ReaderState
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import WEIGHTS, file_sha256, new_folder

log = logging.getLogger(__name__)

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
KEEP = 2


@dataclass(kw_only=True)
class TrainingState:
    """A run's state besides its tensors. Randomness is a function of (seed, step), so no generator state is kept."""

    step: int = 0
    reader_state: ReaderState = field(default_factory=ReaderState)
    targets: int = 0
    history_tokens: int = 0
    seconds: float = 0.0  # of training, summed over the processes that continued each other
    curve: list[tuple[int, float]] = field(default_factory=list)  # (step, loss)
    numerics: list[dict[str, Any]] = field(default_factory=list)  # of its processes, where they changed (numerics.py)

    def advance(self, batch: RankBatch) -> None:
        """Count a step on a batch."""
        self.step, self.reader_state = self.step + 1, batch.next_state
        self.targets += batch.num_targets
        self.history_tokens += batch.num_events


def save_state(
    work_dir: Path, fingerprint: str, state: TrainingState, ranker: Ranker, tensors: dict[str, Tensor]
) -> None:
    """Write a checkpoint whole, then drop all but the newest KEEP. `tensors`: those besides the weights, by name."""
    with new_folder(work_dir / f"step-{state.step:08d}") as draft:
        for named, name in ((ranker.state_dict(), WEIGHTS), (tensors, OPTIMIZER)):
            save_file({key: t.detach().cpu().contiguous() for key, t in named.items()}, draft / name)
        digests = {name: file_sha256(draft / name) for name in (WEIGHTS, OPTIMIZER)}
        content = {"fingerprint": fingerprint, "sha256": digests, "state": asdict(state)}
        (draft / STATE).write_text(json.dumps(content | {"digest": digest_of(content)}))
    for old in sorted(work_dir.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    for stale in [*work_dir.glob(".new-*"), *work_dir.glob(".old-*")]:  # of a killed process; no other one writes here
        shutil.rmtree(stale)


def _newest_first(work_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in sorted(work_dir.glob("step-*"), reverse=True):
        try:
            yield folder, _content(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("checkpoint %s was changed or damaged (%s); trying the one before it", folder, error)


def _content(folder: Path) -> dict[str, Any]:
    """What a checkpoint's state.json holds, if all its files are those that were saved; an error otherwise."""
    content: dict[str, Any] = parse_json((folder / STATE).read_text())
    if digest_of({name: value for name, value in content.items() if name != "digest"}) != content["digest"]:
        raise ValueError(f"{STATE} does not have its digest")
    for name in (WEIGHTS, OPTIMIZER):
        if file_sha256(folder / name) != content["sha256"][name]:
            raise ValueError(f"{name} does not have its digest")
    return content


def newest_checkpoint(work_dir: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint of this run, or None. Damaged ones and another run's are removed, with a warning."""
    for folder, content in _newest_first(work_dir):
        if content["fingerprint"] == fingerprint:
            return folder
        log.warning("%s holds a training of other data, settings or initial model; starting afresh", work_dir)
        break
    else:
        if any(work_dir.glob("step-*")):
            log.warning("%s holds no whole checkpoint; training starts from its first step", work_dir)
    for folder in work_dir.glob("step-*"):
        shutil.rmtree(folder)
    return None


def load_state(folder: Path, ranker: Ranker) -> tuple[TrainingState, dict[str, Tensor]]:
    """Load the ranker's weights from a checkpoint; returns the state and the tensors besides the weights.

    Raises:
        LongreelError: the checkpoint is of another version of the model.
    """
    try:
        ranker.load_state_dict(load_file(folder / WEIGHTS))
        tensors = load_file(folder / OPTIMIZER)
    except (SafetensorError, RuntimeError) as error:
        raise LongreelError(
            f"checkpoint {folder} does not fit this version of the model ({error}); remove it to start afresh"
        ) from error
    values = parse_json((folder / STATE).read_text())["state"]
    values["reader_state"] = ReaderState(**values["reader_state"])
    values["curve"] = [(int(step), float(loss)) for step, loss in values["curve"]]
    log.info("resuming from step %d of %s", values["step"], folder)
    return TrainingState(**values), tensors
