"""Working folders of trainings: lock, record of the finished candidate, and clean-up."""

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient

from longreel.components.registry import tracking, versions
from longreel.components.registry.store import open_store
from longreel.components.training.spec import Candidate, TrainingSpec
from longreel.contracts.errors import LongreelError
from longreel.contracts.local_files import write_text_atomic
from longreel.contracts.serialization import read_json
from longreel.lake.home import Home

RECORD = "done.json"
KEPT_FINISHED = 4  # working folders of finished candidates
KEPT_UNFINISHED_S = 7 * 86_400  # checkpoints of a killed training are kept this long after the last write
log = logging.getLogger(__name__)


@contextmanager
def file_lock(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a working folder; yields whether the lock is held, which without `wait` it may not be.

    With `wait`, a second training of the same candidate waits for the first, for example for one that outlived a
    killed scheduler, and then finds its result.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:  # beside the folder: it survives its removal
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            log.warning("another process is training this candidate in %s; waiting for it to end", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield True


def find_completed(home: Home, spec: TrainingSpec, client: MlflowClient | None = None) -> Candidate | None:
    """The candidate that an earlier call has trained by this spec, if MLflow still has its version and its run.

    Raises:
        LongreelError: its record is damaged.
    """
    path = spec.folder(home) / RECORD
    if not path.is_file():
        return None
    remedy = f"remove {path.parent} and train again"
    values = read_json(path, remedy)
    try:
        candidate = Candidate(**values)
    except TypeError as error:
        raise LongreelError(f"{path} is damaged ({error}); {remedy}") from error
    client = client or open_store(home)
    registered = versions.list_versions(client, versions.model_name(home.config))
    key = (candidate.version, candidate.model_digest)
    is_registered = any((v.version, v.model_digest) == key for v in registered)
    return candidate if is_registered and tracking.has_run(client, candidate.run_id) else None


def write_record(home: Home, spec: TrainingSpec, candidate: Candidate) -> None:
    """Record the finished candidate and remove its checkpoints."""
    folder = spec.folder(home)
    write_text_atomic(folder / RECORD, json.dumps(asdict(candidate), indent=1))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def remove_old_folders(home: Home, client: MlflowClient, current: Path) -> None:
    """End the MLflow runs of trainings that no process continues, and remove old working folders.

    The newest finished ones stay (MLflow has all models), and unfinished ones for KEPT_UNFINISHED_S. A folder that a
    process has locked stays.
    """
    others = [path for path in current.parent.iterdir() if path.is_dir() and path != current]
    finished = sorted((path / RECORD for path in others if (path / RECORD).is_file()), key=_modified_at)
    kept = {path.parent for path in finished[-KEPT_FINISHED:]}
    for other in others:
        with file_lock(other, wait=False) as is_locked:
            if not is_locked or other in kept:
                continue
            if not (other / RECORD).is_file():
                tracking.end_orphaned_runs(home, client, other.name)
                if time.time() - max(map(_modified_at, [other, *other.rglob("*")])) < KEPT_UNFINISHED_S:
                    continue
            shutil.rmtree(other, ignore_errors=True)


def _modified_at(path: Path) -> float:
    """Modification time; 0 if the path was removed meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
