"""Identity of a training: tasks, log schema, settings, data and start that its result depends on."""

from collections.abc import Mapping
from dataclasses import asdict

from longreel.contracts.config import Config
from longreel.contracts.digests import digest_of

# Settings of [training] that say how a training runs, not what comes of it. `window_days` chooses the days, which count
# by their own digests.
RESULT_NEUTRAL = frozenset({"window_days", "checkpoint_every", "compile", "cuda_graphs", "activation_checkpointing"})


def training_identity(config: Config, data: Mapping[str, str], start_digest: str | None) -> str:
    """16 hex digits that two trainings share if they train the same model: no second one is needed, and either resumes
    from the other's checkpoint.

    Args:
        data: the digest of each training day's samples, by the day.
        start_digest: digest of the model that training starts from; None: from scratch.
    """
    settings = {name: value for name, value in asdict(config.training).items() if name not in RESULT_NEUTRAL}
    parts = {
        "tasks": config.tasks,
        "log_schema": config.log_schema.digest(),
        "model": asdict(config.model),
        "training": settings,
        "data": dict(data),
        "start": start_digest,
    }
    return digest_of(parts)
