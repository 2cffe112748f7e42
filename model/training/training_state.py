"""What lets a killed training go on exactly? Weights, optimiser moments and the reader's position, kept atomically.

<work_dir>/step-00000200/   weights.safetensors, optimizer.safetensors, state.json    the two newest are kept
"""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longreel.contracts.errors import LongreelError
from longreel.model.data.reader import Position
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import WEIGHTS, file_sha256, new_folder

log = logging.getLogger(__name__)

OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
KEEP = 2


@dataclass(kw_only=True)
class Progress:
    """Everything of a run besides its tensors. Randomness is a function of (seed, step), so no generator is kept."""

    step: int = 0
    position: Position = field(default_factory=Position)
    targets: int = 0
    history_tokens: int = 0
    seconds: float = 0.0  # spent training, over all processes that worked on the run
    curve: list[tuple[int, float]] = field(default_factory=list)  # (step, loss)


def save_state(work_dir: Path, fingerprint: str, progress: Progress, ranker: Ranker, state: dict[str, Tensor]) -> None:
    """Write a checkpoint whole, then drop all but the newest KEEP. `state`: named tensors besides the weights."""
    with new_folder(work_dir / f"step-{progress.step:08d}") as draft:
        for tensors, name in ((ranker.state_dict(), WEIGHTS), (state, OPTIMIZER)):
            save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, draft / name)
        digests = {name: file_sha256(draft / name) for name in (WEIGHTS, OPTIMIZER)}
        about = {"fingerprint": fingerprint, "sha256": digests, "progress": asdict(progress)}
        (draft / STATE).write_text(json.dumps(about))
    for old in sorted(work_dir.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    for stale in [*work_dir.glob(".new-*"), *work_dir.glob(".old-*")]:  # of a killed process; nobody else writes here
        shutil.rmtree(stale)


def _newest_first(work_dir: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    for folder in sorted(work_dir.glob("step-*"), reverse=True):
        try:
            state = json.loads((folder / STATE).read_text())
            whole = all(file_sha256(folder / name) == digest for name, digest in state["sha256"].items())
        except (OSError, ValueError, KeyError, AttributeError):
            whole = False
        if whole:
            yield folder, state
        else:
            log.warning("checkpoint %s is damaged; trying the one before it", folder)


def newest_checkpoint(work_dir: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint of this run, or None.

    Says so where the folder holds another run's checkpoints, and removes those.
    """
    for folder, about in _newest_first(work_dir):
        if about["fingerprint"] == fingerprint:
            return folder
        log.warning("%s holds a training of other data, settings or start; starting afresh", work_dir)
        break
    for folder in work_dir.glob("step-*"):
        shutil.rmtree(folder)
    return None


def load_state(folder: Path, ranker: Ranker) -> tuple[Progress, dict[str, Tensor]]:
    """Fill the ranker from a checkpoint; returns the progress and the tensors besides the weights.

    Raises:
        LongreelError: the checkpoint is of another version of the model.
    """
    try:
        ranker.load_state_dict(load_file(folder / WEIGHTS))
        state = load_file(folder / OPTIMIZER)
    except (SafetensorError, RuntimeError) as error:
        raise LongreelError(
            f"checkpoint {folder} does not fit this version of the model ({error}); remove it to start afresh"
        ) from error
    values = json.loads((folder / STATE).read_text())["progress"]
    values["position"] = Position(**values["position"])
    values["curve"] = [(int(step), float(loss)) for step, loss in values["curve"]]
    log.info("going on from step %d of %s", values["step"], folder)
    return Progress(**values), state
