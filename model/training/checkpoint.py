"""Model folders: weights as safetensors, everything else as JSON, one content digest over both.

Nothing is pickled. A folder appears whole: it is written under another name in the same place, then renamed.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from longreel.contracts.config import ModelConfig
from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.contracts.log_schema import LogSchema
from longreel.contracts.serialization import parse_json
from longreel.model.data.encodings import Encodings
from longreel.model.nn.ranker import Ranker

WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"
CONFIG = "config.json"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `final` when the block ends without an error, replacing what was there.

    A process killed inside leaves `final` as it was, and next to it a `.new-*` folder that may be deleted.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".new-{final.name}-", dir=final.parent))
    try:
        draft.chmod(0o755)  # mkdtemp's 0700 would lock out a server that reads the model as another user
        yield draft
        for path in [*draft.iterdir(), draft]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        if final.exists():
            old = Path(tempfile.mkdtemp(prefix=f".old-{final.name}-", dir=final.parent))
            final.rename(old / final.name)
            draft.rename(final)
            shutil.rmtree(old)
        else:
            draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def save_model(
    folder: Path, ranker: Ranker, meta: dict[str, Any], golden: Mapping[str, torch.Tensor] | None = None
) -> str:
    """Write a model folder; returns its digest, of weights and description.

    Args:
        meta: JSON: data_watermark, digests, training_mean_window ...
        golden: requests with the ranker's logits (model/training/golden.py), to check the saved model against. Logits
            may differ between runs with equal weights, so `config.json` has their digest beside the model's.
    """
    with new_folder(folder) as draft:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in ranker.state_dict().items()}
        save_file(weights, draft / WEIGHTS)
        if golden is not None:
            save_file({name: values.contiguous() for name, values in golden.items()}, draft / GOLDEN)
        description = {
            "model": dataclasses.asdict(ranker.config),
            "tasks": list(ranker.tasks),
            "log_schema": ranker.log_schema.to_dict(),
            "encodings": ranker.encodings.to_dict(),
            "meta": meta,
            "weights_sha256": file_sha256(draft / WEIGHTS),
        }
        digest = digest_of(description)
        digests = {"digest": digest, "golden_sha256": None if golden is None else file_sha256(draft / GOLDEN)}
        (draft / CONFIG).write_text(json.dumps(description | digests, indent=1))
    return digest


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise LongreelError(f"no model in {folder}: expected {CONFIG} and {WEIGHTS}; train one first")
    try:
        description: dict[str, Any] = parse_json(path.read_text())
        recorded, golden_sha256 = description.pop("digest"), description.pop("golden_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LongreelError(f"{path} is not a model description ({error}); train the model again") from error
    if digest_of(description) != recorded:
        raise LongreelError(f"{path} was changed after it was saved: its digest is not {recorded}; restore or retrain")
    return description | {"digest": recorded, "golden_sha256": golden_sha256}


def model_digest(folder: Path) -> str:
    """The content digest of a model folder: 16 hex digits over the weights and their description.

    Raises:
        LongreelError: no model there, or its weights or description are not what was saved.
    """
    description = _read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file() or file_sha256(weights) != description["weights_sha256"]:
        raise LongreelError(f"{weights} is not the file that was saved with its {CONFIG}; restore or retrain")
    return str(description["digest"])


def golden_file(folder: Path) -> Path | None:
    """The file of golden requests of a model folder; None where it was saved without.

    Raises:
        LongreelError: it is not the file that was saved; or as `model_digest`.
    """
    recorded, path = _read_config(folder)["golden_sha256"], folder / GOLDEN
    if recorded is None and not path.exists():
        return None
    if not path.is_file() or file_sha256(path) != recorded:
        raise LongreelError(f"{path} is not the file that was saved with its {CONFIG}; restore it, or train again")
    return path


def load_log_schema(folder: Path) -> LogSchema:
    """The log schema that a saved model was trained on; see `model_digest` for errors."""
    return LogSchema.from_dict(_read_config(folder)["log_schema"])


def load_encodings(folder: Path) -> Encodings:
    """What the training of a saved model learned of its log; see `model_digest` for errors."""
    return Encodings.from_dict(_read_config(folder)["encodings"])


def load_model(folder: Path, device: torch.device | str = "cpu") -> tuple[Ranker, dict[str, Any]]:
    """A saved ranker in evaluation mode, with its log schema and encodings, and its meta.

    Raises:
        LongreelError: as `model_digest`, or the description is of another version of the model.
    """
    model_digest(folder)
    description = _read_config(folder)
    try:
        ranker = Ranker(
            ModelConfig(**description["model"]),
            description["tasks"],
            LogSchema.from_dict(description["log_schema"]),
            Encodings.from_dict(description["encodings"]),
        )
        ranker.load_state_dict(load_file(folder / WEIGHTS))
    except (TypeError, KeyError, RuntimeError, SafetensorError, LongreelError) as error:
        raise LongreelError(f"{folder} does not fit this version of the model ({error}); train it again") from error
    return ranker.to(device).eval(), description["meta"]
